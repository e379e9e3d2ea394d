"""Forecasts that are made before a run and scored after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.model.config import ParamConvention
from components.scaling.chinchilla_fit import ChinchillaFit


@dataclass(frozen=True)
class Forecast:
    """Predicted loss (nats per token) of one run to come. `low`, `high`: prediction interval at `confidence`, with the
    law's uncertainty and a new run's own noise. `made_at`: UTC, ISO 8601, given by the caller."""

    num_params: float
    tokens: float
    predicted: float
    low: float
    high: float
    confidence: float
    made_at: str
    convention: ParamConvention

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class ForecastScore:
    """How a forecast turned out. `error`: observed - predicted in nats; `relative_error`: of the prediction;
    `inside`: whether the interval held; `interval_score`: width plus 2/(1-confidence) times the miss, in nats, lower
    is better (Gneiting and Raftery 2007, eq. 43)."""

    forecast: Forecast
    observed: float
    error: float
    relative_error: float
    inside: bool
    interval_score: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "forecast": self.forecast.to_json()}


def make_forecast(
    fit: ChinchillaFit, num_params: float, tokens: float, made_at: str, seed: int, confidence: float = 0.95
) -> Forecast:
    """Forecast the loss of a model of `num_params` (counted as the fit's points were) after `tokens` tokens.

    Each bootstrap law predicts, and a residual of the fit drawn at random is laid on top (in logs, widened by
    √(n/(n-p)) because a fit's residuals are smaller than the noise). That residuals stay as large outside the sweep is
    an assumption, which scoring tests.

    Raises ValueError when the fit has no bootstrap samples, or for sizes that are not positive.
    """
    if not len(fit.samples):
        raise ValueError("a forecast needs a fit with bootstrap samples: set ChinchillaFitConfig.resamples above 0")
    if not (num_params > 0 and tokens > 0):
        raise ValueError(f"a forecast needs positive sizes, got N={num_params}, D={tokens}")
    rng = np.random.default_rng(seed)
    n = len(fit.residuals)
    num_fitted = 4 if fit.config.fixed_E is not None else 5
    centred = (fit.residuals - fit.residuals.mean()) * math.sqrt(n / max(n - num_fitted, 1))
    laws = np.repeat(fit.sample_losses(num_params, tokens), max(1, math.ceil(4000 / len(fit.samples))))
    drawn = laws * np.exp(rng.choice(centred, size=len(laws)))
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    predicted = float(fit.law.loss(num_params, tokens))
    return Forecast(num_params, tokens, predicted, float(low), float(high), confidence, made_at, fit.convention)


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
    )
