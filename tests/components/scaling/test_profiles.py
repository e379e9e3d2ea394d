"""A profile of a parameter against a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from run_tables import grid
from scipy import optimize

from components.scaling.fit_runs import fit_table
from components.scaling.law_fitters import FitOptions
from components.scaling.profiles import profiles
from components.scaling.run_table import run_table


def test_a_profile_is_zero_at_the_fit_and_no_higher_than_scipy_finds() -> None:
    fit = fit_table(run_table(grid(0.01), "t"), FitOptions(method="none"))
    n, d, _, loss = fit.points.T
    x, y, target = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean(), np.log(loss)
    found = {one.name: one for one in profiles(fit)}
    assert set(found) == {"E", "alpha", "beta"}
    alpha = found["alpha"]
    at = int(np.abs(alpha.values - 1.15 * fit.coefficients["alpha"].value).argmin())
    held = float(alpha.values[at])

    def objective(theta: np.ndarray) -> float:
        a, b, e, beta = theta
        size = np.abs(np.log(np.exp(a - held * x) + np.exp(b - beta * y) + np.exp(e)) - target) / 1e-3
        return float(np.where(size <= 1, 0.5 * size**2, size - 0.5).sum()) * 1e-3

    precise = {"maxiter": 4000, "xatol": 1e-7, "fatol": 1e-10}
    starts = [[-1.0, -1.0, 0.5, beta] for beta in (0.2, 0.4)]
    ends = [optimize.minimize(objective, one, method="Nelder-Mead", options=precise).fun for one in starts]
    assert fit.objective * np.exp(alpha.rise[at] / len(n)) <= min(ends) * 1.0001 + 1e-9
    for one in found.values():
        assert (one.rise >= 0).all() and one.rise.max() > 1
        near = np.interp(fit.coefficients[one.name].value, one.values, one.rise)
        assert near == pytest.approx(0.0, abs=0.3 * one.rise.max())
