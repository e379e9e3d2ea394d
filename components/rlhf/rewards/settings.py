"""What a stage needs to know to open the rewards of a life; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from components.rlhf.rewards.kinds import RewardConfig


@dataclass(frozen=True)
class RewardLimits:
    """max_failed: share of the scores of a stage that may have failed before it ends with an error."""

    max_failed: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed <= 1:
            raise ValueError(f"reward_limits.max_failed is {self.max_failed}: give a share from 0 to 1")


@dataclass(frozen=True)
class RewardSettings:
    """rewards: what a policy is paid; empty: what the life pays without them. gold: what it is watched with and never
    paid; empty: none, or that of our own stories. digests: of the code and files that both read, by name; only there so
    that an edit makes another policy."""

    rewards: tuple[RewardConfig, ...] = ()
    gold: tuple[RewardConfig, ...] = ()
    limits: RewardLimits = field(default_factory=RewardLimits)
    digests: Mapping[str, str] = field(default_factory=dict)
