"""What fine-tuning returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from components.stage_results import INLINE
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class EarlyStopResult:
    """Losses on validation conversations, nats per token: the lowest, whose weights were kept, and the last;
    overfitting: how far the last lay above the lowest."""

    best_step: int
    best_loss: float
    last_step: int
    last_loss: float
    overfitting: float


@dataclass(frozen=True)
class FinetuneResult:
    """loss: on test conversations, whose prompts neither training nor early stopping has seen, over num_test_targets
    tokens. replay: share of pretraining text in the batches. packing_fill: share of the packed rows that is no padding.
    losses_by_source, bits_per_byte: on held-out pretraining text, before and after: what fine-tuning cost the base
    model. early_stop is None where no validation loss was watched. Losses are in nats per token. num_conversations: of
    training (each copy counts), validation and test."""

    num_params: int
    num_adapters: int
    num_steps: int
    replay: float
    num_tokens: int
    loss: float
    num_test_targets: int
    packing_fill: float
    num_too_long: int
    losses_by_source: Mapping[str, float]
    losses_by_source_before: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    guard: Annotated[GuardCounts, INLINE]
    num_conversations: Mapping[str, int]
    early_stop: Annotated[EarlyStopResult | None, INLINE] = None
