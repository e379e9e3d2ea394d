from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from components.rlhf.best_of_n import best_of_n_kl, best_of_n_value, best_of_n_weights
from components.rlhf.overoptimization_laws import fit_overoptimization
from components.statistics import mean_interval


@pytest.mark.parametrize("seed", range(3))
def test_the_laws_are_recovered_with_intervals_that_cover(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kl = np.linspace(0.1, 40, 30)
    d = np.sqrt(kl)
    bon = fit_overoptimization(kl, d * (1.0 - 0.12 * d) + rng.normal(0, 0.02, 30), range(30), "best_of_n", 0.999)
    assert bon.alpha.contains(1.0) and bon.beta.contains(0.12) and bon.r_squared > 0.9
    assert bon.peak_kl == pytest.approx((1.0 / 0.24) ** 2, rel=0.1) and not bon.extrapolated
    rl = fit_overoptimization(kl, d * (1.0 - 0.5 * np.log(d)) + rng.normal(0, 0.02, 30), range(30), "rl", 0.999)
    assert rl.alpha.contains(1.0) and rl.beta.contains(0.5)
    assert rl.peak_kl == pytest.approx(math.exp(2 * (1.0 / 0.5 - 1)), rel=0.1)
    # The peak is where the law itself is highest.
    for fit in (bon, rl):
        assert fit.peak_reward == pytest.approx(float(fit.reward(fit.peak_kl)))
        assert fit.peak_reward > float(fit.reward([0.8 * fit.peak_kl, 1.2 * fit.peak_kl]).max())


def test_a_law_without_a_peak_in_sight_says_so() -> None:
    kl = np.linspace(0.1, 4, 12)
    fit = fit_overoptimization(kl, np.sqrt(kl) * 1.0, range(12), "best_of_n")
    assert fit.extrapolated
    with pytest.raises(ValueError, match="at least 3"):
        fit_overoptimization([0, 0, 1, 2], [0, 0, 1, 1], range(4), "rl")


def test_a_request_is_one_observation_of_the_law_however_often_it_was_seen() -> None:
    """Where each has a gain at every KL, α and β are Student's t over the requests' own fits, done here one by one."""
    rng = np.random.default_rng(4)
    kl = np.array([best_of_n_kl(n) for n in (1, 2, 4, 8, 16, 32, 64)])
    d = np.sqrt(kl)
    items = d * (1.0 - 0.2 * d) + rng.normal(0, 0.4, (16, 1)) * d + rng.normal(0, 0.2, (16, 7))
    points = np.tile(kl, 16), items.ravel(), [request for request in range(16) for _ in kl]
    fit = fit_overoptimization(*points, "best_of_n")
    own = [np.linalg.lstsq(np.stack([d, -(d**2)], 1), row, rcond=None)[0] for row in items]
    for found, weights in zip((fit.alpha, fit.beta), np.transpose(own), strict=True):
        by_hand = mean_interval(weights)
        assert found.n == 16
        assert (found.value, found.low, found.high) == pytest.approx((by_hand.value, by_hand.low, by_hand.high))
    # The same requests seen four times make it no surer.
    often = fit_overoptimization(np.tile(points[0], 4), np.tile(points[1], 4), points[2] * 4, "best_of_n")
    assert (often.alpha.low, often.alpha.high) == pytest.approx((fit.alpha.low, fit.alpha.high))
    assert fit.result().alpha == fit.alpha


def test_best_of_n_kl() -> None:
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)


def test_best_of_n_equals_the_enumeration_of_all_subsets() -> None:
    rng = np.random.default_rng(0)
    scores, values = rng.normal(size=9), rng.normal(size=9)
    for n in range(1, 10):
        subsets = list(combinations(range(9), n))
        by_hand = np.mean([values[max(s, key=lambda i: scores[i])] for s in subsets])
        assert best_of_n_value(scores, values, n) == pytest.approx(by_hand)
    assert best_of_n_value(scores, scores, 9) == pytest.approx(scores.max())


def test_samples_that_tie_share_the_win() -> None:
    assert best_of_n_weights([1.0, 1.0, 1.0, 1.0], 3).tolist() == pytest.approx([0.25] * 4)
    assert best_of_n_weights([2.0, 2.0, 1.0], 2).tolist() == pytest.approx([0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="best of 4"):
        best_of_n_weights([1.0, 2.0], 4)
