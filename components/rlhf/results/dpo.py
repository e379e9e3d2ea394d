"""What DPO returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.rlhf.results.policy import PolicyJudgement
from components.stage_results import INLINE
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class DPOResult:
    """reward_accuracy: share of the last batch's pairs whose chosen answer has the larger implicit reward; None where a
    resumed run had no step left."""

    mitigation: str
    beta: float
    num_pairs: int
    num_too_long: int
    reward_accuracy: float | None
    guard: Annotated[GuardCounts, INLINE]
    judged: Annotated[PolicyJudgement, INLINE]
