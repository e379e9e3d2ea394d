"""What pretraining returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from components.stage_results import INLINE
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class PretrainResult:
    """loss: of training, the mean of the last ten that were logged; losses_by_source, bits_per_byte: on held-out text.
    Losses are in nats per token."""

    num_params: int
    num_params_non_embedding: int
    num_tokens: int
    loss: float
    losses_by_source: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    guard: Annotated[GuardCounts, INLINE]
