"""Shared pure functions of policy optimisation: masked moments, KL estimators, rewards per token, advantages, losses.

Shape suffixes: B sequences, A actions. Action t chooses token t+1, so A is one less than the length in tokens.
Masks are boolean [B, A], true where a response token is chosen; nothing here averages over padding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:  # a type alone: PPO's settings stay out of the key of other algorithms that estimate a KL
    from components.rlhf.ppo_config import KLEstimator


def masked_mean(x_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """Mean over the mask; NaN for an empty mask, as a mean of nothing is."""
    return (x_BA * mask_BA).sum() / mask_BA.sum()


def masked_var(x_BA: Tensor, mask_BA: Tensor) -> Tensor:
    """Sample variance (ddof 1) over the mask; 0 for one value."""
    squares_BA = (x_BA - masked_mean(x_BA, mask_BA)).square() * mask_BA
    return squares_BA.sum() / (mask_BA.sum() - 1).clamp_min(1)


def masked_range(x_BA: Tensor, mask_BA: Tensor) -> tuple[float, float]:
    """Least and greatest value inside the mask."""
    inside_N = x_BA[mask_BA]
    return float(inside_N.min()), float(inside_N.max())


def whiten(x_BA: Tensor, mask_BA: Tensor, shift_mean: bool = True) -> Tensor:
    """Unit variance over the mask, and mean 0 with `shift_mean`; zero outside the mask."""
    mean = masked_mean(x_BA, mask_BA)
    scaled = (x_BA - mean) * torch.rsqrt(masked_var(x_BA, mask_BA) + 1e-8)
    return (scaled if shift_mean else scaled + mean) * mask_BA


def kl_estimate(log_probs: Tensor, ref_log_probs: Tensor, estimator: KLEstimator) -> Tensor:
    """KL(π‖π_ref) per token from samples of π (Schulman 2020, "Approximating KL divergence"), with
    l = log π_ref − log π: k1 = −l (unbiased), k2 = l²/2, k3 = e^l − 1 − l (unbiased, never negative)."""
    log_ratio = ref_log_probs - log_probs
    if estimator == "k1":
        return -log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio.square()
    return log_ratio.exp() - 1 - log_ratio


def penalized_rewards(
    scores_B: Tensor, kl_BA: Tensor, mask_BA: Tensor, kl_coef: float, steps_BA: Tensor | None = None
) -> Tensor:
    """Reward of each step: −kl_coef · KL of the token, and the sequence's score on its last step.

    The convention: the action that emits the end-of-sequence token (or the last token, where the length limit cut
    the answer) carries the score. It is the end of the episode; nothing follows it and no value is bootstrapped.
    `steps_BA` names the steps of an episode where they are more than the actions in the mask (see
    `PPOConfig.score_after_end`).
    """
    rewards_BA = -kl_coef * kl_BA * mask_BA
    rows = torch.arange(len(scores_B))
    rewards_BA[rows, last_action(mask_BA if steps_BA is None else steps_BA)] += scores_B
    return rewards_BA


def last_action(mask_BA: Tensor) -> Tensor:
    """Index of the last true entry of each row, [B]. Every row needs one."""
    return mask_BA.shape[1] - 1 - mask_BA.flip(1).int().argmax(1)


def generalized_advantages(
    rewards_BA: Tensor, values_BA: Tensor, mask_BA: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (advantage + value), both [B, A] and zero outside the mask.

    Schulman et al. 2015 (arXiv 1506.02438), eq. 16: A_t = Σ_l (γλ)^l δ_{t+l} with
    δ_t = r_t + γ V_{t+1} − V_t; the value after the last response token is 0. Steps outside the mask do not exist:
    where a mask has holes, the step after a hole follows the one before it. Neither has a gradient.
    """
    # In numpy, whose operations on a few numbers start faster; one row of memory a step.
    rewards_AB, values_AB, mask_AB = (np.ascontiguousarray(x.detach().T) for x in (rewards_BA, values_BA, mask_BA))
    advantages_AB = np.zeros_like(rewards_AB)
    running_B, next_B = np.zeros_like(rewards_AB[0]), np.zeros_like(rewards_AB[0])
    for t in range(len(rewards_AB) - 1, -1, -1):
        delta_B = rewards_AB[t] + gamma * next_B - values_AB[t]
        running_B = np.where(mask_AB[t], delta_B + gamma * lam * running_B, running_B)
        next_B = np.where(mask_AB[t], values_AB[t], next_B)
        advantages_AB[t] = running_B
    advantages_BA = torch.from_numpy(advantages_AB.T).contiguous()
    return advantages_BA * mask_BA, (advantages_BA + values_BA) * mask_BA


def adapted_kl_coef(kl_coef: float, kl: float, target: float, num_sequences: int, horizon: int) -> float:
    """Proportional controller (Ziegler et al. 2019, eq. 8): kl_coef · (1 + clip(kl/target − 1, ±0.2) · n/horizon),
    with kl in nats per sequence."""
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * num_sequences / horizon)


def sequence_log_ratio(log_ratio_BA: Tensor, mask_BA: Tensor, mean: bool) -> Tensor:
    """Log-ratio of whole answers, the same at each of their tokens [B, A]: with `mean` per token (GSPO, Zheng et al.
    2025, eq. 7), else summed."""
    total_B1 = (log_ratio_BA * mask_BA).sum(1, keepdim=True)
    if mean:
        total_B1 = total_B1 / mask_BA.sum(1, keepdim=True).clamp_min(1)
    return total_B1.expand_as(log_ratio_BA)


def clipped_surrogate(
    log_ratio_BA: Tensor, advantages_BA: Tensor, clip_low: float, clip_high: float, dual_clip: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Loss of each token, and whether the clip binds (it is then without gradient).

    −min(ρA, clip(ρ, 1−clip_low, 1+clip_high)·A) (Schulman et al. 2017, eq. 7). With `dual_clip` c > 1 the loss of a
    negative advantage is at most −cA (Ye et al. 2020, eq. 5). Log-ratios are clamped to ±20 against overflow.
    """
    ratio_BA = log_ratio_BA.clamp(-20.0, 20.0).exp()
    plain = -advantages_BA * ratio_BA
    bounded = -advantages_BA * ratio_BA.clamp(1 - clip_low, 1 + clip_high)
    loss, clipped = torch.maximum(plain, bounded), bounded > plain
    if dual_clip:
        ceiling = -dual_clip * advantages_BA
        binds = (advantages_BA < 0) & (loss > ceiling)
        loss, clipped = torch.where(binds, ceiling, loss), clipped | binds
    return loss, clipped


def clipped_value_loss(
    values_BA: Tensor, old_values_BA: Tensor, returns_BA: Tensor, clip_range: float
) -> tuple[Tensor, Tensor]:
    """Squared error of each token, ½·max(unclipped, clipped to old ± clip_range), and whether the clip binds.
    clip_range 0: no clipping."""
    plain = (values_BA - returns_BA).square()
    if not clip_range:
        return 0.5 * plain, torch.zeros_like(plain, dtype=torch.bool)
    near_BA = torch.minimum(torch.maximum(values_BA, old_values_BA - clip_range), old_values_BA + clip_range)
    bounded = (near_BA - returns_BA).square()
    return 0.5 * torch.maximum(plain, bounded), bounded > plain


def explained_variance(values_BA: Tensor, returns_BA: Tensor, mask_BA: Tensor) -> float:
    """1 − Var(returns − values)/Var(returns) over the mask; NaN when the returns are constant."""
    total = masked_var(returns_BA, mask_BA)
    return float(1 - masked_var(returns_BA - values_BA, mask_BA) / total) if total > 0 else float("nan")
