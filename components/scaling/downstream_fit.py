"""Accuracy from loss in two steps: a law of loss, then error = epsilon - k e^(-gamma L) (Gadre et al. 2024, eq. 5).

The second step is fitted by least squares to the measured losses, as they do; a forecast then goes through both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from components.scaling.chinchilla_fit import ChinchillaFit, ChinchillaFitConfig, fit_chinchilla, resampled_weights
from components.scaling.newton import Problem
from components.scaling.points import ScalingPoint, point_arrays
from components.statistics import cluster_rows

FloatArray = NDArray[np.float64]
_BOUNDS = ((0.0, 1e-6, 0.05), (1.0, 1e6, 30.0))  # of epsilon, k, gamma
_NAMES = ("epsilon", "k", "gamma")


@dataclass(frozen=True)
class DownstreamFit:
    """`values`: (A, B, E, alpha, beta, epsilon, k, gamma); `samples`: shape (draws, 8), of one bootstrap over runs for
    both steps; `accuracy_residuals`: shape (n,), observed - fitted; `at_bound`: of the second step."""

    loss: ChinchillaFit
    values: FloatArray
    samples: FloatArray
    accuracy_residuals: FloatArray
    at_bound: tuple[str, ...]
    warnings: tuple[str, ...]


def fit_downstream(
    points: Sequence[ScalingPoint], accuracy: FloatArray, config: ChinchillaFitConfig, resamples: int
) -> DownstreamFit:
    """Both steps. `accuracy`: share right of each point; `config`: of the law of loss; no resamples, no intervals.

    Raises ValueError as `fit_chinchilla` does, and where the accuracy does not vary.
    """
    if float(np.ptp(accuracy)) == 0.0:
        raise ValueError(f"all {len(points)} rows have an accuracy of {accuracy[0]:g}: it cannot be told from the loss")
    config = replace(config, method="bootstrap" if resamples else "none", resamples=max(resamples, 1))
    fit = fit_chinchilla(points, config)
    arrays = point_arrays(points, 5, "the law of loss")
    error, ones = 1.0 - accuracy, np.ones(len(points))
    second = _second_step(arrays.loss, error, ones)
    samples = np.empty((0, 8))
    if resamples:
        # The draws of `fit_chinchilla`: the same seed, and so the same runs in both steps.
        problem = Problem.of(arrays, config.fixed_E, config.tied, config.penalty)
        weights = resampled_weights(problem, cluster_rows(arrays.runs), config)
        drawn = [_second_step(arrays.loss, error, row, second) for row in weights]
        samples = np.concatenate([fit.samples, np.array(drawn)], axis=1)
    law = fit.law
    at_bound = tuple(
        name
        for name, value, low, high in zip(_NAMES, second, *_BOUNDS, strict=True)
        if value <= low * 1.001 + 1e-9 or value >= high * 0.999
    )
    found = [f"{name} lies at the bound of what is searched: it is not identified" for name in at_bound]
    if float(np.corrcoef(arrays.loss, error)[0, 1]) < 0.5:
        found.append("the error hardly rises with the loss in these rows: a forecast of accuracy rests on little")
    return DownstreamFit(
        loss=fit,
        values=np.array([law.A, law.B, law.E, law.alpha, law.beta, *second]),
        samples=samples,
        accuracy_residuals=second[0] - second[1] * np.exp(-second[2] * arrays.loss) - error,
        at_bound=at_bound,
        warnings=tuple(found),
    )


def _second_step(
    loss: FloatArray, error: FloatArray, weight: FloatArray, start: FloatArray | None = None
) -> FloatArray:
    """Weighted least squares of (epsilon, k, gamma), from the optimum of all or from a grid over gamma."""
    root = np.sqrt(weight)

    def residuals(theta: FloatArray) -> FloatArray:
        epsilon, log_k, gamma = theta
        return np.asarray(root * (epsilon - np.exp(log_k - gamma * loss) - error))

    def slopes(theta: FloatArray) -> FloatArray:
        fall = np.exp(theta[1] - theta[2] * loss)
        return root[:, None] * np.stack([np.ones_like(loss), -fall, loss * fall], axis=1)

    starts = []
    for gamma in (0.2, 0.5, 1.0, 2.0, 4.0) if start is None else ():
        fall = np.exp(-gamma * (loss - loss.mean()))
        (epsilon, minus_k), *_ = np.linalg.lstsq(np.stack([np.ones_like(loss), fall], axis=1), error, rcond=None)
        starts.append([epsilon, np.log(max(-minus_k, 1e-3)) + gamma * loss.mean(), gamma])
    if start is not None:
        starts.append([start[0], np.log(start[1]), start[2]])
    lower, upper = (np.array([edge[0], np.log(edge[1]), edge[2]]) for edge in _BOUNDS)
    ends = [
        optimize.least_squares(
            residuals, np.clip(one, lower + 1e-9, upper - 1e-9), jac=slopes, bounds=(lower, upper), x_scale="jac"
        )
        for one in starts
    ]
    best = min(ends, key=lambda end: float(end.cost)).x
    return np.array([best[0], np.exp(best[1]), best[2]])
