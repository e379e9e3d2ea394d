"""Strategies on the same items: rows for the table `evals`, accuracies with intervals, paired comparisons."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.reasoning.items import Item
from components.reasoning.strategy import Outcome, Strategy, Trial
from components.statistics import Interval, PairedDifference, paired_difference, wilson


@dataclass(frozen=True)
class Answered:
    """A strategy on all items; outcome i answers items[i]. seconds: of wall-clock, for all of them together."""

    strategy: Strategy
    items: tuple[Item, ...]
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def correct(self) -> list[bool]:
        """The verdicts, in the order of the items."""
        return [outcome.correct for outcome in self.outcomes]

    @property
    def tokens(self) -> float:
        """Mean generated tokens per item."""
        return float(np.mean([outcome.completion_tokens for outcome in self.outcomes]))

    @property
    def prompt_tokens(self) -> float:
        """Mean prompt tokens per item."""
        return float(np.mean([outcome.prompt_tokens for outcome in self.outcomes]))

    @property
    def generated_tokens(self) -> int:
        """Tokens that were generated for all items."""
        return sum(outcome.completion_tokens for outcome in self.outcomes)

    @property
    def total_tokens(self) -> int:
        """Tokens of all items, generated and read."""
        return sum(outcome.completion_tokens + outcome.prompt_tokens for outcome in self.outcomes)


def run_strategies(strategies: Iterable[Strategy], trial: Trial) -> Iterator[Answered]:
    """Let each strategy answer all items, and yield it when it is done.

    Samples are drawn once for all strategies; each is charged the share of that time that it has of their tokens.
    """
    for strategy in strategies:
        pool = trial.pool(strategy.pool) if strategy.size else None
        began = time.perf_counter()
        outcomes = strategy.answer(trial)
        seconds = time.perf_counter() - began
        if pool:
            used = sum(outcome.completion_tokens for outcome in outcomes)
            seconds += pool.seconds * used / max(1, pool.generated_tokens)
        yield Answered(strategy, tuple(trial.items), tuple(outcomes), seconds)


def at_sizes(num_samples: int, *families: Callable[[int], Strategy]) -> Iterator[Strategy]:
    """Each family at 1, 2, 4, … up to `num_samples`; at 1 only the first, since with one sample all are the same."""
    for size in (2**power for power in range(num_samples.bit_length())):
        yield from (family(size) for family in (families if size > 1 else families[:1]))


def fine_sizes(num_samples: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … up to `num_samples`, which is the last of them."""
    powers = [2**power for power in range(num_samples.bit_length())]
    return sorted({size for power in powers for size in (power, power * 3 // 2) if size <= num_samples} | {num_samples})


def eval_rows(answered: Answered, suite: str, model: str) -> list[dict[str, Any]]:
    """Rows for the table `evals`, one per item, without run_id, key and stage."""
    each = answered.seconds / max(1, len(answered.items))
    return [
        {
            "suite": suite,
            "model": model,
            **answered.strategy.columns(),
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
            "details_json": json.dumps(outcome.details, ensure_ascii=False),
        }
        for item, outcome in zip(answered.items, answered.outcomes, strict=True)
    ]


def tree_rows(strategy: Strategy, items: Sequence[Item], outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Rows for the table `trees`, one a step of a strategy of several requests, without run_id, key and stage."""
    rows = []
    for item, outcome in zip(items, outcomes, strict=True):
        depths: list[int] = []
        for place, step in enumerate(outcome.steps):
            depths.append(0 if step.parent is None else depths[step.parent] + 1)
            rows.append(
                {
                    "strategy": strategy.name,
                    "item_id": item.item_id,
                    "node": place,
                    "parent": step.parent,
                    "depth": depths[-1],
                    "kind": step.kind,
                    "text": step.text,
                    "value": step.value,
                    "tokens": step.tokens,
                    "status": step.status,
                }
            )
    return rows


@dataclass(frozen=True)
class Summary:
    """Accuracy with Wilson's 95% interval and mean tokens per item; difficulty None: over all items."""

    strategy: str
    difficulty: int | None
    accuracy: Interval
    tokens: float
    prompt_tokens: float


def summarize(answered: Answered) -> list[Summary]:
    """Over all items first, then by difficulty, easiest first."""
    levels: list[int | None] = [None, *sorted({item.difficulty for item in answered.items})]
    summaries = []
    for level in levels:
        mine = [o for i, o in zip(answered.items, answered.outcomes, strict=True) if level in (None, i.difficulty)]
        summaries.append(
            Summary(
                answered.strategy.name,
                level,
                wilson(sum(o.correct for o in mine), len(mine)),
                float(np.mean([o.completion_tokens for o in mine])),
                float(np.mean([o.prompt_tokens for o in mine])),
            )
        )
    return summaries


def compare(a: Answered, b: Answered) -> PairedDifference:
    """Accuracy of a minus that of b. Raises ValueError unless both answered the same items in the same order."""
    if [item.item_id for item in a.items] != [item.item_id for item in b.items]:
        raise ValueError(f"{a.strategy.name} and {b.strategy.name} answered different items: they cannot be paired")
    return paired_difference(a.correct, b.correct)
