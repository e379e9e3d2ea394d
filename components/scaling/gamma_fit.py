"""Fit of L = E + (A/N^α + B/D^β)^γ, Chinchilla's law with one more exponent, by the same Huber loss and optimiser.

Chinchilla's own optimum (γ = 1) is among the starts, so the fit is never worse than that law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.scaling.chinchilla_fit import ChinchillaFitConfig, bootstrapped
from components.scaling.newton import Problem, grid_starts, minimise, share_at_minimum
from components.scaling.points import ScalingPoint, point_arrays
from components.statistics import cluster_rows

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class GammaFit:
    """`coefficients`: (A, B, E, alpha, beta, gamma); `at_bound`: which of them lie at the edge of what is searched;
    `samples`: shape (draws, 6), of a bootstrap over runs; `objective`, `gradient`, `share_of_starts`: as of
    `ChinchillaFit`."""

    coefficients: FloatArray
    at_bound: NDArray[np.bool_]
    samples: FloatArray
    objective: float
    gradient: float
    share_of_starts: float


def fit_gamma(points: Sequence[ScalingPoint], config: ChinchillaFitConfig) -> GammaFit:
    """Fit the six coefficients. `config.method` "none" leaves the bootstrap out; there is no posterior.

    Raises ValueError for fewer than seven points or fewer than three distinct N or D.
    """
    arrays = point_arrays(points, 7, "the law with gamma")
    for name, values in (("N", arrays.num_params), ("D", arrays.tokens)):
        if (count := len(np.unique(values))) < 3:
            raise ValueError(f"all {len(points)} points have only {count} distinct {name}: the law needs 3 or more")
    problem = Problem.of(arrays, None, config.tied, config.penalty, gamma=True)
    plain = Problem.of(arrays, None, config.tied, config.penalty)
    first, value, _ = minimise(plain, grid_starts(plain, 4), np.ones((4, len(points))), config.delta)
    starts = np.concatenate([np.append(first[int(value.argmin())], 1.0)[None], _starts(problem, keep=7)])
    theta, objective, gradient = minimise(problem, starts, np.ones((len(starts), len(points))), config.delta)
    best = int(objective.argmin())
    samples = np.empty((0, 6))
    if config.method != "none":
        samples = _natural(problem, bootstrapped(problem, theta[best], cluster_rows(arrays.runs), config))
    at = theta[best]
    return GammaFit(
        coefficients=_natural(problem, at[None])[0],
        at_bound=(at <= problem.lower + 1e-6) | (at >= problem.upper - 1e-6),
        samples=samples,
        objective=float(objective[best]),
        gradient=float(gradient[best]),
        share_of_starts=share_at_minimum(objective),
    )


def _starts(problem: Problem, keep: int) -> FloatArray:
    """For given E and γ, (L - E)^(1/γ) is a sum that is linear in A and B: the best of a grid over the rest."""
    loss = np.exp(problem.target)
    found: list[tuple[float, list[float]]] = []
    for share in (0.02, 0.4, 0.7, 0.9):
        floor = share * float(loss.min())
        for gamma in (0.2, 0.4, 0.7, 1.0, 2.0):
            target = (loss - floor) ** (1.0 / gamma)
            weight = (loss - floor) / (loss * target * gamma)  # so that errors are those of ln loss
            for alpha in (0.1, 0.2, 0.35, 0.6, 1.0):
                for beta in (0.1, 0.2, 0.35, 0.6, 1.0):
                    columns = np.stack([np.exp(-alpha * problem.x), np.exp(-beta * problem.y)], axis=1)
                    solved = np.linalg.lstsq(columns * weight[:, None], target * weight, rcond=None)[0]
                    solved = np.maximum(solved, 1e-4 * float(np.median(target)))
                    fitted = np.log(floor + (columns @ solved) ** gamma)
                    error = float(((fitted - problem.target) ** 2).sum())
                    found.append((error, [*np.log(solved).tolist(), math.log(floor), alpha, beta, gamma]))
    found.sort(key=lambda one: one[0])
    return np.clip(np.array([start for _, start in found[:keep]]), problem.lower, problem.upper)


def _natural(problem: Problem, theta: FloatArray) -> FloatArray:
    """Coefficients in the user's units from rows of the optimiser's."""
    a, b, e, alpha, beta, gamma = theta.T
    return np.stack(
        [np.exp(a + alpha * problem.x_mean), np.exp(b + beta * problem.y_mean), np.exp(e), alpha, beta, gamma], axis=1
    )
