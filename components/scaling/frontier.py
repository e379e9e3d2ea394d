"""Approaches 1 and 2 of Hoffmann et al. (2022): how N and D should grow with compute, without assuming a law of loss.

Approach 1 takes the lower envelope of training curves; approach 2 the minima of isoFLOP parabolas. Both are biased
where the sizes tried are few or lie asymmetrically round the optimum: read them beside approach 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from components.scaling.points import ScalingPoint, point_arrays
from components.statistics import Interval, cluster_rows, linear_slope_interval

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """The best N found at one budget: `flops` C, `num_params` N*, `tokens` D* (C/6N* where C = 6ND), and its loss.

    `low`, `high`: 95% interval of N* where the points allow one, otherwise nan.
    """

    flops: float
    num_params: float
    tokens: float
    loss: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class FrontierFit:
    """N* = params_scale · C^a and D* = tokens_scale · C^b, with the optima that the lines go through.

    `a`, `b`: exponents with intervals (infinite where fewer than three optima, or two runs, stand behind them).
    `samples`: shape (draws, 4), (a, ln params_scale, b, ln tokens_scale) of the resamples; (0, 4) for approach 2, whose
    interval is Student's t of the line.
    """

    approach: int
    a: Interval
    b: Interval
    params_scale: float
    tokens_scale: float
    optima: tuple[Optimum, ...]
    warnings: tuple[str, ...]
    samples: FloatArray

    def num_params(self, flops: float) -> float:
        """N* at a budget in FLOPs."""
        return self.params_scale * flops**self.a.value

    def to_json(self) -> dict[str, Any]:
        return {
            "approach": self.approach,
            "a": vars(self.a),
            "b": vars(self.b),
            "params_scale": self.params_scale,
            "tokens_scale": self.tokens_scale,
            "optima": [vars(o) for o in self.optima],
            "warnings": list(self.warnings),
        }


def fit_envelope(
    points: Sequence[ScalingPoint],
    num_budgets: int = 64,
    resamples: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
    flops: Sequence[float] | None = None,
) -> FrontierFit:
    """Approach 1: at each of `num_budgets` log-spaced budgets, the run of lowest loss, interpolated in ln C.

    A run's points at several token counts are its training curve. A budget counts only where the best run is neither
    the smallest nor the largest of those that reach it: at the edges the true optimum may lie outside. The intervals
    resample whole runs. `flops`: C of each point, where it is not 6ND.

    Raises ValueError when fewer than three runs have a curve (two or more points), or no optimum lies inside.
    """
    arrays = point_arrays(points, 6, "the training-curve envelope")
    compute = 6 * arrays.num_params * arrays.tokens if flops is None else np.asarray(flops, dtype=np.float64)
    curves = []
    for rows in cluster_rows(arrays.runs):
        sizes = np.unique(arrays.num_params[rows])
        if len(sizes) > 1:
            raise ValueError(f"run {arrays.runs[rows[0]]!r} has points of {len(sizes)} sizes: a run trains one model")
        order = rows[np.argsort(arrays.tokens[rows])]
        if len(order) > 1:
            curves.append((float(sizes[0]), np.log(compute[order]), arrays.loss[order], np.log(arrays.tokens[order])))
    if len(curves) < 3:
        raise ValueError(
            f"the training-curve envelope needs at least 3 runs with 2 or more points each, got {len(curves)}: "
            "read the loss at more checkpoints"
        )
    grid = np.linspace(min(c[1][0] for c in curves), max(c[1][-1] for c in curves), num_budgets)
    sizes = np.array([c[0] for c in curves])
    losses = np.stack([np.interp(grid, x, y, left=np.nan, right=np.nan) for _, x, y, _ in curves])
    tokens = np.exp(np.stack([np.interp(grid, x, d) for _, x, _, d in curves]))

    optima = _envelope(grid, sizes, losses, tokens)
    distinct = len({o.num_params for o in optima})
    if distinct < 2:
        raise ValueError(
            "no envelope: at every budget the best run is the smallest or the largest that reaches it. "
            "Train sizes on both sides of the optimum for longer"
        )
    line = _lines(optima)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = rng.integers(0, len(curves), len(curves))
        resampled = _envelope(grid, sizes[chosen], losses[chosen], tokens[chosen])
        if len({o.num_params for o in resampled}) > 1:
            drawn.append(_lines(resampled))
    warnings = []
    if distinct < 4:
        warnings.append(f"only {distinct} sizes are ever best: the slope rests on steps between them")
    if len(drawn) < resamples / 2:
        warnings.append("over half of the resamples have no envelope: too few runs for an interval")
        drawn = []
    samples = np.array(drawn).reshape(-1, 4)
    a, b = (_interval(line[i], samples[:, i], confidence, len(curves)) for i in (0, 2))
    return FrontierFit(1, a, b, math.exp(line[1]), math.exp(line[3]), tuple(optima), tuple(warnings), samples)


def _envelope(grid: FloatArray, sizes: FloatArray, losses: FloatArray, tokens: FloatArray) -> list[Optimum]:
    optima = []
    for i, log_flops in enumerate(grid.tolist()):
        reach = np.flatnonzero(~np.isnan(losses[:, i]))
        if len(reach) < 3:
            continue
        best = reach[np.argmin(losses[reach, i])]
        n = float(sizes[best])
        if sizes[reach].min() < n < sizes[reach].max():
            optima.append(Optimum(math.exp(log_flops), n, float(tokens[best, i]), float(losses[best, i])))
    return optima


def fit_isoflop(
    points: Sequence[ScalingPoint],
    tolerance: float = 0.05,
    confidence: float = 0.95,
    budgets: Sequence[float] | None = None,
) -> FrontierFit:
    """Approach 2: a parabola of loss in ln N at each budget, then a line through the minima.

    Points whose FLOPs lie within a factor 1 + `tolerance` form one profile. `budgets`: the nominal FLOPs of each point;
    without them 6ND, which tears profiles apart whose FLOPs were counted in another way. D* lies on the profile's own
    line of ln D in ln N. A profile needs three sizes and a minimum between its smallest and largest; the others are
    left out and named in `warnings`. The interval of N* is by the delta method and needs four sizes.

    Raises ValueError when fewer than two budgets have a minimum.
    """
    arrays = point_arrays(points, 6, "isoFLOP profiles")
    flops = 6 * arrays.num_params * arrays.tokens if budgets is None else np.asarray(budgets, dtype=np.float64)
    optima: list[Optimum] = []
    left_out: list[str] = []
    lopsided: list[str] = []
    for rows in _budgets(flops, tolerance):
        budget = float(np.exp(np.log(flops[rows]).mean()))
        distinct = len(np.unique(arrays.num_params[rows]))
        if distinct < 3:
            left_out.append(f"budget {budget:.2e} FLOPs left out: {distinct} sizes, a parabola needs 3")
            continue
        found = _vertex(np.log(arrays.num_params[rows]), arrays.loss[rows], confidence)
        if isinstance(found, str):
            left_out.append(f"budget {budget:.2e} FLOPs left out: {found}")
            continue
        log_n, loss, half = found
        sizes = np.log(arrays.num_params[rows])
        _, level = np.polyfit(sizes - log_n, np.log(arrays.tokens[rows]), 1)
        optima.append(
            Optimum(budget, math.exp(log_n), math.exp(level), loss, math.exp(log_n - half), math.exp(log_n + half))
        )
        place = (log_n - sizes.min()) / (sizes.max() - sizes.min())
        if not 0.25 < place < 0.75:
            lopsided.append(f"{budget:.3g} ({place:.0%})")
    warnings = left_out
    if len(left_out) > 6:
        warnings = [*left_out[:4], f"and {len(left_out) - 4} more budgets of {len(left_out) + len(optima)} left out"]
    if len(optima) < 2:
        raise ValueError(
            f"isoFLOP profiles need a minimum at two or more budgets, got {len(optima)}. " + "; ".join(warnings)
        )
    if lopsided:
        warnings.append(
            "the minimum lies far from the middle of the sizes tried, in logs, at the budgets "
            f"{', '.join(lopsided)} of the way up: a parabola on a lopsided grid puts its minimum in the wrong place"
        )
    line = _lines(optima)
    if len(optima) < 3:
        warnings.append("two budgets: the slope has no interval")
        a, b = (Interval(line[i], -math.inf, math.inf, 2) for i in (0, 2))
    else:
        log_flops = [math.log(o.flops) for o in optima]
        a, b = (
            linear_slope_interval(log_flops, np.log([getattr(o, name) for o in optima]), confidence)
            for name in ("num_params", "tokens")
        )
    return FrontierFit(2, a, b, math.exp(line[1]), math.exp(line[3]), tuple(optima), tuple(warnings), np.empty((0, 4)))


def _budgets(flops: FloatArray, tolerance: float) -> list[NDArray[np.int64]]:
    order = np.argsort(flops)
    cuts = np.flatnonzero(np.diff(np.log(flops[order])) > math.log1p(tolerance)) + 1
    return list(np.split(order, cuts))


def _vertex(log_n: FloatArray, loss: FloatArray, confidence: float) -> tuple[float, float, float] | str:
    """Minimum of the least-squares parabola: place, loss, half width of the place; or why there is none."""
    centre = log_n.mean()
    x = log_n - centre
    design = np.stack([np.ones_like(x), x, x * x], axis=1)
    coefficients, _, _, _ = np.linalg.lstsq(design, loss, rcond=None)
    level, slope, curvature = (float(c) for c in coefficients)
    if curvature <= 0:
        return "the parabola opens downwards"
    place = -slope / (2 * curvature)
    if not x.min() < place < x.max():
        return "the minimum lies outside the sizes tried"
    half = math.nan
    if len(x) > 3:
        residual = loss - design @ coefficients
        covariance = np.linalg.inv(design.T @ design) * float(residual @ residual) / (len(x) - 3)
        gradient = np.array([0.0, -0.5 / curvature, 0.5 * slope / curvature**2])
        half = float(stats.t.ppf(0.5 + confidence / 2, len(x) - 3)) * math.sqrt(float(gradient @ covariance @ gradient))
    return place + float(centre), level - slope * slope / (4 * curvature), half


def _interval(value: float, drawn: FloatArray, confidence: float, n: int) -> Interval:
    if not len(drawn):
        return Interval(value, -math.inf, math.inf, n)
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2]).tolist()
    return Interval(value, low, high, n)


def _lines(optima: Sequence[Optimum]) -> tuple[float, float, float, float]:
    """Slope and intercept of ln N* and of ln D* against ln C."""
    log_flops = np.log([o.flops for o in optima])
    (slope_n, slope_d), (at_n, at_d) = np.polyfit(log_flops, np.log([[o.num_params, o.tokens] for o in optima]), 1)
    return float(slope_n), float(at_n), float(slope_d), float(at_d)
