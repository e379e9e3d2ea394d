"""What the stages return that compare ways of answering on the same held-out items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from components.statistics import Interval


@dataclass(frozen=True)
class StrategyResult:
    """Accuracy of a model with a strategy, Wilson's 95% interval over n items, and mean tokens per item."""

    model: str
    strategy: str
    accuracy: float
    low: float
    high: float
    n: int
    completion_tokens: float
    prompt_tokens: float
    by_difficulty: Mapping[str, Interval]

    @property
    def interval(self) -> Interval:
        """The accuracy."""
        return Interval(self.accuracy, self.low, self.high, self.n)


@dataclass(frozen=True)
class ReasoningResult:
    strategies: tuple[StrategyResult, ...]


@dataclass(frozen=True)
class TreeComparison:
    """Accuracy of a tree minus that of the strongest other strategy at its tokens per puzzle, on the same n puzzles."""

    tree: str
    rival: str
    tree_tokens: float
    rival_tokens: float
    difference: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PuzzleSearchResult:
    strategies: tuple[StrategyResult, ...]
    comparisons: tuple[TreeComparison, ...]
