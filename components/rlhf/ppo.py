"""Proximal policy optimisation of a language model against a reward (Schulman et al. 2017; Ziegler et al. 2019;
details after Huang et al. 2024, arXiv 2403.17031).

Shape suffixes: B sequences, T tokens, A = T - 1 actions (action t chooses token t+1), M scores of an ensemble.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer
from components.rlhf.advantages import (
    adapted_kl_coef,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    kl_estimate,
    masked_mean,
    masked_range,
    masked_var,
    penalized_rewards,
    whiten,
)
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel, combine_scores
from components.rlhf.rollouts import (
    Rollout,
    Score,
    draw_prompts,
    minibatch_rows,
    passes,
    read,
    rollout_metrics,
    sample_rollout,
    seeded,
    token_stats,
    up_to_last,
)
from components.training.balance import balanced_over
from components.training.checkpointing import checkpoint_blocks
from components.training.guard import Guard, Update
from components.training.language_model import LMBatch, summed_loss
from components.training.lora import start_copy
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor
from components.training.state import load_state_tensors, state_tensors


@dataclass
class PPOState:
    """All that an iteration changes. `tensors` and `load_tensors` round-trip it: a loaded state goes on bit for bit.

    `scores_seen`: number, mean and sum of squared deviations of all scores so far, for `score_scaling`.
    """

    policy: Transformer
    critic: RewardModel
    policy_optimizer: Optimizer
    critic_optimizer: Optimizer
    iteration: int
    kl_coef: float
    scores_seen: np.ndarray = field(default_factory=lambda: np.zeros(3))
    guard: Guard = field(default_factory=Guard)

    @classmethod
    def start(cls, reference: Transformer, reward_model: RewardModel, config: PPOConfig, seed: int = 0) -> PPOState:
        """The policy begins as a copy of the reference, the critic as a copy of the reward model; with LoRA as these
        themselves with adapters, drawn from `seed`, and a copy of the head."""
        policy, critic = start_copy(reference, config.lora, seed), start_copy(reward_model, config.lora, seed + 1)
        critic.head = copy.deepcopy(reward_model.head).requires_grad_(True)
        if config.gradient_checkpointing:
            checkpoint_blocks(policy)
            checkpoint_blocks(critic)
        return cls(
            policy,
            critic,
            Optimizer(policy, config.policy_optimizer),
            Optimizer(critic, config.critic_optimizer),
            0,
            config.kl_coef,
            guard=Guard(config.non_finite),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The state as tensors, by name."""
        parts = {
            "policy": state_tensors(self.policy, self.policy_optimizer),
            "critic": state_tensors(self.critic, self.critic_optimizer),
        }
        named = {f"{part}.{name}": value for part, tensors in parts.items() for name, value in tensors.items()}
        return named | {
            "iteration": torch.tensor(self.iteration),
            "kl_coef": torch.tensor(self.kl_coef, dtype=torch.float64),
            "scores_seen": torch.from_numpy(self.scores_seen.copy()),
            **self.guard.tensors(),
        }

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for part, model, optimizer in (
            ("policy.", self.policy, self.policy_optimizer),
            ("critic.", self.critic, self.critic_optimizer),
        ):
            own = {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}
            load_state_tensors(model, optimizer, own)
        self.iteration = int(tensors["iteration"])
        self.kl_coef = float(tensors["kl_coef"])
        self.scores_seen = tensors["scores_seen"].numpy().copy()
        self.guard.load_tensors(tensors)


@dataclass(frozen=True)
class PPORecord:
    """An iteration that is done: metrics by name, the answers that it learned from, their scores as the ensemble
    combines them, and as each of its heads gives them."""

    iteration: int
    metrics: dict[str, float]
    rollout: Rollout
    scores_B: Tensor
    scores_BM: Tensor


def ppo(
    state: PPOState,
    reference: Transformer,
    score: Score,
    prompts: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    config: PPOConfig,
    seed: int,
    replay: Callable[[int], LMBatch] | None = None,
) -> Iterator[PPORecord]:
    """Improve `state.policy` in place; yields after each iteration, when `state` is fit to be saved.

    score(rollout) judges its answers: scores_B, or scores_BM of an ensemble, which config.combine makes one. prompts:
    token ids, each ready for an answer. All randomness depends on (seed, iteration) alone. `replay(iteration)` gives a
    batch of pretraining data, used when config.replay_coef is above 0. Raises ValueError without prompts, or for a
    replay_coef without `replay`.

    An answer ends with a stop token or at max_tokens, which is the same distribution as sampling max_tokens and
    cutting at the first stop token. An update whose loss or gradients are not finite is skipped for policy and critic
    (`components/training/guard.py`); going back ends the iteration. TrainingDiverged is raised when that does not help.
    Metrics: docs/metrics.md.
    """
    if not prompts:
        raise ValueError("no prompts to sample answers to")
    if config.replay_coef and replay is None:
        raise ValueError("ppo.replay_coef is above 0, but there is no replay data")
    while state.iteration < config.num_iterations:
        began = time.perf_counter()
        iteration = state.iteration

        # 1. Draw prompts and sample one answer to each.
        rng = seeded(seed, iteration, 1)
        index = draw_prompts(len(prompts), config.batch_size, rng)
        sampling = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=config.temperature,
            seed=int(rng.integers(2**62)),
            stop_ids=tuple(stop_ids),
        )
        rollout = sample_rollout(state.policy, prompts, index, sampling)
        sampled = time.perf_counter()
        scores_BM = score(rollout).detach()
        scores_BM = scores_BM[:, None] if scores_BM.dim() == 1 else scores_BM
        if config.score_after_end:
            rollout = rollout.widened()
        mask_BA = rollout.mask_BA
        # The steps of an episode: its actions, and with score_after_end one more where an end token was chosen.
        steps_BA = mask_BA | rollout.after_end_BA() if config.score_after_end else mask_BA

        # 2. Log-probabilities of policy and reference, and values. The minibatches are those of the first epoch, so
        #    that its first pass repeats the same operations on the same shapes and the ratio is exactly 1.
        partition = minibatch_rows(len(rollout), config.num_minibatches, seeded(seed, iteration, 2, 0))
        old_log_probs_BA, ref_log_probs_BA, entropy_BA, old_values_BA = (torch.zeros(mask_BA.shape) for _ in range(4))
        with torch.no_grad():
            for rows in (micro for minibatch in partition for micro in passes(minibatch, config.micro_batch_size)):
                tokens, mask, a = rollout.trimmed(rows)
                old = token_stats(state.policy, tokens, mask, config.temperature, entropy=True)
                old_log_probs_BA[rows, :a], entropy_BA[rows, :a] = old.log_probs_BA, old.entropy_BA
                ref_log_probs_BA[rows, :a] = token_stats(reference, tokens, mask, config.temperature).log_probs_BA
                old_values_BA[rows, :a] = state.critic(tokens[:, :-1]) * steps_BA[rows, :a]

            # 3. Scores of whole answers.
            scores_B = combine_scores(scores_BM, config.combine, config.variance_coef)
            judged_B, state.scores_seen = judged_scores(scores_B, rollout, config, state.scores_seen)

            # 4. Rewards per token: the KL penalty everywhere, the score on the last step (see penalized_rewards).
            kl_BA = kl_estimate(old_log_probs_BA, ref_log_probs_BA, config.kl_estimator) * mask_BA
            rewards_BA = penalized_rewards(judged_B, kl_BA, mask_BA, state.kl_coef, steps_BA)
            if config.whiten_rewards:
                rewards_BA = whiten(rewards_BA, steps_BA, shift_mean=False)

            # 5. Advantages and returns.
            raw_advantages_BA, returns_BA = generalized_advantages(
                rewards_BA, old_values_BA, steps_BA, config.gamma, config.lam
            )
            advantages_BA = whiten(raw_advantages_BA, mask_BA) if config.whiten_advantages else raw_advantages_BA
        judged = time.perf_counter()

        # 6. Epochs of minibatches: clipped policy loss, clipped value loss, one optimiser step each.
        factor = lr_factor(config.schedule, iteration, config.num_iterations) * state.guard.rate
        trained = (state.policy, state.policy_optimizer), (state.critic, state.critic_optimizer)
        updates = _Updates()
        for epoch in range(config.num_epochs):
            if epoch:
                partition = minibatch_rows(len(rollout), config.num_minibatches, seeded(seed, iteration, 2, epoch))
            for place, rows in enumerate(partition):
                found = _Minibatch()
                whole_mask, whole_steps = mask_BA[rows], steps_BA[rows]
                micros = [(micro, *rollout.trimmed(micro)) for micro in passes(rows, config.micro_batch_size)]
                policy_reads = [partial(read, state.policy, tokens, mask) for _, tokens, mask, _ in micros]
                critic_reads = [
                    partial(state.critic.hidden, tokens[:, :-1], up_to_last(steps_BA[micro, :a]))
                    for micro, tokens, _, a in micros
                ]
                with balanced_over(state.policy, policy_reads), balanced_over(state.critic, critic_reads):
                    for micro, tokens, mask, a in micros:
                        steps, advantages = steps_BA[micro, :a], advantages_BA[micro, :a]
                        new = token_stats(state.policy, tokens, mask, config.temperature)
                        log_ratio = new.log_probs_BA - old_log_probs_BA[micro, :a]
                        loss_BA, clipped_BA = clipped_surrogate(
                            log_ratio, advantages, config.clip_range, config.clip_range, config.dual_clip
                        )
                        policy_loss = masked_mean(loss_BA, mask) * _share(mask, whole_mask)
                        router_loss = new.auxiliary_loss * _share(up_to_last(mask), up_to_last(whole_mask))
                        (policy_loss + router_loss).backward()
                        values, critic_router_loss = state.critic.rewards(tokens[:, :-1], up_to_last(steps))
                        error_BA, value_clipped_BA = clipped_value_loss(
                            values, old_values_BA[micro, :a], returns_BA[micro, :a], config.value_clip_range
                        )
                        of_steps = _share(steps, whole_steps)
                        value_loss = masked_mean(error_BA, steps) * of_steps
                        critic_router_loss = critic_router_loss * _share(up_to_last(steps), up_to_last(whole_steps))
                        (value_loss + critic_router_loss).backward()
                        found.add(
                            (log_ratio, advantages, clipped_BA, mask),
                            {
                                "loss/policy": policy_loss,
                                "loss/value": value_loss,
                                "loss/router": router_loss,
                                "value/clip_fraction": masked_mean(value_clipped_BA.float(), steps) * of_steps,
                            },
                        )
                log_ratio, *rest = found.joined()
                moved = _moved(log_ratio, *rest)
                updates.begin(log_ratio, moved)
                if config.max_kl and moved["policy/update_kl"] > config.max_kl:
                    updates.stopped = True
                    for _, optimizer in trained:
                        optimizer.zero_grad()
                    break
                replay_loss = torch.zeros(())
                if config.replay_coef and replay is not None and epoch == 0:
                    batch = replay(iteration).to(state.policy.embedding.weight.device)
                    cross_entropy, _, _ = summed_loss(state.policy, batch)
                    replay_loss = cross_entropy / (batch.targets_BT >= 0).sum()
                    (config.replay_coef * replay_loss).backward()
                policy_norm = clip_gradients(state.policy_optimizer.params, config.max_grad_norm)
                critic_norm = clip_gradients(state.critic_optimizer.params, config.max_grad_norm)
                step = (iteration * config.num_epochs + epoch) * config.num_minibatches + place
                losses = found.sums | {"loss/replay": float(replay_loss.detach())}
                loss = losses["loss/policy"] + losses["loss/router"] + losses["loss/value"]
                loss += config.replay_coef * losses["loss/replay"]
                updates.add(
                    state.guard.update(step, factor, loss, policy_norm + critic_norm, *trained),
                    int(whole_mask.sum()),
                    moved | losses | {"policy/grad_norm": policy_norm, "value/grad_norm": critic_norm},
                )
                if updates.went_back:
                    break  # the answers are those of another policy now
            if updates.stopped or updates.went_back:
                break

        # 7. Adapt the KL coefficient, and report.
        kl = {
            name: float((kl_estimate(old_log_probs_BA, ref_log_probs_BA, name) * mask_BA).sum(1).mean())
            for name in ("k1", "k2", "k3")
        }
        used_kl_coef = state.kl_coef
        if config.kl_target and math.isfinite(kl["k1"]):
            state.kl_coef = adapted_kl_coef(state.kl_coef, kl["k1"], config.kl_target, len(rollout), config.kl_horizon)
        state.iteration += 1
        penalty_B = -used_kl_coef * kl_BA.sum(1)
        drift_BA = (old_log_probs_BA - rollout.sampler_log_probs_BA).abs()
        ended = time.perf_counter()
        yield PPORecord(
            iteration,
            {
                **{f"objective/score{name}": value for name, value in _spread(scores_B).items()},
                "objective/score_disagreement": float(scores_BM.std(1, correction=0).mean()),
                "objective/kl": kl["k1"],
                "objective/kl_k2": kl["k2"],
                "objective/kl_k3": kl["k3"],
                "objective/kl_coef": used_kl_coef,
                "objective/non_score_reward": float(penalty_B.mean()),
                "objective/reward": float((judged_B + penalty_B).mean()),
                **_over_tokens("advantage", raw_advantages_BA, mask_BA),
                **_over_tokens("return", returns_BA, steps_BA),
                "policy/entropy": float(masked_mean(entropy_BA, mask_BA)),
                **_over_tokens("value", old_values_BA, steps_BA),
                "value/explained_variance": explained_variance(old_values_BA, returns_BA, steps_BA),
                **rollout_metrics(rollout),
                "rollout/log_prob_difference": float(drift_BA.max()),
                "rollout/log_prob_difference_mean": float(masked_mean(drift_BA, mask_BA)),
                **updates.metrics(),
                "policy/lr": config.policy_optimizer.adamw_lr * factor,
                "value/lr": config.critic_optimizer.adamw_lr * factor,
                "seconds/sampling": sampled - began,
                "seconds/judging": judged - sampled,
                "seconds/updating": ended - judged,
                "seconds": ended - began,
            },
            rollout,
            scores_B,
            scores_BM,
        )


def judged_scores(scores_B: Tensor, rollout: Rollout, config: PPOConfig, seen: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """What a policy is paid for each answer [B], in the order that `PPOConfig` states, and the moments of all scores so
    far (Chan et al. 1983: number, mean, sum of squared deviations)."""
    if config.score_scaling and bool(scores_B.isfinite().all()):
        new = scores_B.double().numpy()
        n, gap = seen[0] + len(new), new.mean() - seen[1]
        squares = seen[2] + ((new - new.mean()) ** 2).sum() + gap**2 * seen[0] * len(new) / n
        seen = np.array([n, seen[1] + gap * len(new) / n, squares])
        scores_B = scores_B / max(float(np.sqrt(squares / n)), 1e-8)
    if config.score_clip:
        scores_B = scores_B.clamp(-config.score_clip, config.score_clip)
    scores_B = scores_B - config.length_penalty * rollout.response_lengths_B
    if config.unfinished_score is not None:
        return torch.where(rollout.finished_B, scores_B, config.unfinished_score), seen
    return scores_B - config.missing_eos_penalty * ~rollout.finished_B, seen


def _moved(log_ratio: Tensor, advantages: Tensor, clipped: Tensor, mask: Tensor) -> dict[str, float]:
    """How far the policy is from the one that sampled: KL(old‖new) in three estimators, since the samples are the old
    policy's, the ratio, and where the clip binds."""
    ratio = log_ratio.exp()
    kl = {name: float(masked_mean(kl_estimate(-log_ratio, torch.zeros(()), name), mask)) for name in ("k1", "k2", "k3")}
    return {
        "policy/update_kl": kl["k3"],
        "policy/update_kl_k1": kl["k1"],
        "policy/update_kl_k2": kl["k2"],
        "policy/ratio": float(masked_mean(ratio, mask)),
        "policy/ratio_var": float(masked_var(ratio, mask)),
        "policy/clip_fraction": float(masked_mean(clipped.float(), mask)),
        "policy/clip_fraction_low": float(masked_mean((clipped & (ratio < 1)).float(), mask)),
        "policy/clip_fraction_high": float(masked_mean((clipped & (ratio > 1) & (advantages > 0)).float(), mask)),
        "policy/clip_fraction_dual": float(masked_mean((clipped & (ratio > 1) & (advantages < 0)).float(), mask)),
    }


def _share(part_BA: Tensor, whole_BA: Tensor) -> float:
    return int(part_BA.sum()) / int(whole_BA.sum())


@dataclass
class _Minibatch:
    """What the passes over a minibatch find: parts [B, A] to join, and sums of shares."""

    parts: list[tuple[Tensor, ...]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, parts: tuple[Tensor, ...], shares: Mapping[str, Tensor]) -> None:
        self.parts.append(tuple(part.detach() for part in parts))
        self.sums = {name: self.sums.get(name, 0.0) + float(share.detach()) for name, share in shares.items()}

    def joined(self) -> tuple[Tensor, ...]:
        """Log-ratios, advantages, where the clip binds, and the mask, of all passes."""
        width = max(parts[0].shape[1] for parts in self.parts)
        return tuple(
            torch.cat([F.pad(x, (0, width - x.shape[1])) for x in same]) for same in zip(*self.parts, strict=True)
        )


@dataclass
class _Updates:
    """Means over the updates of an iteration, weighted by their tokens, and what the very first pass found."""

    totals: dict[str, float] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    count: int = 0
    skipped: int = 0
    stopped: bool = False
    went_back: bool = False

    def begin(self, log_ratio: Tensor, moved: Mapping[str, float]) -> None:
        if not self.first:
            self.first = {
                "check/first_ratio_deviation": float(log_ratio.exp().sub(1).abs().max()),
                "check/first_clip_fraction": moved["policy/clip_fraction"],
            }

    def add(self, update: Update, tokens: int, metrics: Mapping[str, float]) -> None:
        self.went_back = update.restored_step is not None
        if not update.done:
            self.skipped += 1
            return
        for name, value in metrics.items():
            self.totals[name] = self.totals.get(name, 0.0) + tokens * value
        self.tokens, self.count = self.tokens + tokens, self.count + 1

    def metrics(self) -> dict[str, float]:
        means = {name: total / self.tokens for name, total in self.totals.items()}
        return {
            **means,
            **self.first,
            "policy/num_updates": self.count,
            "policy/skipped_updates": self.skipped,
            "policy/rolled_back": float(self.went_back),
            "policy/stopped_early": float(self.stopped),
        }


def _spread(x_B: Tensor) -> dict[str, float]:
    return {"": float(x_B.mean()), "_std": float(x_B.std()), "_min": float(x_B.min()), "_max": float(x_B.max())}


def _over_tokens(name: str, x_BA: Tensor, mask_BA: Tensor) -> dict[str, float]:
    low, high = masked_range(x_BA, mask_BA)
    return {f"{name}/mean": float(masked_mean(x_BA, mask_BA)), f"{name}/min": low, f"{name}/max": high}
