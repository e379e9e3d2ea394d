from __future__ import annotations

import math

import numpy as np
import pytest

from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.forecast import Forecast, make_forecast, rival_forecasts, score_forecast
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint
from components.scaling.results.sweep import AS_LARGEST, LAST_TWO

LAW = ChinchillaLaw(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.36)
NOISE = 0.01


def sweep(seed: int) -> list[ScalingPoint]:
    rng = np.random.default_rng(seed)
    return [
        ScalingPoint(n, d, float(LAW.loss(n, d)) * math.exp(NOISE * rng.standard_normal()), f"{i}/{j}")
        for i, n in enumerate(np.geomspace(5e7, 4e9, 5).tolist())
        for j, d in enumerate(np.geomspace(1e9, 1e11, 4).tolist())
    ]


POINTS = sweep(0)


def test_prediction_intervals_hold_a_new_noisy_run() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for seed in range(10):
        fit = fit_chinchilla(sweep(seed), ChinchillaFitConfig(resamples=60, seed=seed))
        forecast = make_forecast(fit, sweep(seed), 1e10, 3e11, "2026-01-01T00:00:00Z", seed)
        observed = float(LAW.loss(1e10, 3e11)) * math.exp(NOISE * rng.standard_normal())
        inside += score_forecast(forecast, observed).inside
        mean = fit.predict(1e10, 3e11)
        assert forecast.high - forecast.low > mean.high - mean.low
    assert inside >= 7  # P(fewer of 10 | 0.95) = 1e-3


def test_a_forecast_repeats_with_its_seed() -> None:
    fit = fit_chinchilla(sweep(0), ChinchillaFitConfig(resamples=60))
    assert make_forecast(fit, POINTS, 1e10, 1e11, "t", 3) == make_forecast(fit, POINTS, 1e10, 1e11, "t", 3)
    assert make_forecast(fit, POINTS, 1e10, 1e11, "t", 3).predicted == float(fit.law.loss(1e10, 1e11))


def test_score_by_hand() -> None:
    forecast = Forecast(1e6, 1e7, 2.0, 1.9, 2.2, 0.95, "t", "total", {AS_LARGEST: 2.4})
    hit = score_forecast(forecast, 2.1)
    assert hit.inside and hit.error == pytest.approx(0.1) and hit.relative_error == pytest.approx(0.05)
    assert hit.interval_score == pytest.approx(0.3)
    assert hit.rival_errors == {AS_LARGEST: pytest.approx(-0.3)}
    miss = score_forecast(forecast, 2.25)
    assert not miss.inside
    assert miss.interval_score == pytest.approx(0.3 + 40 * 0.05)
    with pytest.raises(ValueError, match="diverged"):
        score_forecast(forecast, math.nan)


def test_a_fit_without_samples_cannot_forecast() -> None:
    fit = fit_chinchilla(sweep(0), ChinchillaFitConfig(method="none"))
    with pytest.raises(ValueError, match="a fit with intervals"):
        make_forecast(fit, POINTS, 1e10, 1e11, "t", 0)


def test_rivals_by_hand_from_the_last_points_of_the_two_largest_runs() -> None:
    points = [
        ScalingPoint(1e3, 1e6, 4.0, "small"),
        ScalingPoint(1e4, 1e5, 5.0, "large"),
        ScalingPoint(1e4, 1e6, 2.0, "large"),
    ]
    # Ten times the compute halves the loss; 100 times the largest run's quarters it.
    rivals = rival_forecasts(points, 1e5, 1e7)
    assert rivals == {AS_LARGEST: 2.0, LAST_TWO: pytest.approx(0.5)}
    assert rival_forecasts(points[1:], 1e5, 1e7) == {AS_LARGEST: 2.0}


def test_a_posterior_forecasts_with_the_noise_of_a_new_run_and_says_how_far_it_reaches() -> None:
    points = [
        ScalingPoint(n, d, float(LAW.loss(n, d)) * luck, f"{n}")
        for n, luck in ((5e7, 1.02), (2e8, 0.98), (8e8, 1.015), (3.2e9, 0.985))
        for d in (1e9, 1e10, 1e11)
    ]
    fit = fit_chinchilla(points, ChinchillaFitConfig(walkers=32, steps=1000))
    made = make_forecast(fit, points, 6.4e9, 2e11, "t", 0)
    law_alone = fit.predict(6.4e9, 2e11)
    run_noise = float(np.median(fit.noise[:, 0]))
    assert run_noise > 0.008  # runs differ by 2% here
    assert made.high - made.low > 1.1 * (law_alone.high - law_alone.low)
    assert made.low < made.predicted < made.high
    assert made.extrapolation == pytest.approx(4.0)
    assert Forecast(**made.to_json()) == made
