"""Which way of answering is worth its price: measured accuracies against dollars over a lifetime of questions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.cost.lifetime import Option
from components.statistics import Interval


@dataclass(frozen=True)
class Way:
    """A way to answer that was measured: `option` in dollars (further training, and a question), `accuracy` with its
    95% interval, tokens a question, and `verified`: it takes something that tells a right answer from a wrong one."""

    option: Option
    accuracy: Interval
    prompt_tokens: float
    answer_tokens: float
    verified: bool = False

    @property
    def name(self) -> str:
        """Model and strategy."""
        return self.option.name


def frontier(ways: Iterable[Way], questions: float) -> tuple[Way, ...]:
    """By rising cost of a life of so many questions; each is more accurate than all that are cheaper."""
    kept: list[Way] = []
    for way in sorted(ways, key=lambda way: (way.option.cost(questions), -way.accuracy.value, way.name)):
        if not kept or way.accuracy.value > kept[-1].accuracy.value:
            kept.append(way)
    return tuple(kept)


def cheapest(ways: Iterable[Way], accuracy: float, questions: float) -> Way | None:
    """The cheapest life among the ways whose whole interval lies at or above `accuracy` (0 to 1); None: no way does.

    The interval and not its middle: of many ways that are no better than asked for, some look it by chance.
    """
    good = [way for way in ways if way.accuracy.low >= accuracy]
    return min(good, key=lambda way: (way.option.cost(questions), way.name), default=None)
