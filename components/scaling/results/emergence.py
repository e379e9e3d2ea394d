"""What the stages of emergence return, beside `components.scaling.emergence.EmergenceReport`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.stage_results import Spread
from components.statistics import Interval


@dataclass(frozen=True)
class ChainsResult:
    """One size. exact_match: share of the n held-out chains."""

    num_params: int
    exact_match: float
    n: int


@dataclass(frozen=True)
class EmergenceDetails:
    """`details_json` of a size's row in `scaling_points`. log_prob_per_token: of the right answer, in nats;
    expected_exact_match: what that log-probability foretells."""

    exact_match: Annotated[Interval, Spread("n")]
    log_prob_per_token: float
    expected_exact_match: float
