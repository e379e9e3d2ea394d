"""Profiles of a fitted Chinchilla law: how much worse the best fit becomes when one parameter is held elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from components.scaling.newton import Problem, grid_starts, minimise
from components.scaling.points import ScalingPoint, point_arrays
from components.scaling.table_fit import TableFit

FloatArray = NDArray[np.float64]
_PLACES = {"E": 2, "alpha": 3, "beta": 4}
_POINTS = 21


@dataclass(frozen=True)
class Profile:
    """`rise`: by how many log-likelihood units the best fit falls short when `name` is held at `values`, for Laplace
    errors, which a Huber loss of small δ stands for: n ln(objective/lowest). Both of shape (21,)."""

    name: str
    values: FloatArray
    rise: FloatArray


def profiles(fit: TableFit, delta: float = 1e-3) -> Iterator[Profile]:
    """Of E, alpha and beta, over their intervals and half their width beyond. None for another law than chinchilla."""
    if fit.law != "chinchilla" or fit.line is not None:
        return
    points = [ScalingPoint(n, d, loss, str(i)) for i, (n, d, _, loss) in enumerate(fit.points.tolist())]
    problem = Problem.of(point_arrays(points, 5, "a profile"), None)
    ones = np.ones((6, len(points)))
    starts, found, _ = minimise(problem, grid_starts(problem, 6), ones, delta)
    lowest, best = float(found.min()), starts[int(found.argmin())]
    for name, place in _PLACES.items():
        one = fit.coefficients[name]
        low, high = (x if np.isfinite(x) else one.value * k for x, k in ((one.low, 0.5), (one.high, 1.5)))
        edges = problem.lower[place], problem.upper[place]
        if name == "E":
            edges = float(np.exp(edges[0])), float(np.exp(edges[1]))
        values = np.linspace(
            max(low - 0.25 * (high - low), edges[0]), min(high + 0.25 * (high - low), edges[1]), _POINTS
        )
        rises = np.empty(_POINTS)
        order = np.argsort(np.abs(values - one.value))
        for at in order:  # from the optimum outwards
            held = float(np.log(values[at])) if name == "E" else float(values[at])
            lower, upper = problem.lower.copy(), problem.upper.copy()
            lower[place] = upper[place] = held
            start = np.concatenate([best[None], starts])[:6]
            start[:, place] = held
            _, objective, _ = minimise(replace(problem, lower=lower, upper=upper), start, ones, delta)
            rises[at] = len(points) * np.log(max(float(objective.min()), 1e-300) / max(lowest, 1e-300))
        yield Profile(name, values, np.maximum(rises, 0.0))
