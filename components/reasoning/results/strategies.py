"""What the stages return that compare ways of answering on the same held-out items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from components.statistics import Interval

if TYPE_CHECKING:
    from components.reasoning.strategy import Strategy


@dataclass(frozen=True)
class StrategyResult:
    """Accuracy of a model with a strategy, Wilson's 95% interval over n items, and mean tokens per item.

    strategy_family to greedy say what kind of strategy it is, as the columns of `evals` do; None where the stage does
    not say. suite: the evaluation set; None for our chains and puzzles. statuses: how many items were answered,
    unparsed or truncated, where the stage tells."""

    model: str
    strategy: str
    accuracy: float
    low: float
    high: float
    n: int
    completion_tokens: float
    prompt_tokens: float
    by_difficulty: Mapping[str, Interval]
    strategy_family: str | None = None
    strategy_size: int | None = None
    needs_verifier: bool | None = None
    greedy: bool | None = None
    suite: str | None = None
    statuses: Mapping[str, int] | None = None

    @property
    def interval(self) -> Interval:
        """The accuracy."""
        return Interval(self.accuracy, self.low, self.high, self.n)

    def named_by(self, strategy: Strategy) -> StrategyResult:
        """With what kind of strategy it is."""
        return replace(
            self,
            strategy_family=strategy.family,
            strategy_size=strategy.size,
            needs_verifier=strategy.needs_verifier,
            greedy=strategy.greedy,
        )


@dataclass(frozen=True)
class ReasoningResult:
    strategies: tuple[StrategyResult, ...]


@dataclass(frozen=True)
class PuzzleSearchResult:
    strategies: tuple[StrategyResult, ...]
