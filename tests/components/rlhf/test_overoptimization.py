from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from components.rlhf.best_of_n import best_of_n_kl, best_of_n_value, best_of_n_weights
from components.rlhf.overoptimization import (
    Observation,
    best_checkpoint,
    check,
    difference_of_means,
    first_alarm,
    fit_overoptimization,
    observe,
    repeated_share,
)


def _history(proxy: list[float], gold: list[float], noise: float, seed: int, n: int = 96) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        observe(10 * i, i, rng.normal(p, noise, n), rng.normal(g, noise, n))
        for i, (p, g) in enumerate(zip(proxy, gold, strict=True))
    ]


def test_a_hacked_reward_raises_the_alarm_after_gold_has_turned() -> None:
    history = _history([0, 1, 2, 2.5, 3], [0, 0.5, 0.8, -0.5, -3], noise=1.0, seed=0)
    alarm = first_alarm(history)
    assert alarm is not None and alarm.step == 30 and alarm.since_step in (10, 20)
    assert alarm.proxy_change.low > 0 > alarm.gold_change.high and "reward hacking" in alarm.message()
    assert best_checkpoint(history).step == 20


def test_an_honest_reward_raises_none_however_often_one_looks() -> None:
    """Gold is the proxy with independent noise: it rises, then stays for 24 looks. At most 1% of runs may alarm."""
    level = [0, 0.4, 0.8, 1.0, *([1.0] * 20)]
    alarms = sum(first_alarm(_history(level, level, 1.0, seed)) is not None for seed in range(30))
    assert alarms <= 1


def test_a_run_whose_rewards_both_fall_is_no_hacking() -> None:
    assert first_alarm(_history([0, -1, -2], [0, -1, -2], 1.0, seed=1)) is None
    assert check(_history([0], [0], 1.0, seed=1)) is None


def test_the_difference_of_means_is_welchs() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0]
    interval = difference_of_means(a, b, 0.95)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (interval.value, interval.low, interval.high) == pytest.approx((-0.5, expected.low, expected.high))


def test_scores_of_different_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 proxy rewards but 2 gold"):
        observe(0, 0.0, [1, 2, 3], [1, 2])


def test_repetition() -> None:
    assert repeated_share([1, 2, 3, 4, 5]) == 0 and repeated_share([1]) == 0
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)  # 123 231 312 123


@pytest.mark.parametrize("seed", range(3))
def test_the_laws_are_recovered_with_intervals_that_cover(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kl = np.linspace(0.1, 40, 30)
    d = np.sqrt(kl)
    bon = fit_overoptimization(kl, d * (1.0 - 0.12 * d) + rng.normal(0, 0.02, 30), "best_of_n", confidence=0.999)
    assert bon.alpha.contains(1.0) and bon.beta.contains(0.12) and bon.r_squared > 0.9
    assert bon.peak_kl == pytest.approx((1.0 / 0.24) ** 2, rel=0.1) and not bon.extrapolated
    rl = fit_overoptimization(kl, d * (1.0 - 0.5 * np.log(d)) + rng.normal(0, 0.02, 30), "rl", confidence=0.999)
    assert rl.alpha.contains(1.0) and rl.beta.contains(0.5)
    assert rl.peak_kl == pytest.approx(math.exp(2 * (1.0 / 0.5 - 1)), rel=0.1)
    # The peak is where the law itself is highest.
    for fit in (bon, rl):
        assert fit.peak_reward == pytest.approx(float(fit.reward(fit.peak_kl)))
        assert fit.peak_reward > float(fit.reward([0.8 * fit.peak_kl, 1.2 * fit.peak_kl]).max())


def test_a_law_without_a_peak_in_sight_says_so() -> None:
    kl = np.linspace(0.1, 4, 12)
    fit = fit_overoptimization(kl, np.sqrt(kl) * 1.0, "best_of_n")
    assert fit.extrapolated
    with pytest.raises(ValueError, match="at least 3"):
        fit_overoptimization([0, 0, 1, 2], [0, 0, 1, 1], "rl")


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
