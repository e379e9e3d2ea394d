"""The answer is the letter of the right option."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.reasoning.scoring.scorers import SCORERS, Scorer
from components.reasoning.scoring.text import MARKERS
from components.rlhf.rewards.answers import Sample, Score, judged_by


@dataclass(frozen=True)
class ChoiceReward:
    """1 where the letter of the answer is the reference's ("B", "(B)"): the one announced behind a marker or in a box,
    else the last in parentheses, else the last that stands alone."""

    kind: Literal["choice"] = "choice"
    name: str = ""
    weight: float = 1.0
    markers: tuple[str, ...] = MARKERS
    marker_only: bool = False

    @property
    def scorer(self) -> Scorer:
        """How an answer is found and compared."""
        return replace(SCORERS["choice"], markers=self.markers, marker_only=self.marker_only)

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return self.scorer.equality.refusal(answer)

    def score(self, sample: Sample) -> Score:
        return judged_by(self.scorer, sample)
