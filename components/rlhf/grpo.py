"""Group-relative policy optimisation with verified rewards (Shao et al. 2024, arXiv 2402.03300), Dr. GRPO (Liu et al.
2025, arXiv 2503.20783), DAPO (Yu et al. 2025, arXiv 2503.14476), GSPO (Zheng et al. 2025, arXiv 2507.18071) and RLOO
(Ahmadian et al. 2024, arXiv 2402.14740): they differ in how advantages, ratios and means are taken.

Shape suffixes: G groups (prompts), K answers per group, B = G·K sequences, T tokens, A = T - 1 actions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer
from components.rlhf.advantages import clipped_surrogate, kl_estimate, sequence_log_ratio
from components.rlhf.grpo_config import GRPOConfig, Variant
from components.rlhf.rollouts import (
    Rollout,
    Score,
    TokenStats,
    draw_prompts,
    join_rollouts,
    minibatch_rows,
    passes,
    read,
    rollout_metrics,
    sample_rollout,
    seeded,
    token_stats,
)
from components.training.balance import balanced_over
from components.training.checkpointing import checkpoint_blocks
from components.training.guard import Guard
from components.training.lora import start_copy
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor
from components.training.state import load_state_tensors, state_tensors


@dataclass
class GRPOState:
    """All that an iteration changes; `tensors` and `load_tensors` round-trip it bit for bit."""

    policy: Transformer
    optimizer: Optimizer
    iteration: int
    guard: Guard = field(default_factory=Guard)

    @classmethod
    def start(cls, reference: Transformer, config: GRPOConfig, seed: int = 0) -> GRPOState:
        """The policy begins as a copy of the reference, or with LoRA as the reference with adapters, drawn from `seed`,
        on the same weights."""
        policy = start_copy(reference, config.lora, seed)
        if config.gradient_checkpointing:
            checkpoint_blocks(policy)
        return cls(policy, Optimizer(policy, config.optimizer), 0, Guard(config.non_finite))

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors, by name."""
        named = state_tensors(self.policy, self.optimizer) | {"iteration": torch.tensor(self.iteration)}
        return named | self.guard.tensors()

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        load_state_tensors(self.policy, self.optimizer, dict(tensors))
        self.guard.load_tensors(tensors)
        self.iteration = int(tensors["iteration"])


@dataclass(frozen=True)
class GRPORecord:
    """An iteration that is done: metrics by name, the answers that it learned from, and their rewards."""

    iteration: int
    metrics: dict[str, float]
    rollout: Rollout
    rewards_B: Tensor


def group_advantages(rewards_GK: Tensor, variant: Variant) -> Tensor:
    """(r − mean)/(std + 1e-4) within a group, sample std (ddof 1). Dr. GRPO does not divide; RLOO takes the mean of the
    others. Zero among equals."""
    centred_GK = rewards_GK - rewards_GK.mean(1, keepdim=True)
    # In a group of equals only rounding is left over; it must not be blown up.
    centred_GK = torch.where((rewards_GK == rewards_GK[:, :1]).all(1, keepdim=True), 0.0, centred_GK)
    if variant == "dr_grpo":
        return centred_GK
    if variant == "rloo":
        return centred_GK * rewards_GK.shape[1] / (rewards_GK.shape[1] - 1)
    return centred_GK / (rewards_GK.std(1, keepdim=True) + 1e-4)


def token_weights(mask_BA: Tensor, variant: Variant, max_tokens: int) -> Tensor:
    """Weight of each token's loss in the objective of a batch, [B, A]; what is outside the mask weighs nothing."""
    lengths_B1 = mask_BA.sum(1, keepdim=True)
    if variant == "dapo":
        return mask_BA / lengths_B1.sum().clamp_min(1)
    if variant == "dr_grpo":
        return mask_BA / (len(mask_BA) * max_tokens)
    return mask_BA / (len(mask_BA) * lengths_B1.clamp_min(1))


@dataclass(frozen=True)
class TokenLosses:
    """Of each token [B, A]: the loss, the log-ratio that was clipped (of its whole answer in gspo and rloo), where the
    clip binds, and the k3 estimate of the KL to the reference (0 where none is asked for)."""

    loss_BA: Tensor
    log_ratio_BA: Tensor
    clipped_BA: Tensor
    kl_BA: Tensor


def token_losses(
    log_probs_BA: Tensor,
    old_log_probs_BA: Tensor,
    ref_log_probs_BA: Tensor,
    advantages_B: Tensor,
    mask_BA: Tensor,
    config: GRPOConfig,
) -> TokenLosses:
    """The clipped surrogate of config.variant plus config.kl_coef times the KL; sum it with `token_weights`."""
    log_ratio_BA = log_probs_BA - old_log_probs_BA
    if config.variant in ("gspo", "rloo"):
        log_ratio_BA = sequence_log_ratio(log_ratio_BA, mask_BA, mean=config.variant == "gspo")
    loss_BA, clipped_BA = clipped_surrogate(
        log_ratio_BA, advantages_B[:, None].expand_as(log_ratio_BA), config.clip_low, config.clip_high
    )
    if not config.kl_coef:
        return TokenLosses(loss_BA, log_ratio_BA, clipped_BA, torch.zeros_like(loss_BA))
    kl_BA = kl_estimate(log_probs_BA, ref_log_probs_BA, "k3")
    # The samples are the old policy's. Weighed by the ratio, value and gradient of the estimate are unbiased for the
    # new one (DeepSeek-AI 2025, arXiv 2512.02556); without it the gradient is that of another divergence. Not so
    # in gspo, whose ratio has but a length-th of each token's: TRL does the same, and is what it is tested against.
    weighed_BA = log_ratio_BA.clamp(-20.0, 20.0).exp() * kl_BA
    return TokenLosses(loss_BA + config.kl_coef * weighed_BA, log_ratio_BA, clipped_BA, kl_BA)


def overlong_penalties(lengths_B: Tensor, max_tokens: int, buffer: int) -> Tensor:
    """0 up to max_tokens − buffer, then falling linearly to −1 at max_tokens (DAPO eq. 13)."""
    if not buffer:
        return torch.zeros(len(lengths_B))
    return -((lengths_B - (max_tokens - buffer)) / buffer).clamp(0.0, 1.0)


def grpo(
    state: GRPOState,
    reference: Transformer,
    reward: Score,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    config: GRPOConfig,
    seed: int,
) -> Iterator[GRPORecord]:
    """Improve `state.policy` in place; yields after each iteration, when `state` is fit to be saved.

    reward(rollout) judges its answers, one number each; with dynamic sampling also those that are then left out.
    All randomness depends on (seed, iteration) alone. Raises ValueError without prompts.

    A group of equal rewards teaches nothing: `groups/zero_variance` is their share, and its rows cost no pass unless a
    KL or routing loss needs them. When no group teaches, the weights stay as they are and policy/num_updates is 0.
    An update whose loss or gradient is not finite is skipped (`components/training/guard.py`); going back ends the
    iteration. TrainingDiverged is raised when that does not help.
    """
    if not prompts:
        raise ValueError("no prompts to sample answers to")
    while state.iteration < config.num_iterations:
        began = time.perf_counter()
        iteration = state.iteration

        # 1. Sample a group of answers to each prompt and let the verifier judge them.
        rollout, task_rewards_B, seen_groups, seen_flat = _sample_groups(state, reward, prompts, stop_ids, config, seed)
        num_groups = len(rollout) // config.group_size
        sampled = time.perf_counter()
        lengths_B, num_inputs_B = rollout.response_lengths_B, rollout.lengths_B - 1
        rewards_B = task_rewards_B + config.overlong_penalty * overlong_penalties(
            lengths_B, config.max_tokens, config.overlong_buffer
        )

        # 2. Advantages: each reward against its group.
        rewards_GK = rewards_B.view(num_groups, config.group_size)
        advantages_B = group_advantages(rewards_GK, config.variant).flatten()
        mask_BA = rollout.mask_BA & rollout.finished_B[:, None] if config.mask_truncated else rollout.mask_BA
        # A policy that blew up answers everything alike: without these passes nothing would tell the guard.
        blew_up = not bool(rollout.sampler_log_probs_BA.isfinite().all())
        needs_all = config.kl_coef > 0 or state.policy.cfg.moe is not None or blew_up

        # 3. Old and reference log-probabilities, in the passes that the first epoch will repeat. Those of the first
        #    minibatch are its new ones without gradient, and need no pass of their own.
        partition = minibatch_rows(len(rollout), config.num_minibatches, seeded(seed, iteration, 2, 0))
        old_BA, ref_BA = torch.zeros(mask_BA.shape), torch.zeros(mask_BA.shape)
        with torch.no_grad():
            for place, rows in enumerate(partition):
                for micro in _passes(rows, advantages_B, config.micro_batch_size, needs_all):
                    if not (place or config.kl_coef):
                        break
                    tokens, mask, a = rollout.trimmed(micro)
                    if place:
                        old_BA[micro, :a] = token_stats(state.policy, tokens, mask, config.temperature).log_probs_BA
                    if config.kl_coef:
                        ref_BA[micro, :a] = token_stats(reference, tokens, mask, config.temperature).log_probs_BA

        judged = time.perf_counter()

        # 4. Epochs of minibatches: clipped loss, one optimiser step each, gradients accumulated over micro-batches.
        factor = lr_factor(config.schedule, iteration, config.num_iterations) * state.guard.rate
        totals: dict[str, float] = {}
        first: dict[str, float] = {}
        num_updates = num_tokens = skipped = 0
        went_back = False
        for epoch in range(config.num_epochs):
            if epoch:
                partition = minibatch_rows(len(rollout), config.num_minibatches, seeded(seed, iteration, 2, epoch))
            for place, rows in enumerate(partition):
                sums: dict[str, float] = {}
                weights_BA = torch.zeros(mask_BA.shape)
                weights_BA[rows] = token_weights(mask_BA[rows], config.variant, config.max_tokens)
                micros = _passes(rows, advantages_B, config.micro_batch_size, needs_all)
                read_by = [partial(read, state.policy, *rollout.trimmed(micro)[:2]) for micro in micros]
                with balanced_over(state.policy, read_by):
                    for micro in micros:
                        tokens, mask, a = rollout.trimmed(micro)
                        new = token_stats(state.policy, tokens, mask, config.temperature, entropy=True)
                        if not epoch and not place:
                            old_BA[micro, :a] = new.log_probs_BA.detach()
                        old, ref = old_BA[micro, :a], ref_BA[micro, :a]
                        each = token_losses(new.log_probs_BA, old, ref, advantages_B[micro], mask, config)
                        loss = (each.loss_BA * weights_BA[micro, :a]).sum()
                        router_loss = new.auxiliary_loss * float(num_inputs_B[micro].sum() / num_inputs_B[rows].sum())
                        (loss + router_loss).backward()
                        found = _sums(each, new, old, mask) | {
                            "loss/policy": float(loss.detach()),
                            "loss/router": float(router_loss.detach()),
                        }
                        sums = {name: sums.get(name, 0.0) + value for name, value in found.items()}
                        if not num_updates:
                            first = _first(each, mask, first)
                if not micros:
                    continue
                sums["policy/grad_norm"] = norm = clip_gradients(state.optimizer.params, config.max_grad_norm)
                step = (iteration * config.num_epochs + epoch) * config.num_minibatches + place
                update = state.guard.update(step, factor, sums["loss/policy"], norm, (state.policy, state.optimizer))
                if update.done:
                    totals = {name: totals.get(name, 0.0) + value for name, value in sums.items()}
                    num_tokens += sum(int(mask_BA[micro].sum()) for micro in micros)
                    num_updates += 1
                skipped += not update.done
                if went_back := update.restored_step is not None:
                    break  # the answers are those of another policy now
            if went_back:
                break

        # 5. Report.
        state.iteration += 1
        by_update = ("loss/policy", "loss/router", "policy/grad_norm")
        flat = (rewards_GK == rewards_GK[:, :1]).all(1).float().mean()
        drift_BA = (old_BA - rollout.sampler_log_probs_BA).abs() * (old_BA != 0)
        ended = time.perf_counter()
        yield GRPORecord(
            iteration,
            {
                "objective/reward": float(task_rewards_B.mean()),
                "objective/reward_std": float(task_rewards_B.view_as(rewards_GK).std(1).mean()),
                "objective/score": float(rewards_B.mean()),
                "groups/zero_variance": float(flat),
                "groups/sampled": seen_groups,
                "groups/sampled_zero_variance": seen_flat / seen_groups,
                **rollout_metrics(rollout),
                "rollout/log_prob_difference": float(drift_BA.max()),
                "rollout/log_prob_difference_mean": float(drift_BA.sum() / (old_BA != 0).sum().clamp_min(1)),
                **{
                    name: total / max(1, num_updates if name in by_update else num_tokens)
                    for name, total in totals.items()
                },
                **first,
                "policy/num_updates": num_updates,
                "policy/skipped_updates": skipped,
                "policy/rolled_back": float(went_back),
                "policy/lr": config.optimizer.adamw_lr * factor,
                "seconds/sampling": sampled - began,
                "seconds/judging": judged - sampled,
                "seconds/updating": ended - judged,
                "seconds": ended - began,
            },
            rollout,
            task_rewards_B,
        )


@torch.no_grad()
def _sums(each: TokenLosses, new: TokenStats, old_BA: Tensor, mask_BA: Tensor) -> dict[str, float]:
    """What is reported per token, summed over a micro-batch. update_kl: KL(old‖new), since the old policy sampled."""
    ratio_BA, clipped_BA = each.log_ratio_BA.exp(), each.clipped_BA & mask_BA
    return {
        "policy/clip_fraction": float(clipped_BA.sum()),
        "policy/clip_fraction_low": float((clipped_BA & (ratio_BA < 1)).sum()),
        "policy/clip_fraction_high": float((clipped_BA & (ratio_BA > 1)).sum()),
        "policy/ratio": float((ratio_BA * mask_BA).sum()),
        "policy/update_kl": float((kl_estimate(old_BA, new.log_probs_BA, "k3") * mask_BA).sum()),
        "policy/entropy": float(new.entropy_BA.sum()),
        "objective/kl_k3": float((each.kl_BA * mask_BA).sum()),
    }


@torch.no_grad()
def _first(each: TokenLosses, mask_BA: Tensor, so_far: Mapping[str, float]) -> dict[str, float]:
    """The largest deviations before the first update, over its micro-batches; both must be 0."""
    found = {
        "check/first_ratio_deviation": float(((each.log_ratio_BA.exp() - 1).abs() * mask_BA).max()),
        "check/first_clip_fraction": float((each.clipped_BA & mask_BA).float().max()),
    }
    return {name: max(value, so_far.get(name, 0.0)) for name, value in found.items()}


def _passes(rows: Tensor, advantages_B: Tensor, size: int, needs_all: bool) -> list[Tensor]:
    """The rows of a minibatch that its gradient needs, cut into micro-batches."""
    if not needs_all:
        rows = rows[advantages_B[rows] != 0]
    return list(passes(rows, size)) if len(rows) else []


def _sample_groups(
    state: GRPOState,
    reward: Score,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    config: GRPOConfig,
    seed: int,
) -> tuple[Rollout, Tensor, int, int]:
    """A rollout with its rewards [B], and of all sampled groups the number and how many had equal rewards.

    With dynamic sampling, further draws replace groups of equals; where they run out, groups of equals fill up.
    """
    kept: list[tuple[Rollout, Tensor]] = []
    spare: list[tuple[Rollout, Tensor]] = []
    seen = flat = 0
    rng = seeded(seed, state.iteration, 1)
    for _ in range(1 + config.dynamic_sampling):
        sampling = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=int(rng.integers(2**62)),
            stop_ids=tuple(stop_ids),
            num_samples=config.group_size,
        )
        index = draw_prompts(len(prompts), config.num_prompts, rng)
        rollout = sample_rollout(state.policy, prompts, index, sampling)
        rewards_B = reward(rollout).detach().float()
        equal_G = [bool((group == group[0]).all()) for group in rewards_B.split(config.group_size)]
        seen, flat = seen + len(equal_G), flat + sum(equal_G)
        if not config.dynamic_sampling:
            return rollout, rewards_B, seen, flat
        for g, equal in enumerate(equal_G):
            rows = torch.arange(g * config.group_size, (g + 1) * config.group_size)
            (spare if equal else kept).append((rollout.rows(rows), rewards_B[rows]))
        if len(kept) >= config.num_prompts:
            break
    chosen = (kept + spare)[: config.num_prompts]
    return join_rollouts([r for r, _ in chosen]), torch.cat([x for _, x in chosen]), seen, flat
