from __future__ import annotations

import math

import numpy as np
import pytest

from components.scaling import kaplan_fit
from components.scaling.kaplan_fit import fit_kaplan
from components.scaling.laws import KaplanLaw
from components.scaling.points import ScalingPoint, point_arrays

# Kaplan et al. 2020, table 2.
PUBLISHED = KaplanLaw(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)


def grid(noise: float, seed: int = 0) -> list[ScalingPoint]:
    rng = np.random.default_rng(seed)
    return [
        ScalingPoint(n, d, float(PUBLISHED.loss(n, d)) * math.exp(noise * rng.standard_normal()), f"{i}/{j}")
        for i, n in enumerate(np.geomspace(1e6, 1e9, 6).tolist())
        for j, d in enumerate(np.geomspace(2e7, 2e10, 6).tolist())
    ]


def test_noiseless_points_give_back_the_published_joint_law() -> None:
    fit = fit_kaplan(grid(0.0), resamples=0)
    for name in ("N_c", "D_c", "alpha_N", "alpha_D"):
        assert getattr(fit.law, name) == pytest.approx(getattr(PUBLISHED, name), rel=1e-3)
    assert fit.r_squared == pytest.approx(1.0)


def test_joint_intervals_hold_the_truth() -> None:
    fits = [fit_kaplan(grid(0.005, seed), resamples=40, seed=seed) for seed in range(4)]
    for name in ("alpha_N", "alpha_D"):
        assert sum(f.intervals[name].contains(getattr(PUBLISHED, name)) for f in fits) >= 3


def test_one_size_is_refused() -> None:
    with pytest.raises(ValueError, match="one N"):
        fit_kaplan([ScalingPoint(1e6, d, 3.0 + 1e6 / d, "r") for d in (1e6, 2e6, 3e6, 4e6, 5e6)])


def test_slopes_are_those_of_the_residuals() -> None:
    points = [ScalingPoint(n, d, 3.0, "r") for n in (1e6, 1e8, 1e10) for d in (1e8, 1e11)]
    arrays = point_arrays(points, 5, "test")
    theta, h = np.array([32.0, 30.0, 0.08, 0.11]), 1e-6
    exact = kaplan_fit._log_slopes(arrays)(theta)
    for i in range(4):
        step = np.eye(4)[i] * h
        rise = kaplan_fit._log_residuals(arrays)(theta + step) - kaplan_fit._log_residuals(arrays)(theta - step)
        np.testing.assert_allclose(exact[:, i], rise / (2 * h), rtol=1e-5, atol=1e-8)
