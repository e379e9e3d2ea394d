"""Fit of the joint L(N, D) of Kaplan et al. (2020); their other laws are in `law_formulas.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from components.scaling.laws import KaplanLaw
from components.scaling.newton import share_at_minimum
from components.scaling.points import PointArrays, ScalingPoint, point_arrays
from components.statistics import Interval, cluster_rows

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class KaplanFit:
    """The joint law; bootstrap intervals over runs of its four constants; `residuals`: ln observed - ln predicted.

    `samples`: shape (draws, 4), the resampled (N_c, D_c, alpha_N, alpha_D); `objective`: half the sum of squares;
    `gradient`: its largest component a point at the minimum; `share_of_starts`: of the nine that ended there.
    """

    law: KaplanLaw
    intervals: Mapping[str, Interval]
    residuals: FloatArray
    r_squared: float
    samples: FloatArray
    objective: float
    gradient: float
    share_of_starts: float


def fit_kaplan(
    points: Sequence[ScalingPoint], resamples: int = 200, seed: int = 0, confidence: float = 0.95
) -> KaplanFit:
    """Least squares in ln loss for eq. 1.5, from several starts; intervals resample whole runs.

    Raises ValueError for fewer than five points, or a single N or D.
    """
    arrays = point_arrays(points, 5, "Kaplan's joint law")
    for name, values in (("N", arrays.num_params), ("D", arrays.tokens)):
        if len(np.unique(values)) < 2:
            raise ValueError(f"all {len(points)} points have one {name}: its exponent cannot be fitted")
    residuals = _log_residuals(arrays)
    ones = np.ones(len(points))
    starts = [np.array([*_scales(arrays, an, ad), an, ad]) for an in (0.05, 0.15, 0.4) for ad in (0.05, 0.15, 0.4)]
    ends = [_solve(arrays, start, ones) for start in starts]
    objectives = np.array([0.5 * float(np.sum(residuals(end) ** 2)) for end in ends])
    theta = ends[int(objectives.argmin())]
    law = _law(theta)

    rng = np.random.default_rng(seed)
    clusters = cluster_rows(arrays.runs)
    drawn: list[list[float]] = []
    while len(drawn) < resamples:
        weights = np.zeros(len(points))
        for cluster in rng.integers(0, len(clusters), len(clusters)):
            weights[clusters[int(cluster)]] += 1
        kept = weights > 0
        if min(len(np.unique(arrays.num_params[kept])), len(np.unique(arrays.tokens[kept]))) < 2:
            if len(clusters) < 3:
                raise ValueError(f"{len(clusters)} runs are too few to resample: set resamples to 0 or train more")
            continue
        drawn.append(_constants(_law(_solve(arrays, theta, weights))))
    if drawn:
        lows, highs = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    else:
        lows, highs = np.full(4, -math.inf), np.full(4, math.inf)
    names = ("N_c", "D_c", "alpha_N", "alpha_D")
    intervals = {
        name: Interval(v, float(lo), float(hi), len(points))
        for name, v, lo, hi in zip(names, _constants(law), lows, highs, strict=True)
    }
    at_fit = residuals(theta)
    slope = _log_slopes(arrays)(theta).T @ at_fit
    return KaplanFit(
        law,
        intervals,
        -at_fit,
        _r2(at_fit, np.log(arrays.loss)),
        samples=np.array(drawn).reshape(-1, 4),
        objective=float(objectives.min()),
        gradient=float(np.abs(slope).max()) / len(points),
        share_of_starts=share_at_minimum(objectives),
    )


def _log_residuals(arrays: PointArrays) -> Callable[[FloatArray], FloatArray]:
    """θ = (ln N_c, ln D_c, alpha_N, alpha_D); ln L = alpha_D · logsumexp(alpha_N/alpha_D · ln(N_c/N), ln(D_c/D))."""
    log_n, log_d, target = np.log(arrays.num_params), np.log(arrays.tokens), np.log(arrays.loss)

    def residuals(theta: FloatArray) -> FloatArray:
        nc, dc, an, ad = theta
        return np.asarray(ad * np.logaddexp(an / ad * (nc - log_n), dc - log_d) - target)

    return residuals


def _log_slopes(arrays: PointArrays) -> Callable[[FloatArray], FloatArray]:
    """Of `_log_residuals` by each of θ; shape (n, 4)."""
    log_n, log_d = np.log(arrays.num_params), np.log(arrays.tokens)

    def slopes(theta: FloatArray) -> FloatArray:
        nc, dc, an, ad = theta
        first, second = an / ad * (nc - log_n), dc - log_d
        total = np.logaddexp(first, second)
        share = np.exp(first - total)
        return np.stack([an * share, ad * (1 - share), share * (nc - log_n), total - share * first], axis=1)

    return slopes


def _scales(arrays: PointArrays, alpha_n: float, alpha_d: float) -> tuple[float, float]:
    # Start with both terms explaining the mean log loss alone.
    level = float(np.log(arrays.loss).mean())
    return (
        level / alpha_n + float(np.log(arrays.num_params).mean()),
        level / alpha_d + float(np.log(arrays.tokens).mean()),
    )


def _solve(arrays: PointArrays, start: FloatArray, weights: FloatArray) -> FloatArray:
    root = np.sqrt(weights)
    residuals, slopes = _log_residuals(arrays), _log_slopes(arrays)
    found = optimize.least_squares(
        lambda t: root * residuals(t),
        start,
        jac=lambda t: root[:, None] * slopes(t),
        bounds=([-200, -200, 1e-3, 1e-3], [1000, 1000, 5, 5]),
        x_scale=[10, 10, 0.1, 0.1],
        xtol=1e-12,
        ftol=1e-12,
        gtol=1e-12,
    )
    return np.asarray(found.x)


def _law(theta: FloatArray) -> KaplanLaw:
    nc, dc, an, ad = (float(t) for t in theta)
    return KaplanLaw(N_c=math.exp(nc), D_c=math.exp(dc), alpha_N=an, alpha_D=ad)


def _constants(law: KaplanLaw) -> list[float]:
    return [law.N_c, law.D_c, law.alpha_N, law.alpha_D]


def _r2(residual: FloatArray, target: FloatArray) -> float:
    spread = float(np.sum((target - target.mean()) ** 2))
    return 1 - float(residual @ residual) / spread if spread > 0 else math.nan
