"""What only a fit shows of a table of runs: losses above the frontier, outliers, exponents that depend on the range."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.scaling.run_table import RunTable, rows_text

FloatArray = NDArray[np.float64]


def one_sided(table: RunTable, residuals: FloatArray) -> Iterator[str]:
    """Runs that were trained with a poor learning rate or batch lie above what their N and D allow, and none below."""
    if len(residuals) < 10:
        return
    below, middle, above = np.quantile(residuals, [0.1, 0.5, 0.9])
    # Of normal errors the quotient of the sides is 1, with a standard error of about 2/√n; of exponential ones 2.7.
    sides = 2.0 + 6.0 / math.sqrt(len(residuals))
    if above - middle > 0.005 and above - middle > sides * (middle - below):
        worst = np.argsort(residuals)[::-1][: max(1, len(residuals) // 10)]
        yield (
            f"the residuals are one-sided: a tenth of the losses lie {np.expm1(above):.1%} or more above the law "
            f"({rows_text(table.rows[worst])}), while below it the same share begins at {-np.expm1(below):.1%}: as in "
            "a sweep over learning rates or batches. --frontier best fits the lowest loss of each N and D, --frontier "
            "penalty lets the law pass below"
        )


def outliers(table: RunTable, residuals: FloatArray) -> Iterator[str]:
    """Rows that lie more than six robust standard deviations, and 2%, from the law."""
    centre = np.median(residuals)
    spread = max(1.4826 * float(np.median(np.abs(residuals - centre))), 1e-6)
    far = (np.abs(residuals - centre) > 6 * spread) & (np.abs(residuals - centre) > 0.02)
    if far.any() and far.mean() < 0.2:
        worst = residuals[int(np.abs(residuals - centre).argmax())]
        yield (
            f"outliers: {rows_text(table.rows[far])} lie more than 6 robust standard deviations "
            f"({6 * spread:.1%}) from the law, the farthest {np.expm1(worst):+.0%}"
        )


def unexplained(r_squared: float, num_points: int, num_free: int) -> Iterator[str]:
    """Whether the law explains the losses: its R² against what that number of free parameters reaches by chance."""
    by_chance = num_free / max(num_points, num_free + 1)
    if math.isfinite(r_squared) and r_squared < max(0.5, by_chance):
        yield (
            f"the law explains {max(r_squared, 0.0):.0%} of the variance of the log losses: its coefficients mean "
            "nothing. Are these the columns of N, D and loss?"
        )


@dataclass(frozen=True)
class Refitted:
    """A law fitted to part of a table: its coefficients and objective."""

    coefficients: Mapping[str, float]
    objective: float


def range_dependence(
    table: RunTable,
    whole: Refitted,
    num_free: int,
    refit: Callable[[RunTable], Refitted | None],
) -> Iterator[str]:
    """Whether the half with fewer tokens per parameter follows other exponents than the whole.

    Two laws, one a half, against one for all (Chow 1960), by the Bayesian information criterion of Laplace errors,
    which a Huber loss of small δ stands for; n counts runs, since the points of a run are correlated.
    """
    ratio = table.tokens / table.num_params
    edge = float(np.median(ratio)) * (1 + 1e-9)
    low, high = np.flatnonzero(ratio <= edge), np.flatnonzero(ratio > edge)
    if min(len(low), len(high)) < 3 * num_free:
        return
    first, second = refit(table.only(low)), refit(table.only(high))
    if first is None or second is None:
        return
    n = len(set(table.runs))
    gain = 2 * n * math.log(whole.objective / max(first.objective + second.objective, 1e-300))
    moved = any(abs(first.coefficients[k] / whole.coefficients[k] - 1) > 0.2 for k in ("alpha", "beta"))
    if moved and gain > num_free * math.log(n):
        told = ", ".join(f"{k} {v:.3g} instead of {whole.coefficients[k]:.3g}" for k, v in first.coefficients.items())
        yield (
            f"the exponents depend on the range: the {len(low)} rows with at most {edge:.3g} tokens per parameter "
            f"alone give {told}; trust the law within the fitted range only, or try --law gamma"
        )
