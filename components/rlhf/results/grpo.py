"""What GRPO returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from components.rlhf.results.policy import RewardGain
from components.stage_results import INLINE, Spread
from components.statistics import Interval
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class GRPOResult:
    """Answers to the same n held-out prompts before and after. measure: `accuracy` of greedy answers where the reward
    is a verdict (Wilson's interval), else `reward`, the mean of the weighted sum in its own unit over sampled answers,
    which is what is optimised (the interval is over prompts).

    rewards: every reward by name, with what was gained. gold_name: what gold is called, "none" where there is none;
    gold: its gain. statuses: share of the answers after training that were answered, unparsed, truncated or failed.
    """

    before: Annotated[Interval, Spread("n")]
    after: Annotated[Interval, Spread("n")]
    guard: Annotated[GuardCounts, INLINE]
    measure: Literal["accuracy", "reward"] = "accuracy"
    rewards: Mapping[str, RewardGain] | None = None
    gold_name: str = "none"
    gold: Annotated[Interval | None, Spread("gold_n")] = None
    statuses: Mapping[str, float] | None = None
