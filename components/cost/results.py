"""What the stages of cost return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from components.stage_results import INLINE, Spread
from components.statistics import Interval


@dataclass(frozen=True)
class ServingResult:
    """Tokens per second on this machine; decode_tokens_per_second is that of the largest batch."""

    decode_tokens_per_second: float
    decode_by_batch: Mapping[str, float]
    prefill_tokens_per_second: float


@dataclass(frozen=True)
class LifetimeCost:
    """Dollars after `tokens` output tokens were served."""

    tokens: float
    training_usd: float
    inference_usd: float


@dataclass(frozen=True)
class StrategyPrice:
    """A model with a strategy: accuracy with its 95% interval over n items, dollars per thousand answers, what training
    it took beyond fine-tuning, and tokens per item (tokens_per_item: generated). suite: the evaluation set; None for
    our chains."""

    name: str
    accuracy: float
    low: float
    high: float
    n: int
    usd_per_thousand: float
    extra_training_usd: float
    prompt_tokens: float
    tokens_per_item: float
    needs_verifier: bool
    suite: str | None = None


@dataclass(frozen=True)
class TrainOrThink:
    """Training further and answering once, against thinking longer with what there is. break_even_questions: from which
    number of questions on training costs less in all; None: never."""

    think_longer: str
    train_further: str
    break_even_questions: float | None
    trained_is_as_accurate: bool
    trained_accuracy: Annotated[Interval, Spread()]
    thinking_accuracy: Annotated[Interval, Spread()]


@dataclass(frozen=True)
class Decision:
    """verdict: in words. compared is None where the strategies of both sides were not measured."""

    verdict: str
    compared: Annotated[TrainOrThink | None, INLINE] = None


@dataclass(frozen=True)
class CostResult:
    """break_even_tokens: output tokens after which serving, prompts included, has cost as much as training; None where
    serving costs nothing."""

    training_usd: float
    price_per_million_input_tokens: float
    price_per_million_output_tokens: float
    decode_tokens_per_second: float
    break_even_tokens: float | None
    lifetime: tuple[LifetimeCost, ...]
    comparisons: tuple[StrategyPrice, ...]
    decision: Decision
