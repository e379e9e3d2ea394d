"""The adaptive controller beside what else the same spend buys: greedy answers, fixed strategies, and an oracle."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from components.reasoning.controller import Floats, Rates
from components.reasoning.evaluation import Answers
from components.reasoning.tally import Tally, paired_bootstrap
from components.statistics import Interval


@dataclass
class Spent:
    """Of every item: what the controller spent, and what each rung of the ladder would have given and cost."""

    cost: array[float] = field(default_factory=lambda: array("d"))
    rungs_right: array[float] = field(default_factory=lambda: array("d"))
    rungs_cost: array[float] = field(default_factory=lambda: array("d"))

    def add(self, answers: Answers) -> None:
        """A further chunk."""
        for outcome in answers.outcomes:
            self.cost.append(outcome.details["cost"])
            self.rungs_right.extend(outcome.details["rungs_right"])
            self.rungs_cost.extend(outcome.details["rungs_cost"])


@dataclass(frozen=True)
class Rival:
    """name: of a fixed strategy, or of two between which a coin decides so that they cost what the controller does.
    difference: the controller's accuracy minus the rival's on the same items, with its 95% interval over clusters."""

    name: str
    cost: float
    accuracy: float
    difference: Interval

    @property
    def beaten(self) -> bool:
        """Whether the whole interval is in the controller's favour."""
        return self.difference.low > 0


@dataclass(frozen=True)
class ControllerReport:
    """At equal spend. greedy: the greedy strategy that is most accurate within the spend, None where none is within it.
    fixed: the strongest rival of fixed strategies. oracle: accuracy of whoever knows which rung is right."""

    cost: float
    accuracy: float
    greedy: Rival | None
    fixed: Rival | None
    oracle: float


def controller_report(mine: Tally, spent: Spent, fixed: Sequence[Tally], rates: Rates) -> ControllerReport:
    """fixed: the other strategies of the evaluation that do not know what is right; they are chosen on the items that
    are reported, which favours them over the controller."""
    right = np.asarray(mine.right, float)
    cost = float(np.mean(np.asarray(spent.cost)))
    offers = [(_cost(one, rates), np.asarray(one.right, float), one) for one in fixed]
    affordable = [(price, verdicts, one) for price, verdicts, one in offers if price <= cost * (1 + 1e-9)]

    def rival(name: str, price: float, verdicts: Floats) -> Rival:
        return Rival(name, price, float(verdicts.mean()), paired_bootstrap(right - verdicts, mine.labels, seed=0))

    greedy = max((x for x in affordable if x[2].strategy.greedy), key=lambda x: (x[1].mean(), -x[0]), default=None)
    mixes = [(one.strategy.name, price, verdicts) for price, verdicts, one in affordable]
    for low, verdicts, one in affordable:
        for high, dearer, other in offers:
            if high > cost:
                share = (cost - low) / (high - low)
                name = f"{other.strategy.name} for {share:.0%} of the items, {one.strategy.name} for the rest"
                mixes.append((name, cost, share * dearer + (1 - share) * verdicts))
    best = max(mixes, key=lambda x: (x[2].mean(), -x[1]), default=None)
    return ControllerReport(
        cost,
        float(right.mean()),
        rival(greedy[2].strategy.name, greedy[0], greedy[1]) if greedy else None,
        rival(*best) if best else None,
        oracle(np.asarray(spent.rungs_right).reshape(len(right), -1), _rungs(spent, len(right)), cost),
    )


def _rungs(spent: Spent, count: int) -> Floats:
    return np.asarray(spent.rungs_cost).reshape(count, -1)


def _cost(one: Tally, rates: Rates) -> float:
    total = rates.prompt * one.prompt_tokens + rates.completion * one.completion_tokens + rates.second * one.latency
    return total / len(one.right)


def oracle(right_NS: Floats, steps_NS: Floats, spend: float) -> float:
    """The greatest accuracy within a mean spend of one who knows on which rungs each item is right: all items pay one
    single answer, the cheapest; those that it leaves wrong are paid for from the cheapest on. A lone worked answer
    needs no answer at once before it; votes pay for the worked answer, which is one of them."""
    alone = steps_NS.copy()
    if right_NS.shape[1] > 2:
        alone[:, 2:] = np.cumsum(steps_NS[:, 1:], axis=1)[:, 1:]
    least = alone.min(axis=1)
    cost_of_right = np.where(right_NS > 0, alone, np.inf).min(axis=1)
    extra = np.sort(cost_of_right - least)
    extra = extra[np.isfinite(extra)]
    left = spend * len(right_NS) - float(least.sum())
    return float(np.count_nonzero(np.cumsum(extra) <= max(0.0, left) + 1e-9)) / len(right_NS)
