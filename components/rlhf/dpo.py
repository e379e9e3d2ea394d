"""Direct preference optimisation: the policy learns from pairs without a reward model (Rafailov et al. 2023, arXiv
2305.18290), with IPO (Azar et al. 2023), hinge (Zhao et al. 2023) and robust (Chowdhury et al. 2024) losses.

Shape suffixes: B pairs, T tokens, A = T - 1 actions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from components.model.transformer import Hidden, Transformer
from components.rlhf.dpo_config import DPOConfig, DPOLoss
from components.rlhf.pairs import TokenPair
from components.rlhf.rollouts import pack_responses, read, seeded, token_stats
from components.training.balance import balanced_over
from components.training.checkpointing import checkpoint_blocks
from components.training.guard import Guard
from components.training.lora import start_copy
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor
from components.training.state import load_state_tensors, state_tensors


def dpo_loss(margin_B: Tensor, loss: DPOLoss, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Loss of each pair, from margin = log π/π_ref(chosen) − log π/π_ref(rejected).

    sigmoid: −(1−ε) log σ(βm) − ε log σ(−βm). hinge: max(0, 1 − βm). ipo: (m − 1/(2β))², m per token.
    robust: (−(1−ε) log σ(βm) + ε log σ(−βm)) / (1 − 2ε), unbiased under labels flipped at rate ε.
    """
    x_B = beta * margin_B
    if loss == "hinge":
        return (1 - x_B).clamp_min(0)
    if loss == "ipo":
        return (margin_B - 1 / (2 * beta)).square()
    kept_B, flipped_B = -F.logsigmoid(x_B), -F.logsigmoid(-x_B)
    if loss == "robust":
        return ((1 - label_smoothing) * kept_B - label_smoothing * flipped_B) / (1 - 2 * label_smoothing)
    return (1 - label_smoothing) * kept_B + label_smoothing * flipped_B


@dataclass
class DPOState:
    """All that a step changes; `tensors` and `load_tensors` round-trip it bit for bit."""

    policy: Transformer
    optimizer: Optimizer
    step: int
    guard: Guard = field(default_factory=Guard)

    @classmethod
    def start(cls, reference: Transformer, config: DPOConfig, seed: int = 0) -> DPOState:
        """The policy begins as a copy of the reference, or with LoRA as the reference with adapters, drawn from `seed`,
        on the same weights."""
        policy = start_copy(reference, config.lora, seed)
        if config.gradient_checkpointing:
            checkpoint_blocks(policy)
        return cls(policy, Optimizer(policy, config.optimizer), 0, Guard(config.non_finite))

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors, by name."""
        named = state_tensors(self.policy, self.optimizer) | {"step": torch.tensor(self.step)}
        return named | self.guard.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        load_state_tensors(self.policy, self.optimizer, dict(tensors))
        self.guard.load_tensors(tensors)
        self.step = int(tensors["step"])


def response_log_probs(
    policy: Transformer, pairs: Sequence[TokenPair], per_token: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability of each pair's chosen and rejected answer given the prompt, [B] each in nats (per token with
    `per_token`), and the routers' loss; one pass over both."""
    tokens_BT, mask_BA = packed(pairs)
    stats = token_stats(policy, tokens_BT, mask_BA)
    sums = stats.log_probs_BA.sum(1)
    if per_token:
        sums = sums / mask_BA.sum(1)
    chosen_B, rejected_B = sums.chunk(2)
    return chosen_B, rejected_B, stats.auxiliary_loss


def packed(pairs: Sequence[TokenPair]) -> tuple[Tensor, Tensor]:
    """tokens_BT and mask_BA of the chosen answers, and below them of the rejected ones."""
    answers = [p.chosen for p in pairs] + [p.rejected for p in pairs]
    starts = [p.num_prompt for p in pairs] * 2
    tokens_BT, _, mask_BA = pack_responses(
        [a[:n] for a, n in zip(answers, starts, strict=True)], [a[n:] for a, n in zip(answers, starts, strict=True)]
    )
    return tokens_BT, mask_BA


def num_steps(num_pairs: int, config: DPOConfig) -> int:
    """Optimizer steps of a whole training."""
    return config.epochs * -(-num_pairs // config.batch_pairs)


def _read(policy: Transformer, pairs: Sequence[TokenPair]) -> Hidden:
    return read(policy, *packed(pairs))


def _num_read(pairs: Sequence[TokenPair]) -> int:
    """Tokens that a pass reads: all but the last of each answer."""
    return sum(len(p.chosen) + len(p.rejected) - 2 for p in pairs)


def dpo(
    state: DPOState, reference: Transformer, pairs: Sequence[TokenPair], config: DPOConfig, seed: int
) -> Iterator[dict[str, float]]:
    """Improve `state.policy` in place; yields metrics after each step, when `state` is fit to be saved.

    The batch of a step depends on (seed, step) alone. `loss/policy` of the first step is ln 2 (sigmoid), since the
    policy is still the reference. A falling log_probs/chosen is a warning: the policy forgets good answers too.
    Raises ValueError without pairs, or for a pair whose prompt or answer is empty.
    """
    if not pairs:
        raise ValueError("no pairs to learn from")
    for index, pair in enumerate(pairs):
        if not 0 < pair.num_prompt < min(len(pair.chosen), len(pair.rejected)):
            raise ValueError(f"pair {index}: num_prompt is {pair.num_prompt}; prompt and answers need a token each")
    per_epoch = -(-len(pairs) // config.batch_pairs)
    total = num_steps(len(pairs), config)
    per_token = config.loss == "ipo"
    while state.step < total:
        began = time.perf_counter()

        # 1. The pairs of this step.
        epoch, within = divmod(state.step, per_epoch)
        order = seeded(seed, 3, epoch).permutation(len(pairs))
        batch = [pairs[i] for i in order[within * config.batch_pairs : (within + 1) * config.batch_pairs]]

        # 2. Log-ratios of policy and reference, and the loss: its gradient adds up over the passes.
        num_tokens = sum(len(p.chosen) + len(p.rejected) for p in batch)
        loss, router_loss = torch.zeros(()), torch.zeros(())
        found: list[tuple[Tensor, ...]] = []
        size = config.micro_batch_size or len(batch)
        micros = [batch[start : start + size] for start in range(0, len(batch), size)]
        with balanced_over(state.policy, [partial(_read, state.policy, micro) for micro in micros]):
            for micro in micros:
                with torch.no_grad():
                    ref_chosen_B, ref_rejected_B, _ = response_log_probs(reference, micro, per_token)
                chosen_B, rejected_B, auxiliary_loss = response_log_probs(state.policy, micro, per_token)
                margin_B = (chosen_B - ref_chosen_B) - (rejected_B - ref_rejected_B)
                each_B = dpo_loss(margin_B, config.loss, config.beta, config.label_smoothing)
                part = each_B.mean() * (len(micro) / len(batch))
                share = _num_read(micro) / _num_read(batch)
                (part + auxiliary_loss * share).backward()
                loss, router_loss = loss + part.detach(), router_loss + auxiliary_loss.detach() * share
                found.append((chosen_B.detach(), rejected_B.detach(), ref_chosen_B, ref_rejected_B, margin_B.detach()))
        chosen_B, rejected_B, ref_chosen_B, ref_rejected_B, margin_B = map(torch.cat, zip(*found, strict=True))

        # 3. A step, where the loss is finite.
        grad_norm = clip_gradients(state.optimizer.params, config.max_grad_norm)
        factor = lr_factor(config.schedule, state.step, total) * state.guard.rate
        update = state.guard.update(state.step, factor, float(loss), grad_norm, (state.policy, state.optimizer))
        state.step += 1
        with torch.no_grad():
            metrics = {
                "step": state.step,
                "loss/policy": float(loss),
                "loss/router": float(router_loss),
                "rewards/chosen": float(config.beta * (chosen_B - ref_chosen_B).mean()),
                "rewards/rejected": float(config.beta * (rejected_B - ref_rejected_B).mean()),
                "rewards/margin": float(config.beta * margin_B.mean()),
                "rewards/accuracy": float((margin_B > 0).float().mean()),
                "log_probs/chosen": float(chosen_B.mean()),
                "log_probs/rejected": float(rejected_B.mean()),
                "policy/grad_norm": grad_norm,
                "policy/lr": config.optimizer.adamw_lr * factor,
                "policy/skipped_updates": float(not update.done),
                "policy/rolled_back": float(update.restored_step is not None),
                "tokens": num_tokens,
                "seconds": time.perf_counter() - began,
            }
        # Outside of no_grad: a generator that pauses inside would leave its caller without gradients.
        yield metrics
