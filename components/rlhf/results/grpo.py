"""What GRPO returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.stage_results import INLINE, Spread
from components.statistics import Interval
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class GRPOResult:
    """Greedy accuracy on the same n held-out problems before and after."""

    before: Annotated[Interval, Spread("n")]
    after: Annotated[Interval, Spread("n")]
    guard: Annotated[GuardCounts, INLINE]
