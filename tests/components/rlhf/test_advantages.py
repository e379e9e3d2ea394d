"""Each formula against a float64 reference that is written out from its definition, over random masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from components.rlhf.advantages import (
    adapted_kl_coef,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    generalized_advantages,
    kl_estimate,
    masked_mean,
    masked_var,
    penalized_rewards,
    sequence_log_ratio,
    whiten,
)


def _response_masks(seed: int, rows: int = 7, actions: int = 11) -> Tensor:
    rng = np.random.default_rng(seed)
    mask = torch.zeros(rows, actions, dtype=torch.bool)
    for row in range(rows):
        start = int(rng.integers(0, actions - 1))
        mask[row, start : int(rng.integers(start + 1, actions + 1))] = True
    return mask


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(4))
def test_masked_moments_ignore_padding(seed: int) -> None:
    mask, x = _response_masks(seed), _normal(seed, 7, 11)
    inside = x[mask].numpy()
    assert float(masked_mean(x, mask)) == pytest.approx(inside.mean())
    assert float(masked_var(x, mask)) == pytest.approx(inside.var(ddof=1))
    spoiled = torch.where(mask, x, torch.full_like(x, 1e6))
    white = whiten(spoiled, mask)
    assert white[mask].numpy() == pytest.approx((inside - inside.mean()) / inside.std(ddof=1), rel=1e-6)
    assert float(white[~mask].abs().sum()) == 0
    unshifted = whiten(spoiled, mask, shift_mean=False)[mask].numpy()
    assert unshifted.mean() == pytest.approx(inside.mean()) and unshifted.std(ddof=1) == pytest.approx(1, rel=1e-6)


def test_kl_estimators_by_hand_and_unbiased() -> None:
    p, q = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    exact = float((p * (p / q).log()).sum())
    for name in ("k1", "k3"):
        each = kl_estimate(p.log(), q.log(), name)
        assert float((p * each).sum()) == pytest.approx(exact)  # the expectation over samples of p
    assert float(kl_estimate(torch.tensor(-1.0), torch.tensor(-3.0), "k2")) == pytest.approx(2.0)
    k3 = kl_estimate(torch.tensor(-1.0), torch.tensor(-3.0), "k3")
    assert float(k3) == pytest.approx(math.exp(-2) - 1 + 2) and bool((k3 >= 0).all())


def test_the_score_lands_on_the_last_response_token() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    kl = torch.tensor([[9.0, 1.0, 2.0, 3.0, 9.0], [9.0, 9.0, 4.0, 9.0, 9.0], [0.0, 1.0, 0.0, 0.0, 2.0]])
    rewards = penalized_rewards(torch.tensor([10.0, 20.0, 30.0]), kl, mask, 0.5)
    expected = [[0, -0.5, -1, 8.5, 0], [0, 0, 18, 0, 0], [0, -0.5, 0, 0, 29]]
    torch.testing.assert_close(rewards, torch.tensor(expected))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.7), (1.0, 1.0), (0.97, 0.0)])
def test_advantages_equal_the_double_sum(gamma: float, lam: float) -> None:
    mask = _response_masks(5)
    rewards, values = _normal(1, 7, 11) * mask, _normal(2, 7, 11)
    advantages, returns = generalized_advantages(rewards, values, mask, gamma, lam)
    for row in range(len(mask)):
        steps = torch.nonzero(mask[row]).flatten().tolist()
        r, v = [float(rewards[row, t]) for t in steps], [float(values[row, t]) for t in steps]
        deltas = [r[i] + gamma * (v[i + 1] if i + 1 < len(v) else 0.0) - v[i] for i in range(len(v))]
        for i, t in enumerate(steps):
            by_hand = sum((gamma * lam) ** (j - i) * deltas[j] for j in range(i, len(v)))
            assert float(advantages[row, t]) == pytest.approx(by_hand)
            assert float(returns[row, t]) == pytest.approx(by_hand + v[i])
    assert float(advantages[~mask].abs().sum()) == 0 == float(returns[~mask].abs().sum())


@pytest.mark.parametrize("seed", range(3))
def test_steps_outside_a_mask_with_holes_do_not_exist(seed: int) -> None:
    """As verl 0.9.1 has it: what an environment wrote between two turns of the policy is skipped, in float64."""
    rng = np.random.default_rng(seed)
    mask = torch.from_numpy(rng.random((5, 12)) < 0.6)
    mask[:, 3] = True
    rewards, values = _normal(seed, 5, 12), _normal(seed + 9, 5, 12)
    advantages, returns = generalized_advantages(rewards, values, mask, 0.98, 0.9)
    for row in range(5):
        steps = torch.nonzero(mask[row]).flatten().tolist()
        running, following = 0.0, 0.0
        for t in reversed(steps):
            delta = float(rewards[row, t]) + 0.98 * following - float(values[row, t])
            running, following = delta + 0.98 * 0.9 * running, float(values[row, t])
            assert float(advantages[row, t]) == pytest.approx(running, abs=1e-12)
            assert float(returns[row, t]) == pytest.approx(running + following, abs=1e-12)
    white = whiten(advantages, mask)[mask].numpy()
    inside = advantages[mask].numpy()
    assert white == pytest.approx((inside - inside.mean()) / np.sqrt(inside.var(ddof=1) + 1e-8), abs=1e-9)


def test_the_score_after_the_end_token_is_what_the_critic_sees_last() -> None:
    # Two response tokens and a step after the end, values 0.1, 0.2, 0.4: δ = [0.1, 0.2, 2.6].
    mask = torch.tensor([[0, 1, 1, 0]], dtype=torch.bool)
    steps = torch.tensor([[0, 1, 1, 1]], dtype=torch.bool)
    rewards = penalized_rewards(torch.tensor([3.0]), torch.zeros(1, 4), mask, 0.0, steps)
    assert rewards.tolist() == [[0.0, 0.0, 0.0, 3.0]]
    advantages, _ = generalized_advantages(rewards, torch.tensor([[7.0, 0.1, 0.2, 0.4]]), steps, 1.0, 0.95)
    end = 0.2 + 0.95 * 2.6
    torch.testing.assert_close(advantages, torch.tensor([[0, 0.1 + 0.95 * end, end, 2.6]]))


def test_log_ratios_of_whole_answers() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    log_ratio = torch.tensor([[9.0, 0.2, 0.4, 9.0], [0.1, 0.1, 0.1, 0.5]])
    torch.testing.assert_close(sequence_log_ratio(log_ratio, mask, mean=True)[:, 0], torch.tensor([0.3, 0.2]))
    torch.testing.assert_close(sequence_log_ratio(log_ratio, mask, mean=False)[:, 2], torch.tensor([0.6, 0.8]))


def test_advantage_of_the_end_token_under_our_convention() -> None:
    # Two response tokens, values 0.1 and 0.2, score 3 on the end token, no KL: A_end = 3 − 0.2.
    mask = torch.tensor([[0, 1, 1, 0]], dtype=torch.bool)
    rewards = penalized_rewards(torch.tensor([3.0]), torch.zeros(1, 4), mask, 0.0)
    advantages, _ = generalized_advantages(rewards, torch.tensor([[7.0, 0.1, 0.2, 7.0]]), mask, 1.0, 0.95)
    torch.testing.assert_close(advantages, torch.tensor([[0, 0.1 + 0.95 * 2.8, 2.8, 0]]))


@pytest.mark.parametrize("dual_clip", [0.0, 3.0])
def test_policy_loss_equals_the_formula_token_by_token(dual_clip: float) -> None:
    log_ratio, advantages = _normal(3, 6, 9), _normal(4, 6, 9)
    loss, clipped = clipped_surrogate(log_ratio, advantages, 0.2, 0.25, dual_clip)
    for x, a, got, bound in zip(*(t.flatten().tolist() for t in (log_ratio, advantages, loss, clipped)), strict=True):
        ratio = math.exp(x)
        objective = min(ratio * a, min(max(ratio, 0.8), 1.25) * a)
        binds = (a > 0 and ratio > 1.25) or (a < 0 and ratio < 0.8)
        if dual_clip and a < 0 and objective < dual_clip * a:
            objective, binds = dual_clip * a, True
        assert got == pytest.approx(-objective) and bound == binds


def test_policy_gradient_vanishes_exactly_where_the_clip_binds() -> None:
    log_ratio = _normal(3, 6, 9).requires_grad_()
    loss, clipped = clipped_surrogate(log_ratio, _normal(4, 6, 9), 0.2, 0.2, 3.0)
    loss.sum().backward()
    assert log_ratio.grad is not None
    assert bool(((log_ratio.grad == 0) == clipped).all()) and 0 < int(clipped.sum()) < clipped.numel()


def test_an_extreme_ratio_gives_a_finite_loss() -> None:
    loss, _ = clipped_surrogate(torch.tensor([500.0, -500.0]), torch.tensor([-1.0, 1.0]), 0.2, 0.2)
    assert bool(torch.isfinite(loss).all())


def test_value_loss_equals_the_formula() -> None:
    values, old, returns = _normal(5, 6, 9), _normal(6, 6, 9), _normal(7, 6, 9)
    loss, clipped = clipped_value_loss(values, old, returns, 0.2)
    for v, o, r, got, bound in zip(*(t.flatten().tolist() for t in (values, old, returns, loss, clipped)), strict=True):
        near = o + min(max(v - o, -0.2), 0.2)
        assert got == pytest.approx(0.5 * max((v - r) ** 2, (near - r) ** 2))
        assert bound == ((near - r) ** 2 > (v - r) ** 2)
    plain, none = clipped_value_loss(values, old, returns, 0.0)
    torch.testing.assert_close(plain, 0.5 * (values - returns) ** 2)
    assert not bool(none.any())


def test_the_kl_controller_by_hand() -> None:
    assert adapted_kl_coef(0.1, 12.0, 6.0, 100, 10_000) == pytest.approx(0.1 * (1 + 0.2 * 0.01))
    assert adapted_kl_coef(0.1, 5.4, 6.0, 100, 10_000) == pytest.approx(0.1 * (1 - 0.1 * 0.01))
    assert adapted_kl_coef(0.1, 0.0, 6.0, 100, 10_000) == pytest.approx(0.1 * (1 - 0.2 * 0.01))


def test_explained_variance() -> None:
    mask, returns = _response_masks(1), _normal(1, 7, 11)
    assert explained_variance(returns + 3, returns, mask) == pytest.approx(1.0)
    assert explained_variance(torch.zeros_like(returns), returns, mask) == pytest.approx(0.0)
    assert math.isnan(explained_variance(returns, torch.ones_like(returns), mask))
