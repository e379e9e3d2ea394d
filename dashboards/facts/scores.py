"""Accuracy by model and strategy from the `evals` table, in dollars, and comparisons on the items that two share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from components.cost.inference import TokenPrices
from components.statistics import Interval, PairedDifference, mean_interval, paired_difference, wilson
from dashboards import formatting, labels
from dashboards.facts.prices import prices_of
from dashboards.run_data import Row, RunRows

EQUAL = 0.9  # what costs less than this share of a strategy's dollars is no equal of it


@dataclass(frozen=True)
class Answer:
    """One answered item. `tokens`: all that was generated for it, judges and discarded samples included. `usd`: those
    and the prompt tokens at the run's prices, None where it measured none."""

    correct: bool
    difficulty: int | None
    tokens: float | None
    prompt_tokens: float | None
    usd: float | None = None


@dataclass(frozen=True)
class Score:
    """A strategy of a model on a suite; `k` samples per item, None where no fixed number is drawn. `greedy`: it answers
    once, without sampling. `tokens`: mean generated tokens per item; `usd`: mean dollars. `verified`: it asks a
    verifier what is right."""

    suite: str
    model: str
    strategy: str
    family: str
    k: int | None
    greedy: bool
    accuracy: Interval
    tokens: float | None
    prompt_tokens: float | None
    usd: float | None
    verified: bool
    answers: Mapping[str, Answer] = field(repr=False)

    @property
    def label(self) -> str:
        """The strategy as people read it."""
        return labels.strategy(self.strategy, self.family, self.k)

    @property
    def spent(self) -> str:
        """ "$0.43 per million": what a million items cost."""
        return f"{formatting.dollars(None if self.usd is None else 1e6 * self.usd, 3)} per million"

    @property
    def by_difficulty(self) -> dict[int, Interval]:
        """Accuracy at each difficulty, easiest first."""
        groups: dict[int, list[bool]] = {}
        for answer in self.answers.values():
            if answer.difficulty is not None:
                groups.setdefault(answer.difficulty, []).append(answer.correct)
        return {level: wilson(sum(groups[level]), len(groups[level])) for level in sorted(groups)}


def scores_of(rows: RunRows, suite: str) -> tuple[Score, ...]:
    """The scores on a suite in the order of cost. Rows without a verdict (`correct` is null) are left out.

    Raises UnreadableFacts where another version wrote the run's prices.
    """
    prices = prices_of(rows)
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
                usd=_usd(prices, row["prompt_tokens"], row["completion_tokens"]),
            )
    scores = [_score(any_row[named], items) for named, items in answers.items()]
    return tuple(sorted(scores, key=lambda s: (s.model, s.usd or 0.0, s.tokens or 0.0, s.strategy)))


def _usd(prices: TokenPrices | None, read: float | None, generated: float | None) -> float | None:
    return None if prices is None or read is None or generated is None else prices.request(read, generated)


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
        usd=_mean(a.usd for a in items.values()),
        verified=bool(row["needs_verifier"]),
        answers=items,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def best(scores: Iterable[Score], model: str, greedy: bool = False) -> Score | None:
    """The most accurate strategy of a model; with `greedy`, among those that answer once."""
    mine = [s for s in scores if s.model == model and (not greedy or s.greedy)]
    return max(mine, key=lambda s: s.accuracy.value, default=None)


def strongest_at(dollars: float, rivals: Iterable[Score]) -> Score | None:
    """The most accurate of `rivals` that these dollars per item buy, the cheapest of equals; None without rivals.

    Those that cost no more; and of each family that has none within a tenth below, the cheapest that costs more, so
    that a coarse grid of sizes favours the rival.
    """
    bought: list[Score] = []
    reached: set[str] = set()
    for rival in sorted((r for r in rivals if r.usd is not None), key=lambda r: r.usd or 0.0):
        if (rival.usd or 0.0) <= dollars or rival.family not in reached:
            bought.append(rival)
        if (rival.usd or 0.0) >= EQUAL * dollars:
            reached.add(rival.family)
    return max(bought, key=lambda r: (r.accuracy.value, -(r.usd or 0.0)), default=None)


def saved_share(a: Score, b: Score) -> Interval | None:
    """Share of the dollars of b that a saves on their common items, 1 - mean(a)/mean(b), with Student's t interval of
    the linearised ratio (Cochran 1977, eq. 6.13); None without dollars."""
    pairs = [
        (mine.usd, theirs.usd)
        for item, mine in a.answers.items()
        if (theirs := b.answers.get(item)) and mine.usd is not None and theirs.usd is not None
    ]
    if not pairs or not (mean := sum(y for _, y in pairs) / len(pairs)):
        return None
    ratio = sum(x for x, _ in pairs) / len(pairs) / mean
    return mean_interval([1.0 - ratio - (x - ratio * y) / mean for x, y in pairs])


def pick(scores: Iterable[Score], model: str, strategy: str) -> Score | None:
    return next((s for s in scores if s.model == model and s.strategy == strategy), None)


def paired(a: Score, b: Score) -> PairedDifference | None:
    """Accuracy of a minus that of b on their common items; None where they share none."""
    common = [item for item in a.answers if item in b.answers]
    if not common:
        return None
    return paired_difference([a.answers[i].correct for i in common], [b.answers[i].correct for i in common])
