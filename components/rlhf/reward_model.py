"""A reward model: a transformer's trunk with a scalar head, trained on pairs (Stiennon et al. 2020, §3.4).

Shape suffixes: B sequences, T tokens, D model width, M members of an ensemble.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.rlhf.config import RewardModelConfig
from components.rlhf.preferences import Preference
from components.rlhf.rollouts import pad_right, seeded
from components.statistics import Interval, wilson
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor

WEIGHTS, CONFIG = "reward_model.safetensors", "reward_model.json"


class RewardModel(nn.Module):
    """reward = gain · (head(x) + bias) where x is the trunk's hidden state of a token.

    The head starts at N(0, 1/(D+1)) (Stiennon et al. 2020, code) and bias 0. `gain` is 1 until `calibrate`.
    """

    def __init__(self, trunk: Transformer, seed: int = 0) -> None:
        super().__init__()
        self.trunk = trunk
        d = trunk.cfg.d_model
        self.head = nn.Linear(d, 1)
        with torch.no_grad():
            self.head.weight.normal_(0.0, 1 / math.sqrt(d + 1), generator=torch.Generator().manual_seed(seed))
            self.head.bias.zero_()
        self.register_buffer("gain", torch.ones(()))
        self.gain: Tensor

    @classmethod
    def from_policy(cls, policy: Transformer, seed: int = 0) -> RewardModel:
        """A reward model on a copy of a policy's trunk."""
        return cls(copy.deepcopy(policy), seed)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """A reward [B, T] at every token: at a sequence's last one it is its score, before it a critic's start."""
        return self.rewards(tokens_BT)[0]

    def rewards(self, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
        """`forward`, and the routers' loss of a mixture of experts (0 for a dense trunk)."""
        hidden = self.trunk.hidden(tokens_BT)
        return self.gain * self.head(hidden.x_BTD).squeeze(-1), hidden.auxiliary_loss()

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Scores [B] of right-padded sequences: the reward at the last real token. Padding has no effect."""
        return self.last_rewards(tokens_BT, lengths_B)[0]

    def last_rewards(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """`score`, and the routers' loss."""
        hidden = self.trunk.hidden(tokens_BT)
        last_BD = hidden.x_BTD[torch.arange(len(lengths_B)), lengths_B - 1]
        return self.gain * self.head(last_BD).squeeze(-1), hidden.auxiliary_loss()


@dataclass(frozen=True)
class Ensemble:
    """Several reward models as one (Coste et al. 2023, arXiv 2310.02743): their mean, the worst case, or mean minus
    `variance_coef` times their variance."""

    members: tuple[RewardModel, ...]
    combine: Literal["mean", "worst", "variance"] = "mean"
    variance_coef: float = 1.0

    def score(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Combined scores [B]."""
        scores_MB = torch.stack([member.score(tokens_BT, lengths_B) for member in self.members])
        if self.combine == "worst":
            return scores_MB.amin(0)
        mean_B = scores_MB.mean(0)
        return mean_B if self.combine == "mean" else mean_B - self.variance_coef * scores_MB.var(0, correction=0)


# -- pairs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenPair:
    """Prompt with each answer as ids (an end token where the answer ended by itself), and the margin asked for."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float = 0.0
    num_prompt: int = 0


def encode_pairs(
    preferences: Sequence[Preference], tokenizer: Tokenizer, context_length: int
) -> tuple[list[TokenPair], list[tuple[int, str]]]:
    """Pairs as token ids under the chat template, and (index, reason) of those that do not fit the context."""
    pairs: list[TokenPair] = []
    too_long: list[tuple[int, str]] = []
    for index, p in enumerate(preferences):
        turns = [*({"role": t.role, "content": t.content} for t in p.context), {"role": "user", "content": p.prompt}]
        prompt, _ = tokenizer.render_chat(turns, add_generation_prompt=True)
        ends = [[tokenizer.end_id] if finished else [] for finished in (p.chosen_finished, p.rejected_finished)]
        chosen, rejected = (
            (*prompt, *tokenizer.encode(text), *end) for text, end in zip((p.chosen, p.rejected), ends, strict=True)
        )
        longest = max(len(chosen), len(rejected))
        if longest > context_length:
            too_long.append((index, f"{longest} tokens; the model's context holds {context_length}"))
            continue
        pairs.append(TokenPair(chosen, rejected, p.margin, len(prompt)))
    return pairs, too_long


def split_pairs(pairs: Sequence[TokenPair], held_out: float, seed: int) -> tuple[list[TokenPair], list[TokenPair]]:
    """Training and held-out pairs. Pairs with an answer in common stay on one side."""
    groups: dict[tuple[int, ...], int] = {}
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for index, pair in enumerate(pairs):
        parent.append(index)
        for answer in (pair.chosen, pair.rejected):
            if answer in groups:
                parent[root(groups[answer])] = index
            groups[answer] = index
    roots = [root(i) for i in range(len(pairs))]
    order = seeded(seed, 0x5B17).permutation(sorted(set(roots))).tolist()
    members: dict[int, list[int]] = {}
    for index, r in enumerate(roots):
        members.setdefault(r, []).append(index)
    held: set[int] = set()
    for r in order:
        if len(held) >= held_out * len(pairs):
            break
        held.update(members[r])
    return [p for i, p in enumerate(pairs) if i not in held], [p for i, p in enumerate(pairs) if i in held]


# -- training ------------------------------------------------------------------------------------------------------


def pairwise_loss(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | float = 0.0, centering_coef: float = 0.0
) -> Tensor:
    """Bradley–Terry: mean of −log σ(r_c − r_r − margin) + centering_coef · (r_c + r_r)²."""
    loss_B = -F.logsigmoid(chosen_B - rejected_B - margin_B)
    return (loss_B + centering_coef * (chosen_B + rejected_B).square()).mean()


def num_steps(num_pairs: int, config: RewardModelConfig) -> int:
    """Optimizer steps of a whole training."""
    return config.epochs * -(-num_pairs // config.batch_pairs)


def train_reward_model(
    model: RewardModel,
    optimizer: Optimizer,
    pairs: Sequence[TokenPair],
    config: RewardModelConfig,
    seed: int,
    start_step: int = 0,
) -> Iterator[dict[str, float]]:
    """Train in place; yields step, loss, accuracy, margin, reward_mean, grad_norm, tokens and seconds of each step.

    The batch of a step depends on (seed, step) alone: a run that starts at `start_step` with the tensors of that step
    goes on as if it had never stopped. Raises ValueError without pairs.
    """
    if not pairs:
        raise ValueError("no pairs to train the reward model on")
    model.train()
    per_epoch = -(-len(pairs) // config.batch_pairs)
    total = num_steps(len(pairs), config)
    order: np.ndarray | None = None
    for step in range(start_step, total):
        began = time.perf_counter()
        epoch, within = divmod(step, per_epoch)
        if order is None or within == 0:
            order = seeded(seed, 0x3E3A, epoch).permutation(len(pairs))
        batch = [pairs[i] for i in order[within * config.batch_pairs : (within + 1) * config.batch_pairs]]
        tokens_BT, lengths_B = pad_right([p.chosen for p in batch] + [p.rejected for p in batch])
        scores_B, auxiliary_loss = model.last_rewards(tokens_BT, lengths_B)
        chosen_B, rejected_B = scores_B.chunk(2)
        margin_B = config.margin_coef * torch.tensor([p.margin for p in batch])
        loss = pairwise_loss(chosen_B, rejected_B, margin_B, config.centering_coef)
        (loss + auxiliary_loss).backward()
        grad_norm = clip_gradients(optimizer.params, config.max_grad_norm)
        optimizer.step(lr_factor(config.schedule, step, total))
        yield {
            "step": step + 1,
            "loss": float(loss.detach()),
            "accuracy": float((chosen_B > rejected_B).float().mean()),
            "margin": float((chosen_B - rejected_B).detach().mean()),
            "reward_mean": float(scores_B.detach().mean()),
            "grad_norm": grad_norm,
            "tokens": int(lengths_B.sum()),
            "seconds": time.perf_counter() - began,
        }
    model.eval()


@torch.no_grad()
def score_sequences(model: RewardModel | Ensemble, sequences: Sequence[Sequence[int]], batch_size: int = 128) -> Tensor:
    """Scores [B] in the order given; sequences of like length share a batch."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    scores_B = torch.empty(len(sequences))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores_B[torch.tensor(rows)] = model.score(*pad_right([sequences[i] for i in rows]))
    return scores_B


def pair_accuracy(model: RewardModel | Ensemble, pairs: Sequence[TokenPair]) -> Interval:
    """Share of pairs whose chosen answer scores higher, with Wilson's interval."""
    scores_B = score_sequences(model, [p.chosen for p in pairs] + [p.rejected for p in pairs])
    chosen_B, rejected_B = scores_B.chunk(2)
    return wilson(int((chosen_B > rejected_B).sum()), len(pairs))


@torch.no_grad()
def calibrate(model: RewardModel, sequences: Sequence[Sequence[int]], unit_std: bool = True) -> None:
    """Shift the bias so that the mean score of `sequences` is 0, and with `unit_std` set the gain so that their
    standard deviation is 1: KL coefficients then mean the same for every reward model. Order and accuracy stay."""
    scores_B = score_sequences(model, sequences)
    model.head.bias.sub_(scores_B.mean() / model.gain)
    if unit_std and float(scores_B.std()) > 0:
        model.gain.div_(scores_B.std())


# -- files ---------------------------------------------------------------------------------------------------------


def save_reward_model(folder: Path, model: RewardModel, **facts: Any) -> None:
    """Write weights and config into `folder`, which exists. `facts` (JSON values) travel along."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    body = {"format": "lifespan-reward-model", "model": dataclasses.asdict(model.trunk.cfg), "facts": facts}
    (folder / CONFIG).write_text(json.dumps(body, indent=1), encoding="utf-8")


def load_reward_model(folder: Path) -> RewardModel:
    """The reward model of a folder, in eval mode. Raises ValueError when the folder holds another thing."""
    try:
        raw: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if raw.get("format") != "lifespan-reward-model":
            raise ValueError("it has no format 'lifespan-reward-model'")
        moe = raw["model"].pop("moe", None)
        cfg = ModelConfig(**raw["model"], moe=None if moe is None else MoEConfig(**moe))
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG} is not a reward model of Lifespan: {error}") from error
    model = RewardModel(Transformer(cfg))
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    return model.eval()
