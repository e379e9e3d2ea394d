"""Intervals for what the life of a model measures: accuracies, paired comparisons, means, slopes.

Everything is deterministic: what resamples takes a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval, in the unit of the value; `n` is how many observations it rests on."""

    value: float
    low: float
    high: float
    n: int

    def contains(self, x: float) -> bool:
        """Whether `x` lies in the closed interval."""
        return self.low <= x <= self.high


@dataclass(frozen=True)
class PairedDifference(Interval):
    """Difference of two proportions on the same items (a minus b), in [-1, 1].

    `only_a` and `only_b` count the items that just one of the two got right (McNemar's discordant pairs);
    `p_value` is the exact two-sided McNemar test of no difference.
    """

    only_a: int
    only_b: int
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0.0 or self.high < 0.0


def wilson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Wilson (1927) score interval of a proportion; never leaves [0, 1] and has width at 0 and at n.

    Raises ValueError when n < 1 or successes is outside 0..n.
    """
    _check_confidence(confidence)
    if n < 1:
        raise ValueError(f"a proportion needs at least one item, got n={n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must lie in 0..n, got {successes} of n={n}")
    p = successes / n
    centre, half = _wilson(p, n, float(stats.norm.ppf(0.5 + confidence / 2)))
    low = 0.0 if successes == 0 else centre - half  # exactly 0 and 1 at the ends, not 1e-17
    high = 1.0 if successes == n else centre + half
    return Interval(p, low, high, n)


def _wilson(p: float, n: float, z: float) -> tuple[float, float]:
    """Centre and half width of the score interval of a share p of n items, for the quantile z."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    return centre, z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)


def paired_difference(correct_a: ArrayLike, correct_b: ArrayLike, confidence: float = 0.95) -> PairedDifference:
    """Difference of the accuracies of a and b on the same items, with Tango's (1998) score interval.

    `correct_a`, `correct_b`: shape (n,), booleans or 0/1, item i of one is item i of the other. The score interval
    keeps its coverage where few pairs disagree, where a bootstrap has no width at all.

    Raises ValueError when the lengths differ, are zero, or an entry is neither 0 nor 1.
    """
    _check_confidence(confidence)
    a, b = _zero_one("correct_a", correct_a), _zero_one("correct_b", correct_b)
    if a.size != b.size:
        raise ValueError(f"a paired comparison needs the same items on both sides, got {a.size} and {b.size}")
    if a.size == 0:
        raise ValueError("a paired comparison needs at least one item, got none")
    n = int(a.size)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    low, high = _tango(only_a, only_b, n, confidence)
    return PairedDifference((only_a - only_b) / n, low, high, n, only_a, only_b, mcnemar_p_value(only_a, only_b))


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """Exact two-sided McNemar p value: a fair coin decides each discordant pair under the null."""
    discordant = only_a + only_b
    if discordant == 0:
        return 1.0
    return float(stats.binomtest(only_a, discordant, 0.5).pvalue)


def _tango(only_a: int, only_b: int, n: int, confidence: float) -> tuple[float, float]:
    """Roots of the score statistic in the difference d (Tango 1998, eq. 6): (b - c - n d)² = z² n (2q + d(1 - d))."""
    z = float(stats.norm.ppf(0.5 + confidence / 2))

    def score(d: float) -> float:
        # q is the restricted maximum-likelihood estimate of P(only b) given the difference d.
        linear = -only_a - only_b + (2 * n - only_a + only_b) * d
        constant = -only_b * d * (1 - d)
        q = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        gap = only_a - only_b - n * d
        if variance <= 0.0:
            return math.copysign(math.inf, gap) if gap else 0.0
        return gap / math.sqrt(variance)

    estimate = (only_a - only_b) / n
    # The statistic falls monotonically in d from the estimate outwards and diverges at -1 and 1.
    edge = 1e-12
    low = -1.0 if estimate <= -1 + edge else _root(lambda d: score(d) - z, -1 + edge, estimate)
    high = 1.0 if estimate >= 1 - edge else _root(lambda d: score(d) + z, estimate, 1 - edge)
    return low, high


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    return float(optimize.brentq(function, low, high, xtol=1e-12))


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval. One value gives an infinite interval; none raises ValueError."""
    _check_confidence(confidence)
    x = _finite("values", values)
    if x.size == 0:
        raise ValueError("a mean needs at least one value, got none")
    mean = float(np.mean(x))
    if x.size == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf(0.5 + confidence / 2, x.size - 1) * np.std(x, ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, int(x.size))


def clustered_mean_interval(values: ArrayLike, clusters: Sequence[object], confidence: float = 0.95) -> Interval:
    """Mean of `values` with an interval for other clusters like these: values of one cluster (answers to one request)
    may depend on each other in any way. With clusters of equal size it is Student's t interval of their means.

    The variance is G/(G − 1) · Σ_g (Σ_{i in g} (x_i − mean))² / n² (Cochran 1977, "Sampling Techniques", eq. 11.12
    without the finite population), with G − 1 degrees of freedom. `n` of the result is G. One cluster gives an infinite
    interval; no values, or not one label a value, raise ValueError.
    """
    _check_confidence(confidence)
    x = _finite("values", values)
    if x.size == 0 or len(clusters) != x.size:
        raise ValueError(f"a clustered mean needs one label a value, got {x.size} values and {len(clusters)} labels")
    mean, groups = float(np.mean(x)), cluster_rows(clusters)
    count = len(groups)
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    sums = np.array([float(np.sum(x[rows] - mean)) for rows in groups])
    error = math.sqrt(count / (count - 1) * float(sums @ sums)) / x.size
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error
    return Interval(mean, mean - half, mean + half, count)


def clustered_share_interval(correct: ArrayLike, clusters: Sequence[object], confidence: float = 0.95) -> Interval:
    """Share of `correct` (booleans or 0/1) with an interval for other clusters like these, inside [0, 1] and with width
    at 0 and at 1.

    Wilson's interval for as many independent items as the clusters are worth, n / max(1, design effect), with Student's
    quantile for G − 1 degrees of freedom (Korn & Graubard 1998, "Confidence intervals for proportions with small
    expected number of positive counts", Survey Methodology 24; Dean & Pagano 2015 compare such intervals). Where all
    are alike the design effect cannot be estimated, and the clusters alone count. `n` of the result is G. One cluster
    gives [0, 1]. Raises ValueError as `clustered_mean_interval` does, and for an entry that is neither 0 nor 1.
    """
    right = _zero_one("correct", correct)
    mean = clustered_mean_interval(right, clusters, confidence)
    share, count = mean.value, mean.n
    if count == 1:
        return Interval(share, 0.0, 1.0, 1)
    quantile = float(stats.t.ppf(0.5 + confidence / 2, count - 1))
    variance = ((mean.high - mean.low) / 2 / quantile) ** 2
    worth = float(count) if variance == 0.0 else min(float(right.size), share * (1 - share) / variance)
    centre, half = _wilson(share, worth, quantile)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), count)


def clustered_difference(
    later: ArrayLike,
    later_clusters: Sequence[object],
    earlier: ArrayLike,
    earlier_clusters: Sequence[object],
    confidence: float = 0.95,
) -> Interval:
    """mean(later) − mean(earlier) with Student's t interval over clusters, which both sides may share: what a cluster
    adds to both means cancels, as in a paired comparison.

    With u_g what cluster g adds to the difference, the variance is G/(G − 1) · Σ_g u_g² (the delta method on the two
    means; Cochran 1977, §11), with G − 1 degrees of freedom. `n` of the result is G. With a cluster for every value of
    its own it is the comparison of two independent samples. One cluster gives an infinite interval.
    """
    _check_confidence(confidence)
    sides = (("later", later, later_clusters, 1.0), ("earlier", earlier, earlier_clusters, -1.0))
    parts: dict[object, float] = {}
    change = 0.0
    for name, values, labels, sign in sides:
        x = _finite(name, values)
        if x.size == 0 or len(labels) != x.size:
            raise ValueError(f"{name} needs a value and one label a value, got {x.size} and {len(labels)} labels")
        mean = float(np.mean(x))
        change += sign * mean
        for value, label in zip(x, labels, strict=True):
            parts[label] = parts.get(label, 0.0) + sign * (float(value) - mean) / x.size
    count = len(parts)
    if count == 1:
        return Interval(change, -math.inf, math.inf, 1)
    error = math.sqrt(count / (count - 1) * sum(part * part for part in parts.values()))
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error
    return Interval(change, change - half, change + half, count)


def clustered_least_squares(
    design: ArrayLike, y: ArrayLike, clusters: Sequence[object], confidence: float = 0.95
) -> tuple[Interval, ...]:
    """Weights of the columns of `design`, shape (n, p), that fit y best, each with Student's t interval over clusters,
    within which errors may depend on each other in any way.

    Covariance G/(G − 1) · (X'X)⁻¹ (Σ_g X_g' e_g e_g' X_g) (X'X)⁻¹ (Liang & Zeger 1986), G − 1 degrees of freedom. Where
    every cluster has the same rows it is Student's t over the clusters' own least-squares weights. `n` is G. One
    cluster gives infinite intervals; ValueError for other lengths or a design whose columns depend on each other.
    """
    _check_confidence(confidence)
    x, values = np.asarray(design, dtype=np.float64), _finite("y", y)
    if x.ndim != 2 or len(x) != values.size or len(clusters) != values.size or not np.isfinite(x).all():
        raise ValueError(
            f"a finite row of the design and one label a value are needed: {x.shape}, {values.size}, {len(clusters)}"
        )
    if np.linalg.matrix_rank(x) < x.shape[1]:
        raise ValueError(f"the {x.shape[1]} columns of the design depend on each other in these {len(x)} rows")
    solver = np.linalg.pinv(x)
    weights = solver @ values
    influence = np.stack([solver[:, rows] @ (values - x @ weights)[rows] for rows in cluster_rows(clusters)])
    count = len(influence)
    if count == 1:
        return tuple(Interval(float(w), -math.inf, math.inf, 1) for w in weights)
    errors = np.sqrt(count / (count - 1) * (influence**2).sum(0))
    halves = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * errors
    return tuple(
        Interval(float(w), float(w - half), float(w + half), count) for w, half in zip(weights, halves, strict=True)
    )


def jackknife_interval(whole: float, left_out: ArrayLike, confidence: float = 0.95) -> Interval:
    """Student's t interval of a statistic from its values with one cluster after the other left out (Tukey 1958; Efron
    & Tibshirani 1993, chapter 11): variance (G − 1)/G · Σ_g (θ₍g₎ − mean)², G − 1 degrees of freedom. `n` is G.

    For a smooth function of sums over clusters, such as a ratio or a correlation. Fewer than two values give an
    infinite interval.
    """
    _check_confidence(confidence)
    thetas = _finite("left_out", left_out)
    count = int(thetas.size)
    if count < 2:
        return Interval(whole, -math.inf, math.inf, count)
    error = math.sqrt((count - 1) / count * float(np.sum((thetas - thetas.mean()) ** 2)))
    half = float(stats.t.ppf(0.5 + confidence / 2, count - 1)) * error
    return Interval(whole, whole - half, whole + half, count)


def bootstrap(
    statistic: Callable[[NDArray[np.generic]], float],
    data: ArrayLike,
    seed: int,
    resamples: int = 2000,
    confidence: float = 0.95,
    clusters: Sequence[object] | None = None,
) -> Interval:
    """Percentile bootstrap of `statistic`, which takes rows of `data` (first axis) and gives a number.

    `clusters`: one label per row; whole clusters are then drawn (rows of one run or one prompt are not independent).
    `n` of the result is the number of rows, or of clusters where they are given.
    """
    _check_confidence(confidence)
    rows = np.asarray(data)
    if rows.ndim == 0 or len(rows) == 0:
        raise ValueError("a bootstrap needs at least one row of data, got none")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    if clusters is not None and len(clusters) != len(rows):
        raise ValueError(f"clusters needs one label per row: {len(rows)} rows, {len(clusters)} labels")
    rng = np.random.default_rng(seed)
    groups = cluster_rows(clusters) if clusters is not None else [np.array([i]) for i in range(len(rows))]
    draws = np.empty(resamples)
    for r in range(resamples):
        chosen = rng.integers(0, len(groups), len(groups))
        index = chosen if clusters is None else np.concatenate([groups[g] for g in chosen])
        draws[r] = statistic(rows[index])
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(statistic(rows)), float(low), float(high), len(groups))


def cluster_rows(labels: Sequence[object]) -> list[NDArray[np.int64]]:
    """Row numbers of each distinct label, in the order in which the labels first appear."""
    members: dict[object, list[int]] = {}
    for row, label in enumerate(labels):
        members.setdefault(label, []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in members.values()]


def linear_slope_interval(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> Interval:
    """Slope of the least-squares line of y on x with Student's t interval (n - 2 degrees of freedom).

    Raises ValueError for fewer than three points, for different lengths, or when all x are equal.
    """
    _check_confidence(confidence)
    xs, ys = _finite("x", x), _finite("y", y)
    if xs.size != ys.size:
        raise ValueError(f"x and y must have one length, got {xs.size} and {ys.size}")
    if xs.size < 3:
        raise ValueError(f"the interval of a slope needs at least 3 points, got {xs.size}")
    centred = xs - xs.mean()
    spread = float(centred @ centred)
    if spread == 0.0:
        raise ValueError(f"a slope needs at least two distinct x, all {xs.size} are {xs[0]}")
    slope = float(centred @ ys) / spread
    residual = ys - ys.mean() - slope * centred
    error = math.sqrt(float(residual @ residual) / (xs.size - 2) / spread)
    half = float(stats.t.ppf(0.5 + confidence / 2, xs.size - 2)) * error
    return Interval(slope, slope - half, slope + half, int(xs.size))


def _check_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")


def _zero_one(name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    as_bool = array.astype(bool)
    wrong = np.flatnonzero(array != as_bool)
    if wrong.size:
        raise ValueError(f"{name}[{wrong[0]}] is {array[wrong[0]]!r}; a correct/incorrect vector holds only 0 and 1")
    return as_bool


def _finite(name: str, values: ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if wrong.size:
        raise ValueError(f"{name}[{wrong[0]}] is {array[wrong[0]]}; every value must be finite")
    return array
