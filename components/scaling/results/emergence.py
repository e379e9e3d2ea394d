"""What the stages of emergence return, beside `components.scaling.emergence.EmergenceReport`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.stage_results import Spread
from components.statistics import Interval


@dataclass(frozen=True)
class ChainsResult:
    """One training. exact_match: share of the n held-out chains that its greedy answers solve."""

    num_params: int
    exact_match: float
    n: int


@dataclass(frozen=True)
class EmergenceDetails:
    """`details_json` of a size's row in `scaling_points`, over its trainings. exact_match: of greedy answers;
    log_prob_computed, log_prob_copied: of the right answer's tokens, nats per token; sampled_match: probability that a
    sample writes the whole right answer; expected_match: what the mean log-probability foretells of it."""

    trainings: int
    exact_match: Annotated[Interval, Spread("n")]
    log_prob_computed: float
    log_prob_copied: float
    sampled_match: float
    expected_match: float
