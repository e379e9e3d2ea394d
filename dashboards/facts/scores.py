"""Accuracy by model and strategy from the `evals` table, and comparisons on the items that two of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from components.statistics import Interval, PairedDifference, paired_difference, wilson
from dashboards import labels
from dashboards.run_data import Row, RunRows


@dataclass(frozen=True)
class Answer:
    """One answered item. `tokens`: all that was generated for it, judges and discarded samples included."""

    correct: bool
    difficulty: int | None
    tokens: float | None
    prompt_tokens: float | None


@dataclass(frozen=True)
class Score:
    """A strategy of a model on a suite; `k` samples per item, None where no fixed number is drawn. `greedy`: it answers
    once, without sampling. `tokens`: mean generated tokens per item."""

    suite: str
    model: str
    strategy: str
    family: str
    k: int | None
    greedy: bool
    accuracy: Interval
    tokens: float | None
    prompt_tokens: float | None
    answers: Mapping[str, Answer] = field(repr=False)

    @property
    def label(self) -> str:
        """The strategy as people read it."""
        return labels.strategy(self.strategy, self.family, self.k)

    @property
    def by_difficulty(self) -> dict[int, Interval]:
        """Accuracy at each difficulty, easiest first."""
        groups: dict[int, list[bool]] = {}
        for answer in self.answers.values():
            if answer.difficulty is not None:
                groups.setdefault(answer.difficulty, []).append(answer.correct)
        return {level: wilson(sum(groups[level]), len(groups[level])) for level in sorted(groups)}


def scores_of(rows: RunRows, suite: str) -> tuple[Score, ...]:
    """The scores on a suite in the order of cost. Rows without a verdict (`correct` is null) are left out."""
    answers: dict[tuple[str, str], dict[str, Answer]] = {}
    any_row: dict[tuple[str, str], Row] = {}
    for row in rows.evals:
        if row["suite"] == suite and row["correct"] is not None:
            named = row["model"], row["strategy"]
            any_row.setdefault(named, row)
            answers.setdefault(named, {})[row["item_id"]] = Answer(
                correct=row["correct"],
                difficulty=row["difficulty"],
                tokens=row["completion_tokens"],
                prompt_tokens=row["prompt_tokens"],
            )
    scores = [_score(any_row[named], items) for named, items in answers.items()]
    return tuple(sorted(scores, key=lambda s: (s.model, s.tokens or 0.0, s.strategy)))


def _score(row: Row, items: dict[str, Answer]) -> Score:
    return Score(
        row["suite"],
        row["model"],
        row["strategy"],
        row["strategy_family"] or row["strategy"],
        row["strategy_size"],
        bool(row["greedy"]),
        accuracy=wilson(sum(a.correct for a in items.values()), len(items)),
        tokens=_mean(a.tokens for a in items.values()),
        prompt_tokens=_mean(a.prompt_tokens for a in items.values()),
        answers=items,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def best(scores: Iterable[Score], model: str, greedy: bool = False) -> Score | None:
    """The most accurate strategy of a model; with `greedy`, among those that answer once."""
    mine = [s for s in scores if s.model == model and (not greedy or s.greedy)]
    return max(mine, key=lambda s: s.accuracy.value, default=None)


def pick(scores: Iterable[Score], model: str, strategy: str) -> Score | None:
    return next((s for s in scores if s.model == model and s.strategy == strategy), None)


def paired(a: Score, b: Score) -> PairedDifference | None:
    """Accuracy of a minus that of b on their common items; None where they share none."""
    common = [item for item in a.answers if item in b.answers]
    if not common:
        return None
    return paired_difference([a.answers[i].correct for i in common], [b.answers[i].correct for i in common])
