"""Train bigger or think longer: for each accuracy the cheapest pair of model and strategy over a life."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from components.cost.lifetime import BreakEven, Option, break_even
from components.statistics import Interval


@dataclass(frozen=True)
class Pair:
    """A model with a strategy, as measured: `option` in dollars (what the model took with all that it was made from,
    and a question), `accuracy` over items, `verified`: it asks what is right."""

    model: str
    strategy: str
    option: Option
    accuracy: Interval
    verified: bool = False


@dataclass(frozen=True)
class Choice:
    """At `accuracy` the cheapest pair, and the cheapest of another model that is as accurate (None: there is none),
    with the questions from which one overtakes the other."""

    accuracy: float
    pair: Pair
    rival: Pair | None
    even: BreakEven | None


def cheapest_pairs(pairs: Iterable[Pair], questions: float) -> list[Choice]:
    """One choice for each accuracy at which it changes, by rising accuracy.

    A pair reaches an accuracy by its estimate; a pair of equal dollars and lower accuracy is never chosen.
    """
    known = sorted(pairs, key=lambda pair: (pair.option.cost(questions), -pair.accuracy.value, pair.option.name))
    choices: list[Choice] = []
    best = -1.0
    for pair in known:
        if pair.accuracy.value <= best:
            continue
        best = pair.accuracy.value
        rivals = [one for one in known if one.model != pair.model and one.accuracy.value >= best]
        rival = rivals[0] if rivals else None
        even = break_even(pair.option, rival.option) if rival else None
        choices.append(Choice(best, pair, rival, even))
    return choices
