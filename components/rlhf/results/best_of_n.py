"""What best-of-n returns."""

from __future__ import annotations

from dataclasses import dataclass

from components.rlhf.results.policy import Laws
from components.statistics import Interval


@dataclass(frozen=True)
class BestOfNRow:
    """The favourite of n samples by what policies are paid: KL in nats, and its gain over one sample; the interval of
    gold, which is None where there is none, is over `items` prompts."""

    n: int
    items: int
    kl: float
    proxy: float
    gold: float | None = None
    gold_low: float | None = None
    gold_high: float | None = None

    @property
    def gold_interval(self) -> Interval | None:
        """The gain in gold."""
        if self.gold is None or self.gold_low is None or self.gold_high is None:
            return None
        return Interval(self.gold, self.gold_low, self.gold_high, self.items)


@dataclass(frozen=True)
class BestOfNResult:
    """n: prompts; num_groups: groups of samples, several for each prompt where there are few. gold_name: "none" where
    there is no gold."""

    rows: tuple[BestOfNRow, ...]
    n: int
    num_groups: int
    law: Laws
    gold_name: str = "none"
