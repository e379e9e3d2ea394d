from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize

from components.scaling import chinchilla_fit, newton
from components.scaling.chinchilla_fit import (
    PARAMETERS,
    ChinchillaFit,
    ChinchillaFitConfig,
    fit_chinchilla,
)
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint, point_arrays

HOFFMANN = ChinchillaLaw(math.exp(0.5267228), math.exp(6.0073404), math.exp(6.0179186), 0.33917084, 0.2849083)
BESIROGLU = ChinchillaLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
POINT_ONLY = ChinchillaFitConfig(method="none")


def simulate(law: ChinchillaLaw, noise: float, seed: int, sizes: int = 9, lengths: int = 8) -> list[ScalingPoint]:
    rng = np.random.default_rng(seed)
    return [
        ScalingPoint(n, d, float(law.loss(n, d)) * math.exp(noise * rng.standard_normal()), f"{i}/{j}")
        for i, n in enumerate(np.geomspace(5e7, 1.6e10, sizes).tolist())
        for j, d in enumerate(np.geomspace(1e9, 5e11, lengths).tolist())
    ]


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU])
def test_noiseless_points_give_back_published_laws(law: ChinchillaLaw) -> None:
    fit = fit_chinchilla(simulate(law, 0.0, 0), POINT_ONLY)
    for name in PARAMETERS:
        assert getattr(fit.law, name) == pytest.approx(getattr(law, name), rel=1e-5)
    assert fit.converged and not fit.warnings
    assert fit.law.optimal(5.76e23).tokens_per_param == pytest.approx(law.optimal(5.76e23).tokens_per_param, rel=1e-4)


def test_no_scipy_start_finds_a_lower_floor() -> None:
    points = simulate(HOFFMANN, 0.01, 1, sizes=6, lengths=5)
    fit = fit_chinchilla(points, POINT_ONLY)
    x, y = np.log([p.num_params for p in points]), np.log([p.tokens for p in points])
    target = np.log([p.loss for p in points])

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        prediction = np.logaddexp(np.logaddexp(a - alpha * x, b - beta * y), e)
        size = np.abs(prediction - target) / 1e-3
        return float(np.where(size <= 1, 0.5 * size**2, size - 0.5).sum()) * 1e-3

    rng = np.random.default_rng(0)
    ends = [
        optimize.minimize(objective, [5 + rng.normal(), 6 + rng.normal(), 0.5, a, b], method="L-BFGS-B").fun
        for a in (0.2, 0.35, 0.5)
        for b in (0.2, 0.35, 0.5)
    ]
    ours = fit.law
    at_ours = objective(np.array([math.log(ours.A), math.log(ours.B), math.log(ours.E), ours.alpha, ours.beta]))
    assert at_ours == pytest.approx(fit.objective, rel=1e-8)
    assert at_ours <= min(ends) + 1e-9
    assert fit.converged and fit.gradient < chinchilla_fit.GRADIENT_GATE


def test_derivatives_are_those_of_the_objective() -> None:
    arrays = point_arrays(simulate(BESIROGLU, 0.02, 2, 4, 4), 5, "test")
    problem = newton.Problem.of(arrays, None)
    theta = np.array([[-0.3, -0.5, 0.6, 0.3, 0.4]])
    weights, delta, h = np.arange(16.0)[None] / 8, 0.05, 1e-6
    gradient, hessian = newton.derivatives(problem, theta, weights, delta)
    for i in range(5):
        step = np.zeros((1, 5))
        step[0, i] = h
        up, down = (newton.objective_of(problem, theta + s, weights, delta)[0] for s in (step, -step))
        assert gradient[0, i] == pytest.approx((up - down) / (2 * h), rel=1e-5, abs=1e-6)
        up_g, down_g = (newton.derivatives(problem, theta + s, weights, delta)[0][0] for s in (step, -step))
        assert hessian[0, i] == pytest.approx((up_g - down_g) / (2 * h), rel=1e-4, abs=1e-4)


def test_intervals_hold_the_truth_and_predictions_too() -> None:
    covered = dict.fromkeys((*PARAMETERS, "prediction"), 0)
    for seed in range(12):
        fit = fit_chinchilla(simulate(BESIROGLU, 0.01, seed, 6, 5), ChinchillaFitConfig(resamples=80, seed=seed))
        for name in PARAMETERS:
            covered[name] += fit.intervals[name].contains(getattr(BESIROGLU, name))
        covered["prediction"] += fit.predict(3e10, 1e12).contains(float(BESIROGLU.loss(3e10, 1e12)))
    assert min(covered.values()) >= 9, covered  # P(fewer of 12 | 0.95) = 3e-4


def test_points_of_one_run_share_their_luck() -> None:
    rng = np.random.default_rng(4)
    curves = [
        ScalingPoint(n, d, float(BESIROGLU.loss(n, d)) * luck, f"run {i}")
        for i, n in enumerate(np.geomspace(5e7, 1e10, 12).tolist())
        for luck in [math.exp(0.01 * rng.standard_normal())]
        for d in np.geomspace(1e9, 5e11, 8).tolist()
    ]
    apart = [replace(p, run=str(i)) for i, p in enumerate(curves)]
    config = ChinchillaFitConfig(resamples=200)
    by_run, by_point = fit_chinchilla(curves, config), fit_chinchilla(apart, config)
    assert (by_run.num_runs, by_point.num_runs) == (12, 96)

    def width(fit: ChinchillaFit) -> float:
        return fit.intervals["alpha"].high - fit.intervals["alpha"].low

    assert width(by_run) > 1.5 * width(by_point)


def test_a_known_floor_narrows_the_exponents() -> None:
    points = simulate(BESIROGLU, 0.01, 5, 6, 5)
    free = fit_chinchilla(points, ChinchillaFitConfig(resamples=200))
    fixed = fit_chinchilla(points, ChinchillaFitConfig(resamples=200, fixed_E=BESIROGLU.E))
    assert math.isclose(fixed.law.E, BESIROGLU.E, rel_tol=1e-12)
    assert fixed.intervals["E"].low == pytest.approx(fixed.intervals["E"].high)
    for name in ("alpha", "beta"):
        free_width = free.intervals[name].high - free.intervals[name].low
        assert fixed.intervals[name].high - fixed.intervals[name].low < free_width


def test_an_outlier_moves_a_huber_fit_little() -> None:
    points = simulate(BESIROGLU, 0.003, 6)
    clean = fit_chinchilla(points, POINT_ONLY).law
    points[10] = replace(points[10], loss=points[10].loss * 1.5)
    assert fit_chinchilla(points, POINT_ONLY).law.alpha == pytest.approx(clean.alpha, abs=0.005)


def test_a_floor_that_the_points_do_not_show_is_said() -> None:
    no_floor = ChinchillaLaw(E=1e-9, A=400.0, B=2000.0, alpha=0.3, beta=0.35)
    fit = fit_chinchilla(simulate(no_floor, 0.02, 7, 5, 5), ChinchillaFitConfig(resamples=100))
    assert any(w.startswith("E ") for w in fit.warnings), fit.warnings


def test_a_fit_survives_json() -> None:
    fit = fit_chinchilla(simulate(BESIROGLU, 0.01, 8, 5, 5), ChinchillaFitConfig(resamples=50))
    back = ChinchillaFit.from_json(json.loads(json.dumps(fit.to_json())))
    assert back.law == fit.law and back.intervals == fit.intervals and back.warnings == fit.warnings
    assert back.predict(1e10, 1e11) == fit.predict(1e10, 1e11)


def test_compute_optimal_allocation_carries_intervals() -> None:
    fit = fit_chinchilla(simulate(BESIROGLU, 0.005, 9), ChinchillaFitConfig(resamples=200))
    best = fit.optimal(5.76e23)
    assert best["tokens_per_param"].contains(BESIROGLU.optimal(5.76e23).tokens_per_param)
    assert best["num_params"].low < best["num_params"].value < best["num_params"].high
    assert fit.params_exponent().contains(BESIROGLU.params_exponent)


def test_what_cannot_be_fitted_is_refused_with_its_reason() -> None:
    points = simulate(BESIROGLU, 0.01, 0, 4, 4)
    with pytest.raises(ValueError, match="at least 6 points, got 3"):
        fit_chinchilla(points[:3])
    with pytest.raises(ValueError, match="only 1 distinct N"):
        fit_chinchilla([replace(p, num_params=1e9) for p in points])
    with pytest.raises(ValueError, match="only 1 distinct D"):
        fit_chinchilla([replace(p, tokens=1e9) for p in points])
    with pytest.raises(ValueError, match=r"row 5 \(run '1/1'\): loss is nan"):
        fit_chinchilla([*points[:5], replace(points[5], loss=math.nan), *points[6:]])
    with pytest.raises(ValueError, match=r"row 2 .* counts N as total"):
        fit_chinchilla([*points[:2], replace(points[2], convention="total"), *points[3:]])
    with pytest.raises(ValueError, match="cannot be the irreducible loss"):
        fit_chinchilla(points, ChinchillaFitConfig(fixed_E=9.0))


@pytest.mark.parametrize(
    "shape",
    [
        lambda n, d: 2.0,  # nothing matters
        lambda n, d: 1 + (n / 1e4) ** 0.3 + (d / 1e5) ** 0.2,  # worse with size
        lambda n, d: 0.7 + 3 * (n / 1e4) ** -0.3 * (d / 1e5) ** -0.4,  # a product, not a sum
    ],
)
def test_points_that_follow_no_such_law_are_fitted_with_a_warning(shape) -> None:  # type: ignore[no-untyped-def]
    points = [ScalingPoint(n, d, shape(n, d), str(n)) for n in np.geomspace(7e3, 3e5, 6) for d in (2e5, 4e5, 8e5, 16e5)]
    fit = fit_chinchilla(points, ChinchillaFitConfig(resamples=20, steps=600))
    assert np.isfinite(fit.samples).all()
    assert len(fit.warnings) > 1  # besides the few runs
    assert fit.optimal(1e13)["loss"].value > 0
    assert np.isfinite(fit.predict(1e6, 1e7).value)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [(3, "the intervals have no width"), (4, "is too narrow"), (9, "")],
)
def test_few_runs_say_what_their_intervals_are_worth(sizes: int, said: str) -> None:
    points = [replace(point, run=point.run.split("/")[0]) for point in simulate(HOFFMANN, 0.01, 0, sizes=sizes)]
    fit = fit_chinchilla(points, ChinchillaFitConfig(method="bootstrap", resamples=20))
    told = [warning for warning in fit.warnings if warning.startswith("only")]
    assert [said in warning for warning in told] == ([True] if said else [])
