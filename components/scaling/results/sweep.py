"""What the stages of the scaling law return: runs of the sweep, the fit, the forecast and the run that scores it."""

from __future__ import annotations

from dataclasses import dataclass

# Forecasts without a law, as `method` of the table `forecasts` names them.
AS_LARGEST = "as the largest run"
LAST_TWO = "line through the last two"


@dataclass(frozen=True)
class FactsRunResult:
    """One width, at its last checkpoint. num_params: without embeddings; loss, oracle_loss (of a predictor that knows
    the table of facts): nats per token of the same held-out stream."""

    num_params: int
    loss: float
    oracle_loss: float


@dataclass(frozen=True)
class ScalingFitResult:
    """The Chinchilla law L = E + A/N^alpha + B/D^beta. true_E: what an oracle loses on the held-out stream;
    true_E_exact: the entropy of the corpus; both in nats per token. warnings: what the fit says against its parameters
    or their intervals."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    E_low: float
    E_high: float
    true_E: float
    true_E_exact: float
    r_squared: float
    r_squared_kaplan: float
    num_points: int
    num_runs: int
    converged: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class ForecastResult:
    """The loss predicted for a run that is not trained yet, nats per token, with its 95% interval. extrapolation: its
    compute (6ND) over that of the largest run of the sweep."""

    num_params: int
    tokens: int
    predicted: float
    low: float
    high: float
    extrapolation: float


@dataclass(frozen=True)
class ForecastRunResult:
    """The run that was forecast. relative_error: of the loss against the prediction; inside: whether the loss fell into
    the prediction's interval; nearest_rival: the smallest absolute error (nats per token) of the forecasts without a
    law that were sealed with it."""

    num_params: int
    loss: float
    predicted: float
    inside: bool
    relative_error: float
    nearest_rival: float
