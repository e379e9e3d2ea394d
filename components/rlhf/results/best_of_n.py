"""What best-of-n returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.rlhf.results.policy import Laws
from components.stage_results import Spread
from components.statistics import Interval


@dataclass(frozen=True)
class BestOfNRow:
    """The favourite of n samples by what policies are paid: KL in nats, and its gain over one sample with the interval
    over `items` prompts; of the reward model in standard deviations of the fine-tuned model's scores, of rewards in
    their own unit. gold is None where there is none."""

    n: int
    kl: float
    proxy: Annotated[Interval, Spread("items")]
    gold: Annotated[Interval | None, Spread("items")] = None


@dataclass(frozen=True)
class BestOfNResult:
    """n: prompts; num_groups: groups of samples, several for each prompt where there are few. gold_name: "none" where
    there is no gold."""

    rows: tuple[BestOfNRow, ...]
    n: int
    num_groups: int
    law: Laws
    gold_name: str = "none"
