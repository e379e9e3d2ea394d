"""Strategies on the items of a task, streamed: a chunk of items at a time: memory stays flat over any number."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from components.inference.text import Generate
from components.reasoning.endpoints.recorded import Meter
from components.reasoning.items import Item
from components.reasoning.strategies.auto import FAMILY
from components.reasoning.strategy import Outcome, Samples, Strategy, Trial
from components.reasoning.task_files.reading import TaskItem


@dataclass(frozen=True)
class EvaluationSettings:
    """What shapes the answers. max_direct_tokens: limit of an answer given at once; 0: max_tokens."""

    temperature: float = 0.7
    max_tokens: int = 1024
    max_direct_tokens: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Answers:
    """A strategy on a chunk of items; outcome i answers items[i]. meter: what it took, as if it had run alone. samples:
    those that it voted on, where it is a vote. seconds: wall-clock, next to nothing where the samples were there."""

    strategy: Strategy
    asked: Sequence[TaskItem]
    items: Sequence[Item]
    outcomes: Sequence[Outcome]
    meter: Meter
    seconds: float
    samples: Samples | None = None


def evaluate(
    asked: Iterable[TaskItem],
    as_item: Callable[[TaskItem], Item],
    strategies: Sequence[Strategy],
    generate: Generate,
    settings: EvaluationSettings,
    chunk: int = 256,
) -> Iterator[Answers]:
    """Every strategy on every item, a chunk of items at a time. Samples that several strategies read are asked for by
    each, and are the same where `generate` keeps them (`components.reasoning.endpoints.recorded`)."""
    source = iter(asked)
    while part := list(islice(source, chunk)):
        items = [as_item(one) for one in part]
        for strategy in strategies:
            meter = Meter(generate)
            trial = Trial(
                meter,
                items,
                num_samples=strategy.size or 1,
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
                max_direct_tokens=settings.max_direct_tokens or settings.max_tokens,
                seed=settings.seed,
            )
            began = time.perf_counter()
            outcomes = strategy.answer(trial)
            seconds = time.perf_counter() - began
            if strategy.family == FAMILY:
                meter = _charged(generate, outcomes)
            voted = strategy.family == "self_consistency"
            yield Answers(strategy, part, items, outcomes, meter, seconds, trial.samples if voted else None)


def _charged(generate: Generate, outcomes: Sequence[Outcome]) -> Meter:
    """What the controller asked for: of the samples that were drawn, which other strategies read, it sees a part."""
    return Meter(
        generate,
        calls=sum(outcome.details["calls"] for outcome in outcomes),
        prompt_tokens=sum(outcome.prompt_tokens for outcome in outcomes),
        completion_tokens=sum(outcome.completion_tokens for outcome in outcomes),
        latency=sum(outcome.details["seconds"] for outcome in outcomes),
    )


def rows_of(answers: Answers, model: str) -> list[dict[str, Any]]:
    """Rows for the table `evals`, one per item, without run_id, key and stage."""
    each = answers.seconds / max(1, len(answers.items))
    return [
        {
            "suite": one.suite,
            "model": model,
            **answers.strategy.columns(),
            "item_id": item.item_id,
            "difficulty": item.difficulty,
            "prompt": item.question,
            "answer": outcome.answer,
            "target": item.target,
            "correct": outcome.correct,
            "score": outcome.score,
            "prompt_tokens": outcome.prompt_tokens,
            "completion_tokens": outcome.completion_tokens,
            "seconds": each,
            "details_json": json.dumps({"cluster": one.cluster, **outcome.details}, ensure_ascii=False),
        }
        for one, item, outcome in zip(answers.asked, answers.items, answers.outcomes, strict=True)
    ]
