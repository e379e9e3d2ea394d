"""What PPO returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.rlhf.results.policy import Laws, PolicyJudgement
from components.stage_results import INLINE
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class PPOResult:
    """mitigation: what held the policy back. alarm: over-optimisation was seen, with gold where that is known, at
    iteration alarm_step; suspicion: by the signs alone. best_step: the look that was trusted most. stopped: the alarm
    ended the training and the policy of best_step was kept."""

    mitigation: str
    kl_coef: float
    judged: Annotated[PolicyJudgement, INLINE]
    alarm: bool
    alarm_step: int | None
    alarm_reason: str
    suspicion: bool
    suspicion_reason: str
    best_step: int
    stopped: bool
    law: Laws
    guard: Annotated[GuardCounts, INLINE]
