"""What the stages of cost return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from components.stage_results import INLINE, Spread
from components.statistics import Interval


@dataclass(frozen=True)
class ServingResult:
    """Tokens per second of a busy core on this machine, at the largest batch, with 95% intervals over `rounds`;
    request_seconds: core seconds of a typical request. decode_by_batch: output tokens per second by batch."""

    decode_tokens_per_second: Annotated[Interval, Spread("rounds")]
    prefill_tokens_per_second: Annotated[Interval, Spread("rounds")]
    request_seconds: Annotated[Interval, Spread("rounds")]
    decode_by_batch: Mapping[str, float]


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
    """Training further and answering once, against the best that the model before it does by thinking longer.

    break_even_questions: from which number of questions on training costs less in all, with the ends that the intervals
    of the prices give it (None: never). as_accurate: the thinking model's 95% interval reaches the trained model's
    accuracy; where it does not, the two do not buy the same.
    """

    think_longer: str
    train_further: str
    thinking_usd_per_thousand: float
    trained_usd_per_thousand: float
    break_even_questions: float | None
    break_even_low: float | None
    break_even_high: float | None
    as_accurate: bool
    trained_accuracy: Annotated[Interval, Spread()]
    thinking_accuracy: Annotated[Interval, Spread()]


@dataclass(frozen=True)
class Decision:
    """verdict: in words. compared is None where the strategies of both sides were not measured."""

    verdict: str
    compared: Annotated[TrainOrThink | None, INLINE] = None


@dataclass(frozen=True)
class CostResult:
    """training_usd: of what went into the model. Prices with their 95% intervals over `rounds` of timing.
    break_even_tokens: output tokens after which serving, prompts included, has cost as much as training, with the ends
    that the interval of the price gives it; None where serving costs nothing."""

    training_usd: float
    price_per_million_input_tokens: Annotated[Interval, Spread("rounds")]
    price_per_million_output_tokens: Annotated[Interval, Spread("rounds")]
    decode_tokens_per_second: float
    lifetime: tuple[LifetimeCost, ...]
    comparisons: tuple[StrategyPrice, ...]
    decision: Decision
    break_even_tokens: Annotated[Interval | None, Spread("rounds")] = None
