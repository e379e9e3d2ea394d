"""Proximal policy optimisation of a language model against a reward (Schulman et al. 2017; Ziegler et al. 2019;
details after Huang et al. 2024, arXiv 2403.17031).

Shape suffixes: B sequences, T tokens, A = T - 1 actions (action t chooses token t+1).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
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
    penalized_rewards,
    whiten,
)
from components.rlhf.config import PPOConfig
from components.rlhf.reward_model import RewardModel
from components.rlhf.rollouts import Rollout, Score, draw_prompts, minibatch_rows, sample_rollout, seeded, token_stats
from components.training.language_model import LMBatch, summed_loss
from components.training.optimizers import Optimizer, clip_gradients
from components.training.schedules import lr_factor
from components.training.state import load_state_tensors, state_tensors


@dataclass
class PPOState:
    """All that an iteration changes. `tensors` and `load_tensors` round-trip it: a loaded state goes on bit for bit."""

    policy: Transformer
    critic: RewardModel
    policy_optimizer: Optimizer
    critic_optimizer: Optimizer
    iteration: int
    kl_coef: float

    @classmethod
    def start(cls, reference: Transformer, reward_model: RewardModel, config: PPOConfig) -> PPOState:
        """The policy begins as a copy of the reference, the critic as a copy of the reward model."""
        policy, critic = copy.deepcopy(reference), copy.deepcopy(reward_model)
        for model in (policy, critic):
            model.requires_grad_(True)
        return cls(
            policy,
            critic,
            Optimizer(policy, config.policy_optimizer),
            Optimizer(critic, config.critic_optimizer),
            0,
            config.kl_coef,
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


@dataclass(frozen=True)
class PPORecord:
    """An iteration that is done: metrics by name, the answers that it learned from, and their raw scores."""

    iteration: int
    metrics: dict[str, float]
    rollout: Rollout
    scores_B: Tensor


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

    score(tokens_BT, lengths_B) -> scores_B judges whole right-padded sequences. prompts: token ids, each ready for an
    answer.
    All randomness depends on (seed, iteration) alone. `replay(iteration)` gives a batch of pretraining data, used when
    config.replay_coef is above 0. Raises ValueError without prompts, or for a replay_coef without `replay`.

    Metrics: objective/* are means a sequence over the rollout, policy/*, value/* and loss/* means a token over the
    updates, check/* must be 0 (the policy of the first minibatch is still the one that sampled).
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
        tokens_BT, mask_BA = rollout.tokens_BT, rollout.mask_BA
        sampled = time.perf_counter()

        # 2. Log-probabilities of policy and reference, and values. The minibatches are those of the first epoch, so
        #    that its first pass repeats the same operations on the same shapes and the ratio is exactly 1.
        partition = minibatch_rows(len(rollout), config.num_minibatches, seeded(seed, iteration, 2, 0))
        old_log_probs_BA, ref_log_probs_BA, entropy_BA, old_values_BA = (torch.zeros(mask_BA.shape) for _ in range(4))
        with torch.no_grad():
            for rows in partition:
                tokens, mask, a = rollout.trimmed(rows)
                old = token_stats(state.policy, tokens, mask, config.temperature, entropy=True)
                old_log_probs_BA[rows, :a], entropy_BA[rows, :a] = old.log_probs_BA, old.entropy_BA
                ref_log_probs_BA[rows, :a] = token_stats(reference, tokens, mask, config.temperature).log_probs_BA
                old_values_BA[rows, :a] = state.critic(tokens[:, :-1]) * mask

            # 3. Scores of whole answers; what was cut by the length limit pays.
            scores_B = score(tokens_BT, rollout.lengths_B)
            judged_B = scores_B.clamp(-config.score_clip, config.score_clip) if config.score_clip else scores_B
            judged_B = judged_B - config.missing_eos_penalty * ~rollout.finished_B

            # 4. Rewards a token: the KL penalty everywhere, the score on the last token (see penalized_rewards).
            kl_BA = kl_estimate(old_log_probs_BA, ref_log_probs_BA, config.kl_estimator) * mask_BA
            rewards_BA = penalized_rewards(judged_B, kl_BA, mask_BA, state.kl_coef)
            if config.whiten_rewards:
                rewards_BA = whiten(rewards_BA, mask_BA, shift_mean=False)

            # 5. Advantages and returns.
            advantages_BA, returns_BA = generalized_advantages(
                rewards_BA, old_values_BA, mask_BA, config.gamma, config.lam
            )
            raw_advantages_BA = advantages_BA
            if config.whiten_advantages:
                advantages_BA = whiten(advantages_BA, mask_BA)

        # 6. Epochs of minibatches: clipped policy loss, clipped value loss, one optimiser step each.
        factor = lr_factor(config.schedule, iteration, config.num_iterations)
        totals: dict[str, float] = {}
        first: dict[str, float] = {}
        num_updates, num_tokens, stopped = 0, 0, False
        for epoch in range(config.num_epochs):
            if epoch:
                partition = minibatch_rows(len(rollout), config.num_minibatches, seeded(seed, iteration, 2, epoch))
            for rows in partition:
                tokens, mask, a = rollout.trimmed(rows)
                new = token_stats(state.policy, tokens, mask, config.temperature)
                log_ratio = new.log_probs_BA - old_log_probs_BA[rows, :a]
                loss_BA, clipped_BA = clipped_surrogate(
                    log_ratio, advantages_BA[rows, :a], config.clip_range, config.clip_range, config.dual_clip
                )
                policy_loss = masked_mean(loss_BA, mask)
                objective = policy_loss + new.auxiliary_loss
                if config.replay_coef and replay is not None and epoch == 0:
                    cross_entropy, _, _ = summed_loss(state.policy, batch := replay(iteration))
                    objective = objective + config.replay_coef * cross_entropy / (batch.targets_BT >= 0).sum()

                values, critic_auxiliary_loss = state.critic.rewards(tokens[:, :-1])
                error_BA, value_clipped_BA = clipped_value_loss(
                    values, old_values_BA[rows, :a], returns_BA[rows, :a], config.value_clip_range
                )
                value_loss = masked_mean(error_BA, mask)

                with torch.no_grad():
                    update_kl = float(masked_mean(kl_estimate(-log_ratio, torch.zeros(()), "k3"), mask))
                    clip_fraction = float(masked_mean(clipped_BA.float(), mask))
                if not first:
                    first = {
                        "check/first_ratio_deviation": float(log_ratio.detach().exp().sub(1).abs().max()),
                        "check/first_clip_fraction": clip_fraction,
                    }
                if config.max_kl and update_kl > config.max_kl:
                    stopped = True
                    break
                objective.backward()
                (value_loss + critic_auxiliary_loss).backward()
                count = int(mask.sum())
                for name, value in {
                    "loss/policy": float(policy_loss.detach()),
                    "loss/value": float(value_loss.detach()),
                    "policy/update_kl": update_kl,
                    "policy/clip_fraction": clip_fraction,
                    "policy/ratio": float(masked_mean(log_ratio.detach().exp(), mask)),
                    "policy/grad_norm": clip_gradients(state.policy_optimizer.params, config.max_grad_norm),
                    "value/clip_fraction": float(masked_mean(value_clipped_BA.float(), mask)),
                    "value/grad_norm": clip_gradients(state.critic_optimizer.params, config.max_grad_norm),
                }.items():
                    totals[name] = totals.get(name, 0.0) + count * value
                state.policy_optimizer.step(factor)
                state.critic_optimizer.step(factor)
                num_updates, num_tokens = num_updates + 1, num_tokens + count
            if stopped:
                break

        # 7. Adapt the KL coefficient, and report.
        kl = {
            name: float((kl_estimate(old_log_probs_BA, ref_log_probs_BA, name) * mask_BA).sum(1).mean())
            for name in ("k1", "k2", "k3")
        }
        used_kl_coef = state.kl_coef
        if config.kl_target:
            state.kl_coef = adapted_kl_coef(state.kl_coef, kl["k1"], config.kl_target, len(rollout), config.kl_horizon)
        state.iteration += 1
        lengths_B = rollout.response_lengths_B.float()
        penalty_B = -used_kl_coef * kl_BA.sum(1)
        drift_BA = (old_log_probs_BA - rollout.sampler_log_probs_BA).abs()
        yield PPORecord(
            iteration,
            {
                "objective/score": float(scores_B.mean()),
                "objective/score_std": float(scores_B.std()),
                "objective/kl": kl["k1"],
                "objective/kl_k2": kl["k2"],
                "objective/kl_k3": kl["k3"],
                "objective/kl_coef": used_kl_coef,
                "objective/non_score_reward": float(penalty_B.mean()),
                "objective/reward": float((judged_B + penalty_B).mean()),
                "objective/return": float(masked_mean(returns_BA, mask_BA)),
                "objective/advantage": float(masked_mean(raw_advantages_BA, mask_BA)),
                "policy/entropy": float(masked_mean(entropy_BA, mask_BA)),
                "value/mean": float(masked_mean(old_values_BA, mask_BA)),
                "value/explained_variance": explained_variance(old_values_BA, returns_BA, mask_BA),
                "response/length": float(lengths_B.mean()),
                "response/length_max": float(lengths_B.max()),
                "response/finished": float(rollout.finished_B.float().mean()),
                "rollout/log_prob_difference": float(drift_BA.max()),
                **{name: total / num_tokens for name, total in totals.items()},
                **first,
                "policy/num_updates": num_updates,
                "policy/lr_factor": factor,
                "tokens": int(rollout.lengths_B.sum()),
                "response/tokens": int(lengths_B.sum()),
                "seconds/sampling": sampled - began,
                "seconds": time.perf_counter() - began,
            },
            rollout,
            scores_B,
        )
