"""What the training of a reward model returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from components.rlhf.reward_evaluation import Calibration, LengthBias
from components.stage_results import INLINE, Spread
from components.statistics import Interval
from components.training.results.guard import GuardCounts


@dataclass(frozen=True)
class GoldAgreement:
    """Against gold, on held-out answers: correlation of score and gold (agreement_with_gold), and how often the best of
    four answers is found. None where the preferences are not gold's or the answers are too few."""

    agreement_with_gold: float | None
    best_of_four: Interval | None


@dataclass(frozen=True)
class HeldOutWorth:
    """A reward model on the num_held_out pairs it was not trained on; intervals are over the n requests of these pairs.
    score_by_length: (tokens, score) of answers."""

    accuracy: Annotated[Interval, Spread("n")]
    num_held_out: int
    calibration: Calibration
    length: LengthBias
    score_by_length: tuple[tuple[float, float], ...]
    gold: Annotated[GoldAgreement, INLINE]


@dataclass(frozen=True)
class RewardModelResult:
    """num_pairs: trained on. disagreement: standard deviation over the ensemble, mean over held-out answers.
    accuracy_by: split, source, annotator or confidence -> group -> accuracy. held_out is None, like disagreement, where
    no pair was held out."""

    num_pairs: int
    num_too_long: int
    guard: Annotated[GuardCounts, INLINE]
    disagreement: float | None
    accuracy_by: Mapping[str, Mapping[str, Interval]]
    held_out: Annotated[HeldOutWorth | None, INLINE] = None
