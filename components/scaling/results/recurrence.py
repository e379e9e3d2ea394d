"""What the stages return that compare a recurrent net with a transformer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.stage_results import Spread
from components.statistics import Interval


@dataclass(frozen=True)
class ArchitectureResult:
    """One of the two models. loss: nats per token over n held-out windows."""

    num_params: int
    num_params_non_embedding: int
    num_tokens: int
    flops_per_token: float
    loss: Annotated[Interval, Spread()]
    n: int


@dataclass(frozen=True)
class ComparedRun:
    """A model in the comparison. products_in_a_row: matrix products that have to wait for one another at the longest
    context."""

    architecture: str
    num_params: int
    num_params_non_embedding: int
    num_tokens: int
    flops_per_token: float
    loss: Annotated[Interval, Spread("n")]
    products_in_a_row: int


@dataclass(frozen=True)
class ContextSpeed:
    """Training tokens per second at one context: median of the steps with the slowest and the fastest, and the ratio of
    transformer to LSTM (geometric mean over pairs of steps)."""

    context: int
    transformer: Annotated[Interval, Spread()]
    lstm: Annotated[Interval, Spread()]
    ratio: Annotated[Interval, Spread()]


@dataclass(frozen=True)
class BandLoss:
    """Held-out loss with first … last tokens in sight, nats per token; gap: LSTM minus transformer on the same n
    windows."""

    first: int
    last: int
    transformer: Annotated[Interval, Spread()]
    lstm: Annotated[Interval, Spread()]
    gap: Annotated[Interval, Spread()]
    n: int


@dataclass(frozen=True)
class RecurrentComparisonResult:
    """kept_gap: of its speed at the shortest context the share that the transformer keeps at the longest, minus the
    LSTM's share; loss_gap: LSTM minus transformer; context_gain: how much more the transformer's loss falls with the
    tokens in sight."""

    runs: tuple[ComparedRun, ...]
    speeds: tuple[ContextSpeed, ...]
    kept_gap: Annotated[Interval, Spread()]
    loss_gap: Annotated[Interval, Spread()]
    context_gain: Annotated[Interval, Spread()]
    bands: tuple[BandLoss, ...]
    context_length: int
