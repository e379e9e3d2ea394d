"""What the stages return alike that train policies on preferences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from components.stage_results import Spread
from components.statistics import Interval

STORY_GOLD = "story rubric"  # the scorer of our stories, where the preferences are its own; what users name is theirs


@dataclass(frozen=True)
class RewardGain:
    """A reward in its own unit, mean over the held-out answers of the model that a policy began as and of the policy,
    and what the policy gained; its interval is over the n prompts."""

    before: float
    after: float
    gain: Interval


@dataclass(frozen=True)
class PolicyJudgement:
    """A policy on prompts that no policy was trained on, beside the answers of the model that it began as.

    proxy, gold: gain over that model, with the interval over the n prompts. Of the reward model and of our own
    stories' gold they are in standard deviations of that model's scores, of rewards in their own unit. proxy is None
    for a policy that was paid nothing; gold where there is none, since nobody then knows which answers are better:
    `gold_name` is then "none". disagreement: standard deviation over the ensemble, mean over answers. kl: nats per
    answer. length: tokens per answer. repeated: share of 3-grams that stood before in the same answer. finished: share
    of answers that ended before the length limit. rewards: every reward by name; None where the reward model is the
    only one.
    """

    disagreement: float
    num_answers: int
    kl: float
    length: float
    repeated: float
    finished: float
    proxy: Annotated[Interval | None, Spread("n")] = None
    gold: Annotated[Interval | None, Spread("n")] = None
    gold_name: str = "none"
    rewards: Mapping[str, RewardGain] | None = None


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
