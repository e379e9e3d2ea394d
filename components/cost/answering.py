"""Which strategy is worth its price: measured accuracies against dollars over a lifetime of questions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.cost.lifetime import Option
from components.statistics import Interval


@dataclass(frozen=True)
class StrategyCost:
    """A model with a reasoning strategy, as measured: `option` in dollars (further training, and per question),
    `accuracy` with its 95% interval, tokens per question, and `verified`: it takes something that tells a right answer
    from a wrong one."""

    option: Option
    accuracy: Interval
    prompt_tokens: float
    answer_tokens: float
    verified: bool = False

    @property
    def name(self) -> str:
        """Model and strategy."""
        return self.option.name


def frontier(strategies: Iterable[StrategyCost], questions: float) -> tuple[StrategyCost, ...]:
    """By rising cost of a lifetime with that many questions; each is more accurate than all that are cheaper."""
    kept: list[StrategyCost] = []
    for one in sorted(strategies, key=lambda one: (one.option.cost(questions), -one.accuracy.value, one.name)):
        if not kept or one.accuracy.value > kept[-1].accuracy.value:
            kept.append(one)
    return tuple(kept)


def cheapest(strategies: Iterable[StrategyCost], accuracy: float, questions: float) -> StrategyCost | None:
    """The cheapest over a lifetime among the strategies whose whole interval lies at or above `accuracy` (0 to 1);
    None: there is no such strategy.

    The interval and not its middle: of many strategies that are less accurate than required, some appear accurate
    enough by chance.
    """
    good = [one for one in strategies if one.accuracy.low >= accuracy]
    return min(good, key=lambda one: (one.option.cost(questions), one.name), default=None)
