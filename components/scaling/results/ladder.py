"""What the stages of a sweep that climbs from size to size return."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RungForecast:
    """The loss that the smaller rungs foretell of the next, nats per token, with its 95% interval; extrapolation: its
    compute (6ND) over that of the largest of them."""

    num_params: int
    tokens: int
    predicted: float
    low: float
    high: float
    extrapolation: float


@dataclass(frozen=True)
class RungResult:
    """One training of a rung, at its last checkpoint. loss, oracle_loss (of a predictor that knows the table of facts):
    nats per token of the same held-out stream. forecast: what was foretold of it (None: one of the first sizes);
    inside: whether the loss fell into its interval."""

    num_params: int
    tokens: int
    loss: float
    oracle_loss: float
    forecast: float | None
    inside: bool | None


@dataclass(frozen=True)
class LadderFit:
    """The Chinchilla law of all rungs, with 95% intervals of E and of params_exponent, a in N* ∝ C^a; true_E: what an
    oracle loses on the held-out stream. inside: how many of the scored forecasts held."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    E_low: float
    E_high: float
    params_exponent: float
    params_exponent_low: float
    params_exponent_high: float
    true_E: float
    num_points: int
    num_runs: int
    forecasts: int
    inside: int
    warnings: tuple[str, ...]
