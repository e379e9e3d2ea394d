"""What best-of-n returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.rlhf.results.policy import Laws
from components.stage_results import Spread
from components.statistics import Interval


@dataclass(frozen=True)
class BestOfNRow:
    """The reward model's favourite of n samples: KL in nats, and its gain over one sample in standard deviations of the
    fine-tuned model's scores, with the interval over `items` requests. gold is None where the preferences are not
    gold's."""

    n: int
    kl: float
    proxy: Annotated[Interval, Spread("items")]
    gold: Annotated[Interval | None, Spread("items")] = None


@dataclass(frozen=True)
class BestOfNResult:
    """n: requests; num_groups: groups of samples, several for each request."""

    rows: tuple[BestOfNRow, ...]
    n: int
    num_groups: int
    law: Laws
