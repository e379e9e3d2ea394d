"""A reward model: a transformer's trunk with scalar heads, trained on pairs (Stiennon et al. 2020, §3.4).

Shape suffixes: B sequences, T tokens, D model width, M scores of an ensemble (members times heads).
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.model.config import config_from_dict
from components.model.skeleton import filled, skeleton
from components.model.transformer import Hidden, Transformer
from components.native.fuse import fuse
from components.rlhf.pairs import TokenPair
from components.rlhf.rollouts import pad_right, passes, seeded
from components.training.balance import balanced_over
from components.training.checkpointing import checkpoint_blocks
from components.training.guard import Guard
from components.training.lora import adapters, attach_lora, sharing, start_copy
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor
from components.training.state import load_state_tensors, load_trained_tensors, state_tensors, trained_tensors

if TYPE_CHECKING:  # types alone: settings of its training stay out of the key of stages that only score with the model
    from components.rlhf.ppo_config import Combine
    from components.rlhf.reward_model_config import RewardModelConfig

WEIGHTS, CONFIG = "reward_model.safetensors", "reward_model.json"


class RewardModel(nn.Module):
    """reward = gain · mean over heads of (w·x + bias), where x is the trunk's hidden state of a token.

    Each head starts at N(0, 1/(D+1)) (Stiennon et al. 2020, code) and bias 0. `gain` is 1 until `calibrate`.
    """

    def __init__(self, trunk: Transformer, seed: int = 0, num_heads: int = 1) -> None:
        super().__init__()
        self.trunk = trunk
        d = trunk.cfg.d_model
        self.head = nn.Linear(d, num_heads)
        with torch.no_grad():
            self.head.weight.normal_(0.0, 1 / math.sqrt(d + 1), generator=torch.Generator().manual_seed(seed))
            self.head.bias.zero_()
        device = trunk.embedding.weight.device
        self.head.to(device)
        self.register_buffer("gain", torch.ones((), device=device))
        self.gain: Tensor

    @classmethod
    def from_policy(cls, policy: Transformer, seed: int = 0, num_heads: int = 1) -> RewardModel:
        """A reward model on a copy of a policy's trunk."""
        return cls(copy.deepcopy(policy), seed, num_heads)

    @classmethod
    def from_head(cls, trunk: Transformer, head_1D: Tensor) -> RewardModel:
        """A reward model with such a head and no bias, in eval mode; it takes the trunk as it is."""
        model = cls(trunk)
        model.head.weight.data.copy_(head_1D)
        return model.eval()

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """A reward [B, T] at every token: at a sequence's last one it is its score, before it a critic's start."""
        return self.rewards(tokens_BT)[0]

    def rewards(self, tokens_BT: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`forward`, and the routers' loss of a mixture of experts (0 for a dense trunk), over the tokens where
        `real_BT` is true (None: all)."""
        hidden = self.hidden(tokens_BT, real_BT)
        return (self.gain * self.head(hidden.x_BTD).mean(-1)).cpu(), hidden.auxiliary_loss().cpu()

    def hidden(self, tokens_BT: Tensor, real_BT: Tensor | None) -> Hidden:
        """The trunk's pass, where it is; what is computed from a number of each token is computed on the CPU."""
        device = self.trunk.embedding.weight.device
        return self.trunk.hidden(tokens_BT.to(device), real_BT=None if real_BT is None else real_BT.to(device))

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores [B] of right-padded sequences: the reward at the last real token. Padding has no effect."""
        return self.head_scores(tokens_BT, lengths_B)[0].mean(1)

    def read(self, tokens_BT: Tensor, lengths_B: Tensor) -> Hidden:
        """The pass of `head_scores`."""
        real_BT = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
        return self.hidden(tokens_BT, real_BT)

    def head_scores(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The score [B, M] of each head, and the routers' loss."""
        hidden = self.read(tokens_BT, lengths_B)
        last_BD = hidden.x_BTD[torch.arange(len(lengths_B)), lengths_B - 1]
        return (self.gain * self.head(last_BD)).cpu(), hidden.auxiliary_loss().cpu()


@dataclass(frozen=True)
class Ensemble:
    """Several reward models, each with its heads (Coste et al. 2023, arXiv 2310.02743). One alone is one too."""

    members: tuple[RewardModel, ...]

    def to(self, device: torch.device) -> Ensemble:
        """The same models, moved to a device."""
        for member in self.members:
            member.to(device)
        return self

    def scores(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """The score [B, M] of each head of each member."""
        return torch.cat([member.head_scores(tokens_BT, lengths_B)[0] for member in self.members], 1)

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Mean scores [B]."""
        return self.scores(tokens_BT, lengths_B).mean(1)


def combine_scores(scores_BM: Tensor, combine: Combine = "mean", variance_coef: float = 1.0) -> Tensor:
    """One score [B] per answer: the ensemble's mean, its worst case, or its mean minus `variance_coef` times its
    variance (Coste et al. 2023, eqs. 2 and 3)."""
    if combine == "worst":
        return scores_BM.amin(1)
    mean_B = scores_BM.mean(1)
    return mean_B if combine == "mean" else mean_B - variance_coef * scores_BM.var(1, correction=0)


# -- training ------------------------------------------------------------------------------------------------------


def pairwise_loss(
    chosen_BM: Tensor,
    rejected_BM: Tensor,
    margin_BM: Tensor | float = 0.0,
    centering_coef: float = 0.0,
    weights_BM: Tensor | float = 1.0,
) -> Tensor:
    """Bradley–Terry: weighted mean of −log σ(r_c − r_r − margin) + centering_coef · (r_c + r_r)². Any one shape."""
    loss_BM = -F.logsigmoid(chosen_BM - rejected_BM - margin_BM)
    return (weights_BM * (loss_BM + centering_coef * (chosen_BM + rejected_BM).square())).mean()


def bootstrap_weights(num_pairs: int, num_heads: int, seed: int) -> Tensor:
    """How often each head sees each pair, [pairs, heads]: Poisson(1), or once each for a single head."""
    if num_heads == 1:
        return torch.ones(num_pairs, 1)
    return torch.from_numpy(seeded(seed, 0xB005).poisson(1.0, (num_pairs, num_heads))).float()


def num_steps(num_pairs: int, config: RewardModelConfig) -> int:
    """Optimizer steps of one member's training."""
    return config.epochs * -(-num_pairs // config.batch_pairs)


@dataclass
class RewardState:
    """All that a step changes; `tensors` and `load_tensors` round-trip it bit for bit. `step` counts over all members,
    which learn one after the other; `optimizer` is that of the member at work."""

    members: list[RewardModel]
    optimizer: Optimizer
    step: int
    config: RewardModelConfig
    guard: Guard = field(default_factory=Guard)

    @classmethod
    def start(cls, policy: Transformer, config: RewardModelConfig, seed: int) -> RewardState:
        """Members on copies of the policy's trunk, or with LoRA on the trunk itself with adapters of their own; each
        with heads from its own seed."""
        members = []
        for member in range(config.num_members):
            trunk = start_copy(policy, config.lora, seed + member)
            members.append(RewardModel(trunk, seed + member, config.num_heads))
            if config.gradient_checkpointing:
                checkpoint_blocks(members[-1])
        return cls(members, Optimizer(members[0], config.optimizer), 0, config, Guard(config.non_finite))

    def tensors(self, num_pairs: int) -> dict[str, Tensor]:
        """The state as tensors, by name."""
        named = {"step": torch.tensor(self.step), **self.guard.tensors()}
        at_work = self.at_work(num_pairs)
        for index, member in enumerate(self.members):
            tensors = state_tensors(member, self.optimizer) if index == at_work else trained_tensors(member)
            named |= {f"{index}.{name}": value for name, value in tensors.items()}
        return named

    def load_tensors(self, tensors: Mapping[str, Tensor], num_pairs: int) -> None:
        """The inverse of `tensors`."""
        self.step = int(tensors["step"])
        self.guard.load_tensors(tensors)
        at_work = self.at_work(num_pairs)
        self.optimizer = Optimizer(self.members[at_work], self.config.optimizer)
        for index, member in enumerate(self.members):
            head = f"{index}."
            own = {name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)}
            if index == at_work:
                load_state_tensors(member, self.optimizer, own)
            else:
                load_trained_tensors(member, own)

    def at_work(self, num_pairs: int) -> int:
        """Which member the last step was of."""
        return max(0, self.step - 1) // num_steps(num_pairs, self.config)


def train_reward_model(state: RewardState, pairs: Sequence[TokenPair], seed: int) -> Iterator[dict[str, float]]:
    """Train the members in place, one after the other; yields metrics after each step, when `state` is fit to be saved.

    The batch of a step depends on (seed, step) alone. Raises ValueError without pairs.
    """
    if not pairs:
        raise ValueError("no pairs to train the reward model on")
    config = state.config
    per_epoch = -(-len(pairs) // config.batch_pairs)
    per_member = num_steps(len(pairs), config)
    while state.step < per_member * config.num_members:
        began = time.perf_counter()

        # 1. The member whose turn it is, and its pairs of this step with the weight that each head gives them.
        member, step = divmod(state.step, per_member)
        model = state.members[member].train()
        if step == 0:
            state.optimizer = Optimizer(model, config.optimizer)
            state.guard.begin_another()
        epoch, within = divmod(step, per_epoch)
        order = seeded(seed + member, 0x3E3A, epoch).permutation(len(pairs))
        rows = order[within * config.batch_pairs : (within + 1) * config.batch_pairs]
        batch = [pairs[i] for i in rows]
        weights_BM = bootstrap_weights(len(pairs), config.num_heads, seed + member)[torch.from_numpy(rows)]

        # 2. Scores of both answers in one pass, and the loss: its gradient adds up over the passes.
        num_tokens = sum(len(p.chosen) + len(p.rejected) for p in batch)
        loss, found = torch.zeros(()), []
        micros = []
        for micro in passes(torch.arange(len(batch)), config.micro_batch_size):
            some = [batch[i] for i in micro.tolist()]
            micros.append((micro, some, *pad_right([p.chosen for p in some] + [p.rejected for p in some])))
        with balanced_over(model, [partial(model.read, tokens_BT, lengths_B) for _, _, tokens_BT, lengths_B in micros]):
            for micro, some, tokens_BT, lengths_B in micros:
                scores_BM, auxiliary_loss = model.head_scores(tokens_BT, lengths_B)
                chosen_BM, rejected_BM = scores_BM.chunk(2)
                margin_B1 = config.margin_coef * torch.tensor([[p.margin] for p in some])
                part = pairwise_loss(chosen_BM, rejected_BM, margin_B1, config.centering_coef, weights_BM[micro])
                part = part * (len(some) / len(batch))
                (part + auxiliary_loss * (int(lengths_B.sum()) / num_tokens)).backward()
                loss = loss + part.detach()
                found.append((chosen_BM.detach(), rejected_BM.detach()))
        chosen_BM, rejected_BM = map(torch.cat, zip(*found, strict=True))
        scores_BM = torch.cat([chosen_BM, rejected_BM])

        # 3. A step, where the loss is finite.
        grad_norm = clip_gradients(state.optimizer.params, config.max_grad_norm)
        factor = lr_factor(config.schedule, step, per_member) * state.guard.rate
        update = state.guard.update(state.step, factor, float(loss), grad_norm, (model, state.optimizer))
        state.step += 1
        model.eval()
        chosen_B, rejected_B, scores_B = (x.mean(1) for x in (chosen_BM, rejected_BM, scores_BM))
        yield {
            "step": state.step,
            "loss/reward": float(loss),
            "rewards/accuracy": float((chosen_B > rejected_B).float().mean()),
            "rewards/margin": float((chosen_B - rejected_B).mean()),
            "rewards/mean": float(scores_B.mean()),
            "rewards/min": float(scores_B.min()),
            "rewards/max": float(scores_B.max()),
            "reward_model/grad_norm": grad_norm,
            "reward_model/lr_factor": factor,
            "reward_model/member": member,
            "reward_model/skipped_updates": float(not update.done),
            "reward_model/rolled_back": float(update.restored_step is not None),
            "tokens": num_tokens,
            "seconds": time.perf_counter() - began,
        }


@torch.no_grad()
def score_sequences(model: RewardModel | Ensemble, sequences: Sequence[Sequence[int]], batch_size: int = 128) -> Tensor:
    """Mean scores [B] in the order given; sequences of like length share a batch."""
    return ensemble_scores(model, sequences, batch_size).mean(1)


@torch.no_grad()
def ensemble_scores(model: RewardModel | Ensemble, sequences: Sequence[Sequence[int]], batch_size: int = 128) -> Tensor:
    """The score [B, M] of each head of each member, in the order given."""
    ensemble = Ensemble((model,)) if isinstance(model, RewardModel) else model
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    scores_BM = torch.empty(len(sequences), sum(member.head.out_features for member in ensemble.members))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores_BM[torch.tensor(rows)] = ensemble.scores(*pad_right([sequences[i] for i in rows]))
    return scores_BM


@torch.no_grad()
def calibrate(model: RewardModel, sequences: Sequence[Sequence[int]], unit_std: bool = True) -> None:
    """Shift each head's bias so that its mean score of `sequences` is 0, and with `unit_std` set the gain so that the
    standard deviation of the mean over heads is 1: KL coefficients then mean the same for every reward model. Order and
    accuracy stay; `gain` says by how much score differences grew, which log-odds must be divided by."""
    scores_BM = ensemble_scores(model, sequences)
    model.head.bias.sub_(scores_BM.mean(0).to(model.gain.device) / model.gain)
    spread = float(scores_BM.mean(1).std())
    if unit_std and spread > 0:
        model.gain.div_(spread)


# -- files ---------------------------------------------------------------------------------------------------------


def save_reward_model(folder: Path, model: RewardModel | Ensemble) -> None:
    """Write weights and config into `folder`, which exists. The trunk that members with adapters share is written
    once."""
    members = (model,) if isinstance(model, RewardModel) else model.members
    alphas = {name: module.alpha for name, module in adapters(members[0].trunk).items()}
    tensors: dict[str, Tensor] = {}
    for index, member in enumerate(members):
        for name, value in member.state_dict().items():
            own = not alphas or not name.startswith("trunk.") or name.endswith((".lora_a", ".lora_b"))
            tensors[f"{index}.{name}" if own else name.replace(".base.", ".")] = value.contiguous()
    save_file(tensors, folder / WEIGHTS)
    body = {
        "format": "lifespan-reward-model",
        "num_members": len(members),
        "num_heads": members[0].head.out_features,
        "model": dataclasses.asdict(members[0].trunk.cfg),
        "alphas": alphas,
    }
    (folder / CONFIG).write_text(json.dumps(body, indent=1), encoding="utf-8")


def load_reward_model(folder: Path, like: Transformer | None = None) -> Ensemble:
    """The reward models of a folder, in eval mode. Where the trunk is that of `like`, as of a reward model that was
    trained on it with LoRA, its weights are used: both are then one set of weights.

    Raises ValueError when the folder holds another thing.
    """
    try:
        raw: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if raw.get("format") != "lifespan-reward-model":
            raise ValueError("it has no format 'lifespan-reward-model'")
        cfg, alphas = config_from_dict(raw["model"]), dict(raw["alphas"])
        num_members, num_heads = int(raw["num_members"]), int(raw["num_heads"])
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is not a reward model of Lifespan: {error}") from error
    tensors = load_file(folder / WEIGHTS)
    shared = _part(tensors, "trunk.")
    if like is not None:
        held = {name.replace(".base.", "."): value for name, value in like.state_dict().items()}
        shared = {k: held[k] if k in held and _same(held[k], v) else v for k, v in shared.items()}
    members = []
    try:
        trunk = filled(cfg, shared) if alphas else None
        for index in range(num_members):
            own = _part(tensors, f"{index}.")
            if trunk is None:
                member = RewardModel(skeleton(cfg), 0, num_heads)
                member.load_state_dict(own, assign=True)
            else:
                member = RewardModel(sharing(trunk), 0, num_heads)
                attach_lora(member.trunk, _part(own, "trunk."), alphas)
                member.load_state_dict(own | member.trunk.state_dict(prefix="trunk."), assign=True)
            members.append(member.eval())
            fuse(member)
    except (KeyError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    return Ensemble(tuple(members))


def _same(held: Tensor, read: Tensor) -> bool:
    return (held.dtype, held.device) == (read.dtype, read.device) and torch.equal(held, read)


def _part(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)}
