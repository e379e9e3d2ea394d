"""What the stages return alike that train policies on preferences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from components.stage_results import Spread
from components.statistics import Interval


@dataclass(frozen=True)
class PolicyJudgement:
    """A policy on requests that no policy was trained on, beside the fine-tuned model's answers to the same requests.

    proxy, gold: gain over the fine-tuned model, in standard deviations of its scores, with the interval over the n
    requests; gold is None where the preferences are not gold's, since nobody then knows which answers are better.
    disagreement: standard deviation over the ensemble, mean over answers. kl: nats per answer. length: tokens
    per answer. repeated: share of 3-grams that stood before in the same answer. finished: share of answers that ended
    before the length limit.
    """

    proxy: Annotated[Interval, Spread("n")]
    disagreement: float
    num_answers: int
    kl: float
    length: float
    repeated: float
    finished: float
    gold: Annotated[Interval | None, Spread("n")] = None


@dataclass(frozen=True)
class LawResult:
    """A fitted law of over-optimisation (Gao et al. 2022) with its peak: peak_kl in nats, None where it never turns;
    extrapolated: the peak lies beyond the largest KL measured."""

    alpha: Annotated[Interval, Spread("n")]
    beta: Annotated[Interval, Spread("n")]
    r_squared: float | None
    peak_kl: float | None
    peak_reward: float | None
    extrapolated: bool


@dataclass(frozen=True)
class Laws:
    """The law fitted to gold and to the proxy; None where too few different KLs were seen."""

    gold: LawResult | None
    proxy: LawResult | None
