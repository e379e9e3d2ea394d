from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from components.statistics import (
    bootstrap,
    cluster_rows,
    clustered_difference,
    clustered_least_squares,
    clustered_mean_interval,
    clustered_share_interval,
    jackknife_interval,
    linear_slope_interval,
    mcnemar_p_value,
    mean_interval,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 29), (15, 148), (81, 263), (300, 300)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_scipys_score_interval(successes: int, n: int, confidence: float) -> None:
    got = wilson(successes, n, confidence)
    want = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=1e-12)
    assert (got.value, got.n) == (successes / n, n)


def test_wilson_gives_newcombes_published_example() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I: 81 of 263, method 3.
    got = wilson(81, 263)
    assert (round(got.low, 4), round(got.high, 4)) == (0.2553, 0.3662)


def vectors(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return a, b


def score_by_restricted_likelihood(d: float, only_a: int, only_b: int, n: int) -> float:
    """Score statistic with the nuisance parameter found by maximising the likelihood under difference d."""
    rest = n - only_a - only_b

    def negative(q: float) -> float:
        cells = ((only_a, q + d), (only_b, q), (rest, 1 - 2 * q - d))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in cells if count)

    low, high = max(0.0, -d), (1 - d) / 2
    q = optimize.minimize_scalar(negative, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (only_a - only_b - n * d) / math.sqrt(n * (2 * q + d - d * d))


@pytest.mark.parametrize("cells", [(36, 12, 2, 0), (20, 9, 3, 18), (43, 0, 1, 0), (100, 5, 0, 45)])
def test_paired_interval_ends_where_the_score_test_does(cells: tuple[int, int, int, int]) -> None:
    got = paired_difference(*vectors(*cells))
    _, only_a, only_b, _ = cells
    z = stats.norm.ppf(0.975)
    assert got.value == (only_a - only_b) / sum(cells)
    assert score_by_restricted_likelihood(got.low, only_a, only_b, got.n) == pytest.approx(z, abs=2e-3)
    assert score_by_restricted_likelihood(got.high, only_a, only_b, got.n) == pytest.approx(-z, abs=2e-3)


def test_mcnemar_by_hand() -> None:
    # 2 against 8 discordant pairs: 2 * (1 + 10 + 45) / 2**10.
    assert mcnemar_p_value(2, 8) == pytest.approx(2 * 56 / 1024)
    assert mcnemar_p_value(0, 0) == 1.0
    assert paired_difference(*vectors(50, 8, 2, 40)).p_value == pytest.approx(2 * 56 / 1024)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, 30)] * 4).filter(lambda cells: sum(cells) > 0))
def test_paired_difference_holds_its_estimate_and_flips_with_its_sides(cells: tuple[int, int, int, int]) -> None:
    a, b = vectors(*cells)
    forth, back = paired_difference(a, b), paired_difference(b, a)
    assert -1 <= forth.low <= forth.value <= forth.high <= 1
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low), abs=1e-9)
    assert forth.low < forth.high or abs(forth.value) == 1


def test_paired_interval_covers_at_its_level() -> None:
    rng = np.random.default_rng(3)
    truth, hits, trials = 0.1 - 0.03, 0, 400
    for _ in range(trials):
        u = rng.random(60)
        only_a, only_b = u < 0.1, (u >= 0.1) & (u < 0.13)
        both = u > 0.6
        hits += paired_difference(only_a | both, only_b | both).contains(truth)
    # Binomial 99.9% limits round 0.95 of 400; the naive (Wald) interval falls to about 0.90 here.
    assert 0.91 <= hits / trials <= 0.985


def test_mean_interval_is_scipys_t_interval() -> None:
    x = [2.0, 3.5, 1.0, 7.0]
    got = mean_interval(x)
    assert (got.low, got.high) == pytest.approx(stats.t.interval(0.95, 3, loc=np.mean(x), scale=stats.sem(x)))
    assert mean_interval([4.0]).high == math.inf


def test_slope_interval_is_scipys() -> None:
    x, y = [1.0, 2.0, 3.0, 5.0, 8.0], [2.1, 3.9, 6.2, 9.7, 16.4]
    fit = stats.linregress(x, y)
    got = linear_slope_interval(x, y, 0.9)
    half = stats.t.ppf(0.95, 3) * fit.stderr
    assert (got.value, got.low, got.high) == pytest.approx((fit.slope, fit.slope - half, fit.slope + half))


def test_bootstrap_agrees_with_scipy_and_repeats() -> None:
    x = np.random.default_rng(0).exponential(size=50)
    got = bootstrap(np.median, x, seed=1, resamples=3000)
    want = stats.bootstrap((x,), np.median, method="percentile", n_resamples=3000, rng=5).confidence_interval
    assert (got.low, got.high) == pytest.approx((want.low, want.high), abs=0.06)
    assert bootstrap(np.median, x, seed=1, resamples=50) == bootstrap(np.median, x, seed=1, resamples=50)


def test_cluster_bootstrap_is_wider_when_rows_repeat() -> None:
    x = np.random.default_rng(0).normal(size=20)
    rows, labels = np.repeat(x, 10), list(np.repeat(np.arange(20), 10))
    plain = bootstrap(np.mean, rows, seed=0, resamples=800)
    clustered = bootstrap(np.mean, rows, seed=0, resamples=800, clusters=labels)
    ratio = (clustered.high - clustered.low) / (plain.high - plain.low)
    assert ratio == pytest.approx(math.sqrt(10), rel=0.15)
    assert clustered.n == 20
    assert [list(rows) for rows in cluster_rows(["b", "a", "b"])] == [[0, 2], [1]]


def test_a_share_over_clusters_of_one_item_is_wilsons_with_students_quantile() -> None:
    right = [1] * 13 + [0] * 7
    got = clustered_share_interval(right, range(20))
    # Newton's identity of the score interval: |p̂ − p| = q √(p (1 − p) / n_eff) at both ends.
    quantile = stats.t.ppf(0.975, 19)
    worth = 19.0  # p (1 − p) over the variance of a mean that divides by n − 1
    for end in (got.low, got.high):
        assert abs(0.65 - end) == pytest.approx(quantile * math.sqrt(end * (1 - end) / worth))
    assert (got.value, got.n) == (0.65, 20)


def test_a_share_keeps_a_width_where_all_are_alike_and_counts_clusters_alone() -> None:
    few, many = clustered_share_interval([1] * 8, [0, 1] * 4), clustered_share_interval([1] * 800, [0, 1] * 400)
    assert few == many and few.high == 1.0 and few.low < 0.1  # two requests, however many answers
    assert clustered_share_interval([0] * 30, range(30)).high < 0.15
    alone = clustered_share_interval([1, 1, 0], ["x"] * 3)
    assert (alone.low, alone.high, alone.n) == (0.0, 1.0, 1)
    with pytest.raises(ValueError, match=r"correct\[1\]"):
        clustered_share_interval([1, 2], "xy")


def test_a_difference_within_shared_clusters_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(0, 3, 20)
    later, earlier = level + rng.normal(0.5, 0.3, 20), level + rng.normal(0, 0.3, 20)
    paired = clustered_difference(later, range(20), earlier, range(20))
    want = mean_interval(later - earlier)
    assert (paired.value, paired.low, paired.high) == pytest.approx((want.value, want.low, want.high))
    # Of clusters that are not shared it is that of independent samples, up to n/(n − 1) and degrees of freedom.
    apart = clustered_difference(later, range(20), earlier, range(20, 40))
    spread = math.sqrt(np.var(later, ddof=1) / 20 + np.var(earlier, ddof=1) / 20)
    assert (apart.high - apart.low) / 2 == pytest.approx(stats.t.ppf(0.975, 39) * spread, rel=0.03)
    assert clustered_difference([1.0, 2.0], "xx", [0.0], "x").high == math.inf


def test_clustered_least_squares_is_the_sandwich_of_liang_and_zeger() -> None:
    rng = np.random.default_rng(2)
    design, groups = np.stack([np.ones(40), rng.normal(size=40)], 1), [i // 5 for i in range(40)]
    y = design @ [1.0, -2.0] + np.repeat(rng.normal(size=8), 5) + rng.normal(0, 0.2, 40)
    found = clustered_least_squares(design, y, groups)
    weights, *_ = np.linalg.lstsq(design, y, rcond=None)
    bread = np.linalg.inv(design.T @ design)
    scores = [design[np.array(groups) == g].T @ (y - design @ weights)[np.array(groups) == g] for g in range(8)]
    covariance = 8 / 7 * bread @ sum(np.outer(s, s) for s in scores) @ bread
    for x, weight, variance in zip(found, weights, np.diag(covariance), strict=True):
        half = stats.t.ppf(0.975, 7) * math.sqrt(variance)
        assert (x.value, x.low, x.high, x.n) == pytest.approx((weight, weight - half, weight + half, 8))
    with pytest.raises(ValueError, match="depend on each other"):
        clustered_least_squares([[1, 1], [1, 1]], [0, 1], "xy")


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    x = np.random.default_rng(1).normal(size=12)
    left_out = [np.delete(x, i).mean() for i in range(12)]
    got, want = jackknife_interval(float(x.mean()), left_out), mean_interval(x)
    assert (got.value, got.low, got.high, got.n) == pytest.approx((want.value, want.low, want.high, 12))
    assert jackknife_interval(0.3, [0.2]).low == -math.inf


def clustered_pairs(rng: np.random.Generator, clusters: int, each: int = 5) -> tuple[np.ndarray, list[int]]:
    """0/1 items of mean 0.7 whose chance differs from cluster to cluster: correlation within clusters 0.2."""
    chance = rng.beta(0.7 * 4, 0.3 * 4, clusters)
    return rng.random(clusters * each) < np.repeat(chance, each), [c for c in range(clusters) for _ in range(each)]


def test_a_share_over_clusters_holds_the_truth_where_items_taken_as_independent_do_not() -> None:
    rng, trials = np.random.default_rng(5), 400
    held = {"clusters": 0, "items": 0}
    for _ in range(trials):
        right, labels = clustered_pairs(rng, 16)
        held["clusters"] += clustered_share_interval(right, labels).contains(0.7)
        held["items"] += wilson(int(right.sum()), right.size).contains(0.7)
    # Binomial 99.9% limits round 0.95 of 400.
    assert 0.91 <= held["clusters"] / trials <= 0.985
    assert held["items"] / trials < 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(1, 0), "at least one item"),
        (lambda: wilson(5, 4), "0..n"),
        (lambda: wilson(1, 2, 95), "confidence"),
        (lambda: paired_difference([1, 0], [1]), "same items"),
        (lambda: paired_difference([1, 2], [1, 0]), r"correct_a\[1\]"),
        (lambda: mean_interval([1.0, math.nan]), r"values\[1\]"),
        (lambda: linear_slope_interval([1, 1, 1], [1, 2, 3]), "distinct x"),
        (lambda: bootstrap(np.mean, [], seed=0), "at least one row"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_clusters_of_one_size_count_as_their_means() -> None:
    values, labels = [1.0, 3.0, 2.0, 6.0, 4.0, 8.0], ["a", "a", "b", "b", "c", "c"]
    got, want = clustered_mean_interval(values, labels), mean_interval([2.0, 4.0, 6.0])
    assert (got.value, got.low, got.high, got.n) == pytest.approx((want.value, want.low, want.high, 3))
    alone = clustered_mean_interval(values, range(6))
    assert (alone.low, alone.high, alone.n) == pytest.approx((mean_interval(values).low, mean_interval(values).high, 6))
    assert clustered_mean_interval(values, ["a"] * 6).high == math.inf
    with pytest.raises(ValueError, match="6 values and 2 labels"):
        clustered_mean_interval(values, ["a", "b"])


def test_a_clustered_interval_holds_where_the_rows_of_a_cluster_are_alike() -> None:
    """16 requests of unequal numbers of answers, between them a sixth of the spread within."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(16), rng.integers(15, 35, 16)).tolist()
    clustered = plain = 0
    for _ in range(2000):
        values = rng.normal(0, 0.17, 16)[labels] + rng.normal(0, 1, len(labels))
        clustered += clustered_mean_interval(values, labels).contains(0.0)
        plain += mean_interval(values).contains(0.0)
    assert 0.935 < clustered / 2000 < 0.965
    assert plain / 2000 < 0.90
