"""Forecasts that are made before a run and scored after it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.scaling.chinchilla_fit import ChinchillaFit
from components.scaling.points import PointConvention, ScalingPoint
from components.scaling.results.sweep import AS_LARGEST, LAST_TWO


@dataclass(frozen=True)
class Forecast:
    """Predicted loss (nats per token) of one run to come. `low`, `high`: prediction interval at `confidence`, with the
    law's uncertainty and a new run's own noise. `made_at`: UTC, ISO 8601, given by the caller.

    `rivals`: what forecasts without a law say, by name. `extrapolation`: how many times the compute (6ND) of the
    largest fitted run this one takes.
    """

    num_params: float
    tokens: float
    predicted: float
    low: float
    high: float
    confidence: float
    made_at: str
    convention: PointConvention
    rivals: Mapping[str, float] = field(default_factory=dict)
    extrapolation: float = math.nan

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "rivals": dict(self.rivals)}


@dataclass(frozen=True)
class ForecastScore:
    """How a forecast turned out. `error`: observed - predicted in nats; `relative_error`: of the prediction;
    `inside`: whether the interval held; `interval_score`: width plus 2/(1-confidence) times the miss, in nats, lower
    is better (Gneiting and Raftery 2007, eq. 43). `rival_errors`: observed - each rival's forecast, in nats."""

    forecast: Forecast
    observed: float
    error: float
    relative_error: float
    inside: bool
    interval_score: float
    rival_errors: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "forecast": self.forecast.to_json(), "rival_errors": dict(self.rival_errors)}


def make_forecast(
    fit: ChinchillaFit,
    points: Sequence[ScalingPoint],
    num_params: float,
    tokens: float,
    made_at: str,
    seed: int,
    confidence: float = 0.95,
) -> Forecast:
    """Forecast the loss of a model of `num_params` (counted as the fit's points were) after `tokens` tokens.

    Each sampled law predicts, and noise is laid on top. A posterior knows the noise of each of its draws: a run's own
    and a point's; the forecast is the median. A bootstrap takes a residual of the fit at random (in logs, widened by
    √(n/(n-p)) because a fit's residuals are smaller than the noise) around the fitted law. That noise stays as large
    outside the sweep is an assumption, which scoring tests. `points`: those of the fit, from which the rivals forecast.

    Raises ValueError when the fit has no samples, or for sizes that are not positive.
    """
    if not len(fit.samples):
        raise ValueError('a forecast needs a fit with intervals: ChinchillaFitConfig.method is "none"')
    if not (num_params > 0 and tokens > 0):
        raise ValueError(f"a forecast needs positive sizes, got N={num_params}, D={tokens}")
    rng = np.random.default_rng(seed)
    repeats = max(1, math.ceil(4000 / len(fit.samples)))
    laws = np.repeat(fit.sample_losses(num_params, tokens), repeats)
    if len(fit.noise):
        spread = np.repeat(np.hypot(fit.noise[:, 0], fit.noise[:, 1]), repeats)
        drawn = laws * np.exp(spread * rng.standard_normal(len(laws)))
        predicted = float(np.median(drawn))
    else:
        n = len(fit.residuals)
        num_fitted = 4 if fit.config.fixed_E is not None else 5
        centred = (fit.residuals - fit.residuals.mean()) * math.sqrt(n / max(n - num_fitted, 1))
        drawn = laws * np.exp(rng.choice(centred, size=len(laws)))
        predicted = float(fit.law.loss(num_params, tokens))
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Forecast(
        num_params=num_params,
        tokens=tokens,
        predicted=predicted,
        low=float(low),
        high=float(high),
        confidence=confidence,
        made_at=made_at,
        convention=fit.convention,
        rivals=rival_forecasts(points, num_params, tokens),
        extrapolation=6.0 * num_params * tokens / max(point.flops for point in points),
    )


def rival_forecasts(points: Sequence[ScalingPoint], num_params: float, tokens: float) -> dict[str, float]:
    """What one would say without a law, in nats per token: the loss of the run that took the most compute, and the line
    through it and the one before it, in ln loss against ln 6ND. Runs count with their last points."""
    last = {point.run: point for point in sorted(points, key=lambda point: point.tokens)}
    by_compute = sorted(last.values(), key=lambda point: point.flops)
    largest = by_compute[-1]
    rivals = {AS_LARGEST: largest.loss}
    if before := [point for point in by_compute if point.flops < largest.flops]:
        slope = math.log(largest.loss / before[-1].loss) / math.log(largest.flops / before[-1].flops)
        rivals[LAST_TWO] = largest.loss * (6.0 * num_params * tokens / largest.flops) ** slope
    return rivals


def score_forecast(forecast: Forecast, observed: float) -> ForecastScore:
    """Hold a forecast against the loss that was measured. Raises ValueError when it is not finite."""
    if not math.isfinite(observed):
        raise ValueError(f"the observed loss is {observed}: a run that diverged cannot score a forecast")
    miss = max(forecast.low - observed, 0.0) + max(observed - forecast.high, 0.0)
    return ForecastScore(
        forecast=forecast,
        observed=observed,
        error=observed - forecast.predicted,
        relative_error=(observed - forecast.predicted) / forecast.predicted,
        inside=miss == 0.0,
        interval_score=forecast.high - forecast.low + 2.0 / (1.0 - forecast.confidence) * miss,
        rival_errors={name: observed - said for name, said in forecast.rivals.items()},
    )
