"""Agreement of annotators: raw, Cohen's and Fleiss' kappa, Gwet's AC1, Krippendorff's alpha, with intervals.

α and the kappas compare with chance as the margins have it, so they fall towards 0 where almost all answers are alike
(Feinstein & Cicchetti 1990); raw agreement and AC1 stand beside them for that reason. Ratings may be missing: a unit
counts where at least two rated it.

Shapes: U units, C categories, R sums over units (of all, or without one cluster), G clusters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.statistics import (
    FloatArray,
    Interval,
    cluster_rows,
    clustered_share_interval,
    jackknife_interval,
)

Ratings = Sequence[Mapping[str, Hashable]]
"""A unit each: the category by rater, without those who did not rate it."""


@dataclass(frozen=True)
class Agreement:
    """Coefficients with Student's t intervals of the jackknife over clusters (units by default); None where a
    coefficient is not defined, as when every rating is the same. `n` of each is the number of clusters."""

    raw: Interval | None
    alpha: Interval | None
    alpha_ordinal: Interval | None
    fleiss: Interval | None
    ac1: Interval | None
    num_units: int
    num_raters: int


def agreement(
    ratings: Ratings,
    categories: Sequence[Hashable],
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> Agreement:
    """All coefficients of any number of raters.

    Args:
        ratings: a unit each.
        categories: every category there could be, in their order where they have one.
        clusters: a label a unit; whole clusters are left out (the pairs of one prompt are not independent).

    Raises:
        ValueError: no unit was rated by two, a rating is no category, or `clusters` has another length.
    """
    counts = category_counts(ratings, categories)
    if not (counts.sum(1) >= 2).any():
        raise ValueError("agreement needs at least one unit that two annotators rated")
    if clusters is not None and len(clusters) != len(counts):
        raise ValueError(f"clusters needs one label a unit: {len(counts)} units, {len(clusters)} labels")
    terms = _terms(counts)
    two = np.flatnonzero(counts.sum(1) >= 2)  # the others have a say in chance alone: they make no cluster
    labels = clusters if clusters is not None else range(len(counts))
    groups = cluster_rows([labels[unit] for unit in two.tolist()])
    whole = terms.sum(0)[None]
    left_out = np.stack([whole[0] - terms[two[rows]].sum(0) for rows in groups])
    num_units, num_categories = len(two), counts.shape[1]

    def interval(coefficient: Callable[[FloatArray, int], FloatArray]) -> Interval | None:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = float(coefficient(whole, num_categories)[0])
            others = coefficient(left_out, num_categories)
        return _jackknifed(value, others, confidence)

    raters = {name for unit in ratings for name in unit}
    agreeing = terms[two, 1]
    raw = interval(_raw)
    if agreeing.min() == agreeing.max() in (0.0, 1.0):  # a share that all units have still has an interval
        raw = clustered_share_interval(agreeing, [labels[unit] for unit in two.tolist()], confidence)
    return Agreement(
        raw,
        interval(_alpha_nominal),
        interval(_alpha_ordinal),
        interval(_fleiss),
        interval(_ac1),
        num_units,
        len(raters),
    )


def category_counts(ratings: Ratings, categories: Sequence[Hashable]) -> NDArray[np.int64]:
    """How many raters put each unit into each category, shape (U, C)."""
    index = {category: c for c, category in enumerate(categories)}
    if len(index) < 2 or len(index) != len(categories):
        raise ValueError(f"categories must be at least two, each once, got {list(categories)!r}")
    counts = np.zeros((len(ratings), len(index)), np.int64)
    for u, unit in enumerate(ratings):
        for rater, category in unit.items():
            if category not in index:
                raise ValueError(f"unit {u}: {rater} gave {category!r}, which is none of {list(categories)!r}")
            counts[u, index[category]] += 1
    return counts


def cohen_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    clusters: Sequence[object] | None = None,
    confidence: float = 0.95,
) -> Interval | None:
    """Cohen's (1960) kappa of two raters of the same units, (p_o − p_e) / (1 − p_e), with its interval as `Agreement`
    has them; None where p_e is 1."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"kappa needs the same units from both raters, got {len(first)} and {len(second)}")
    index = {category: c for c, category in enumerate(dict.fromkeys([*first, *second]))}
    table = np.zeros((len(first), len(index), len(index)))
    for u, (a, b) in enumerate(zip(first, second, strict=True)):
        table[u, index[a], index[b]] = 1

    def kappa(tables_RCC: FloatArray) -> FloatArray:
        shares = tables_RCC / tables_RCC.sum((1, 2), keepdims=True)
        observed = np.trace(shares, axis1=1, axis2=2)
        expected = (shares.sum(1) * shares.sum(2)).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(np.isclose(expected, 1), np.nan, (observed - expected) / (1 - expected))

    whole = table.sum(0)
    groups = cluster_rows(clusters if clusters is not None else range(len(first)))
    others = kappa(np.stack([whole - table[rows].sum(0) for rows in groups])) if len(groups) > 1 else np.empty(0)
    return _jackknifed(float(kappa(whole[None])[0]), others, confidence)


def _jackknifed(value: float, left_out: FloatArray, confidence: float) -> Interval | None:
    """No coefficient leaves [-1, 1]. There is no interval (infinite ends) where a coefficient is not defined without
    some cluster, and where none of them makes a difference, as when all agree: how others differ, these do not say."""
    if not np.isfinite(value):
        return None
    if not np.isfinite(left_out).all() or len(left_out) < 2 or np.ptp(left_out) <= 1e-12:
        return Interval(value, -math.inf, math.inf, max(1, len(left_out)))
    x = jackknife_interval(value, left_out, confidence)
    return Interval(value, max(-1.0, x.low), min(1.0, x.high), x.n)


# -- coefficients from sums over units ---------------------------------------------------------------------------


def _terms(counts_UC: NDArray[np.int64]) -> FloatArray:
    """What every coefficient is made of, one row per unit: rated by two?, its agreement, rated at all?, its shares by
    category (C), its part of the coincidence matrix (C·C, Krippendorff 2004, eq. 11.2)."""
    counts = counts_UC.astype(np.float64)
    n_U = counts.sum(1)
    two, any_ = n_U >= 2, n_U >= 1
    pairs = np.where(two, n_U * (n_U - 1), 1.0)
    agreeing = np.where(two, (counts * (counts - 1)).sum(1) / pairs, 0.0)
    shares = counts / np.where(any_, n_U, 1.0)[:, None]
    coincidences = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(counts.shape[1])
    coincidences *= (two / np.where(two, n_U - 1, 1.0))[:, None, None]
    return np.concatenate([np.stack([two, agreeing, any_], 1), shares, coincidences.reshape(len(counts), -1)], 1)


def _raw(sums: FloatArray, num_categories: int) -> FloatArray:
    return sums[:, 1] / sums[:, 0]


def _chance_corrected(observed: FloatArray, expected: FloatArray) -> FloatArray:
    return np.where(np.isclose(expected, 1), np.nan, (observed - expected) / (1 - expected))


def _fleiss(sums: FloatArray, num_categories: int) -> FloatArray:
    """Fleiss (1971); with missing ratings as Gwet (2014, ch. 2) extends it."""
    shares = sums[:, 3 : 3 + num_categories] / sums[:, 2:3]
    return _chance_corrected(_raw(sums, num_categories), (shares**2).sum(1))


def _ac1(sums: FloatArray, num_categories: int) -> FloatArray:
    """Gwet (2008), eq. 13: chance agreement Σ π(1 − π) / (C − 1)."""
    shares = sums[:, 3 : 3 + num_categories] / sums[:, 2:3]
    expected = (shares * (1 - shares)).sum(1) / (num_categories - 1)
    return _chance_corrected(_raw(sums, num_categories), expected)


def _alpha(sums: FloatArray, num_categories: int, distance: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Krippendorff (2004), eq. 11.3: 1 − (n − 1) Σ o_ck δ²_ck / Σ n_c n_k δ²_ck."""
    coincidences = sums[:, 3 + num_categories :].reshape(-1, num_categories, num_categories)
    n_RC = coincidences.sum(2)
    delta = distance(n_RC)
    observed = (coincidences * delta).sum((1, 2))
    expected = (n_RC[:, :, None] * n_RC[:, None, :] * delta).sum((1, 2))
    alpha = 1 - (n_RC.sum(1) - 1) * observed / expected
    return np.where(expected == 0, np.nan, alpha)


def _alpha_nominal(sums: FloatArray, num_categories: int) -> FloatArray:
    return _alpha(sums, num_categories, lambda n_RC: 1 - np.eye(num_categories)[None])


def _alpha_ordinal(sums: FloatArray, num_categories: int) -> FloatArray:
    """δ_ck = Σ_{g=c..k} n_g − (n_c + n_k)/2: how many ratings lie between the two."""

    def between(n_RC: FloatArray) -> FloatArray:
        middle = np.cumsum(n_RC, 1) - n_RC / 2
        return (middle[:, :, None] - middle[:, None, :]) ** 2

    return _alpha(sums, num_categories, between)
