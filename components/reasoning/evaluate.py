"""Suites of strategies on the same items: rows for the table `evals`, accuracies with intervals, paired comparisons."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from components.inference.text import Generate
from components.reasoning.config import ReasoningConfig
from components.reasoning.strategies import (
    Item,
    Outcome,
    Samples,
    Shots,
    Strategy,
    best_of_k,
    chain_of_thought,
    direct,
    draw,
    self_consistency,
)
from components.statistics import Interval, PairedDifference, paired_difference, wilson


@dataclass(frozen=True)
class Answered:
    """A strategy on all items; outcome i answers items[i]. seconds: of wall-clock, for all of them together."""

    strategy: str
    items: tuple[Item, ...]
    outcomes: tuple[Outcome, ...]
    seconds: float

    @property
    def correct(self) -> list[bool]:
        """The verdicts, in the order of the items."""
        return [outcome.correct for outcome in self.outcomes]

    @property
    def tokens(self) -> float:
        """Mean generated tokens an item."""
        return float(np.mean([outcome.completion_tokens for outcome in self.outcomes]))

    @property
    def prompt_tokens(self) -> float:
        """Mean prompt tokens an item."""
        return float(np.mean([outcome.prompt_tokens for outcome in self.outcomes]))

    @property
    def total_tokens(self) -> int:
        """Tokens of all items, generated and read."""
        return sum(outcome.completion_tokens + outcome.prompt_tokens for outcome in self.outcomes)


def run_strategies(generate: Generate, items: Sequence[Item], strategies: Mapping[str, Strategy]) -> Iterator[Answered]:
    """Run each named strategy on all items and yield it when it is done."""
    for name, strategy in strategies.items():
        began = time.perf_counter()
        outcomes = strategy(generate, items)
        yield Answered(name, tuple(items), tuple(outcomes), time.perf_counter() - began)


def answer_suite(
    generate: Generate, items: Sequence[Item], config: ReasoningConfig, few_shots: Shots = ()
) -> Iterator[Answered]:
    """direct, cot, (few_shot,) self_consistency@1, 2, 4, … and best_of@2, 4, … on the same items.

    The votes and choices are read from one set of samples, so their seconds are shares of its time.
    """
    greedy: dict[str, Strategy] = {
        "direct": partial(direct, max_tokens=config.max_direct_tokens),
        "cot": partial(chain_of_thought, max_tokens=config.max_tokens),
    }
    if few_shots:
        greedy["few_shot"] = partial(chain_of_thought, max_tokens=config.max_tokens, shots=few_shots)
    yield from run_strategies(generate, items, greedy)
    began = time.perf_counter()
    samples = draw(generate, items, config.num_samples, config.temperature, config.max_tokens, config.seed)
    yield from read_samples(samples, time.perf_counter() - began)


def read_samples(samples: Samples, seconds: float, votes: bool = True) -> Iterator[Answered]:
    """Votes (unless declined) and best-of-k of every size in one set of samples that took `seconds`."""
    for size in samples.sizes():
        share = seconds * size / samples.num_samples
        if votes:
            yield Answered(f"self_consistency@{size}", samples.items, tuple(self_consistency(samples, size)), share)
        if size > 1:
            yield Answered(f"best_of@{size}", samples.items, tuple(best_of_k(samples, size)), share)


def eval_rows(answered: Answered, suite: str, model: str) -> list[dict[str, Any]]:
    """Rows for the table `evals`, one an item, without run_id, key and stage."""
    each = answered.seconds / max(1, len(answered.items))
    return [
        {
            "suite": suite,
            "model": model,
            "strategy": answered.strategy,
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


@dataclass(frozen=True)
class Summary:
    """Accuracy with Wilson's 95% interval and mean tokens an item; difficulty None: over all items."""

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
                answered.strategy,
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
        raise ValueError(f"{a.strategy} and {b.strategy} answered different items: they cannot be paired")
    return paired_difference(a.correct, b.correct)


def strongest_at_tokens(rivals: Iterable[Answered], tokens: float, at_least: float = 0.9) -> Answered | None:
    """The most accurate of `rivals` that spend at least `at_least` of `tokens`; of each family (the name up to "@") the
    cheapest such, so that a coarse grid of sizes favours the rival. None where all spend less."""
    nearest: dict[str, Answered] = {}
    for rival in sorted(rivals, key=lambda r: r.tokens):
        if rival.tokens >= at_least * tokens:
            nearest.setdefault(rival.strategy.split("@")[0], rival)
    return max(nearest.values(), key=lambda r: sum(r.correct), default=None)
