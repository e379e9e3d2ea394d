"""What the runs return that compare experts with dense."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExpertsResult:
    """Parameters are counted without embeddings. None for a dense run: max_share of tokens that one expert takes,
    entropy of the router and specialization (information between expert and place in the record), both in nats."""

    num_params: int
    active_params: int
    loss: float
    max_share: float | None = None
    entropy: float | None = None
    specialization: float | None = None


@dataclass(frozen=True)
class ExpertsDetails:
    """`details_json` of the run's row in `scaling_points`: as above; load: share of tokens by layer and expert;
    loss_low, loss_high: interval of the loss over n held-out windows."""

    n: int
    loss_low: float
    loss_high: float
    active_params: int
    load: tuple[tuple[float, ...], ...] | None = None
    max_share: float | None = None
    entropy: float | None = None
    specialization: float | None = None
