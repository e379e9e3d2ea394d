"""What best-of-n returns."""

from __future__ import annotations

from dataclasses import dataclass

from components.rlhf.results.policy import Laws
from components.statistics import Interval


@dataclass(frozen=True)
class BestOfNRow:
    """The reward model's favourite of n samples: KL in nats, and its gain over one sample in standard deviations of the
    fine-tuned model's scores; the interval of gold is over `items` requests."""

    n: int
    items: int
    kl: float
    proxy: float
    gold: float
    gold_low: float
    gold_high: float

    @property
    def gold_interval(self) -> Interval:
        """The gain in gold."""
        return Interval(self.gold, self.gold_low, self.gold_high, self.items)


@dataclass(frozen=True)
class BestOfNResult:
    """n: requests; num_groups: groups of samples, several for each request."""

    rows: tuple[BestOfNRow, ...]
    n: int
    num_groups: int
    law: Laws
