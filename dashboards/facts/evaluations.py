"""Evaluation sets of the user's own: every model and strategy, with what became of the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.reasoning.results.strategies import ReasoningResult
from components.statistics import Interval
from dashboards import labels
from dashboards.facts.effects import Effect, Missing, readable
from dashboards.facts.prices import prices_of
from dashboards.run_data import RunRows, finite


@dataclass(frozen=True)
class SetScore:
    """A strategy of a model on a set. tokens, prompt_tokens: generated and read for an item; usd: both at the run's
    prices, None where it measured none. statuses: how many answers were answered, unparsed or truncated."""

    suite: str
    model: str
    strategy: str
    accuracy: Interval
    tokens: float
    prompt_tokens: float
    usd: float | None
    statuses: Mapping[str, int]

    @property
    def of_answered(self) -> tuple[int, int]:
        """How many were right, of how many that gave an answer at all."""
        right = round(self.accuracy.value * self.accuracy.n)
        return right, self.statuses.get("answered", 0) if self.statuses else self.accuracy.n


@dataclass(frozen=True)
class EvaluationFacts:
    scores: tuple[SetScore, ...]
    effects: tuple[Effect, ...] = ()


@readable
def evaluation_facts(rows: RunRows) -> EvaluationFacts | Missing:
    found = []
    prices = prices_of(rows)
    for stage in rows.all("evaluate_set"):
        for row in rows.result(stage, ReasoningResult).strategies:
            accuracy = finite(row.interval)
            if accuracy is not None:
                name = labels.strategy(row.strategy, row.strategy_family or row.strategy, row.strategy_size)
                statuses = row.statuses or {}
                read, written = row.prompt_tokens, row.completion_tokens
                usd = prices.request(read, written) if prices else None
                found.append(SetScore(row.suite or "", row.model, name, accuracy, written, read, usd, statuses))
    if not found:
        return Missing("no evaluation set of your own was answered: [[evaluations]] in the profile names one")
    return EvaluationFacts(tuple(sorted(found, key=lambda s: (s.suite, s.model, s.usd or 0.0, s.tokens))))
