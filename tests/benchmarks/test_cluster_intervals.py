"""How often 95% intervals over 16 and 36 clusters hold the truth, simulated: of shares, of means, of a law's weights,
of a difference and of an agreement. What items taken as independent and a percentile bootstrap give stands beside them.

    PYTHONPATH=. .venv/bin/python -m pytest tests/benchmarks/test_cluster_intervals.py -m slow -s
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from components.rlhf.agreement import agreement
from components.rlhf.overoptimization_laws import fit_overoptimization
from components.statistics import (
    Interval,
    bootstrap,
    clustered_difference,
    clustered_mean_interval,
    clustered_share_interval,
    wilson,
)

TRIALS = 2000
# Standard error of a coverage of 0.95 in so many trials is 0.005; intervals over few clusters are approximate.
NOMINAL = 0.925, 0.98

Trial = Callable[[np.random.Generator, int], tuple[Interval, float]]  # (rng, clusters) -> interval, truth


def _labels(clusters: int, each: int) -> list[int]:
    return [cluster for cluster in range(clusters) for _ in range(each)]


def _pairs(rng: np.random.Generator, clusters: int, each: int = 5) -> np.ndarray:
    chance = rng.beta(0.66 * 4, 0.34 * 4, clusters)  # correlation within clusters 0.2
    return rng.random(clusters * each) < np.repeat(chance, each)


def share(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
    """Accuracy of a reward model: five pairs of each request."""
    return clustered_share_interval(_pairs(rng, clusters), _labels(clusters, 5)), 0.66


def share_of_unequal_clusters(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
    """One to nine pairs of a request."""
    sizes = rng.integers(1, 10, clusters)
    labels = np.repeat(np.arange(clusters), sizes)
    right = rng.random(labels.size) < rng.beta(0.66 * 4, 0.34 * 4, clusters)[labels]
    return clustered_share_interval(right, labels.tolist()), 0.66


def mean(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
    """Gold of a policy: twelve answers to each request, skewed."""
    values = np.repeat(rng.exponential(1.0, clusters), 12) + rng.normal(0, 1, clusters * 12)
    return clustered_mean_interval(values, _labels(clusters, 12)), 1.0


def law(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
    """α of best-of-n: each request with its own, seen at seven sizes."""
    kl = np.log([1, 2, 4, 8, 16, 32, 64]) - np.array([0, 1 / 2, 3 / 4, 7 / 8, 15 / 16, 31 / 32, 63 / 64])
    d = np.sqrt(kl)
    gains = d * (1.0 - 0.2 * d) + rng.normal(0, 0.4, (clusters, 1)) * d + rng.normal(0, 0.2, (clusters, 7))
    return fit_overoptimization(np.tile(kl, clusters), gains.ravel(), _labels(clusters, 7), "best_of_n").alpha, 1.0


def difference(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
    """Two looks at the same requests."""
    level = np.repeat(rng.normal(0, 2, clusters), 3)
    later, earlier = level + rng.normal(0.3, 1, level.size), level + rng.normal(0, 1, level.size)
    labels = _labels(clusters, 3)
    return clustered_difference(later, labels, earlier, labels), 0.3


def agreeing(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
    """Krippendorff's α of two annotators on three pairs of each request; both labels are even, so that it is twice the
    chance of agreeing less one."""
    same = rng.random(clusters * 3) < np.repeat(rng.beta(6.4, 1.6, clusters), 3)
    first = rng.integers(0, 2, clusters * 3)
    ratings = [{"a": int(x), "b": int(x if y else 1 - x)} for x, y in zip(first, same, strict=True)]
    found = agreement(ratings, (0, 1), _labels(clusters, 3)).alpha
    assert found is not None
    return found, 0.6


def coverage(trial: Trial, clusters: int, trials: int = TRIALS) -> float:
    """Share of simulated intervals that hold the truth."""
    rng = np.random.default_rng(clusters)
    found = [trial(rng, clusters) for _ in range(trials)]
    return float(np.mean([interval.contains(truth) for interval, truth in found]))


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [16, 36])
@pytest.mark.parametrize("trial", [share, share_of_unequal_clusters, mean, law, difference, agreeing])
def test_intervals_over_clusters_hold_the_truth(trial: Trial, clusters: int) -> None:
    held = coverage(trial, clusters)
    print(f"\n{trial.__name__}, {clusters} clusters: {held:.1%} of {TRIALS} intervals hold the truth")
    assert NOMINAL[0] <= held <= NOMINAL[1]


@pytest.mark.slow
def test_what_was_there_before_does_not() -> None:
    """Pairs taken as independent, and the percentile bootstrap over 16 clusters."""

    def independent(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
        right = _pairs(rng, clusters)
        return wilson(int(right.sum()), right.size), 0.66

    def percentile(rng: np.random.Generator, clusters: int) -> tuple[Interval, float]:
        values = rng.normal(0, 1, clusters)
        return bootstrap(lambda x: float(np.mean(x)), values, seed=int(rng.integers(2**31)), resamples=400), 0.0

    apart, resampled = coverage(independent, 36), coverage(percentile, 16, 1000)
    print(f"\nitems as independent, 36 clusters: {apart:.1%}; percentile bootstrap, 16 clusters: {resampled:.1%}")
    assert apart < 0.9
    assert resampled < 0.935
