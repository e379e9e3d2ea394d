"""The answer is the reference, word for word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.reasoning.scoring.equality import text
from components.reasoning.scoring.scorers import SCORERS, Scorer
from components.reasoning.scoring.text import MARKERS
from components.rlhf.rewards.answers import Sample, Score, judged_by


@dataclass(frozen=True)
class ExactReward:
    """1 where the answer is the reference: what a marker announces or a box holds, else the whole text.

    Compared in Unicode's NFC with runs of blanks as one and without a final full stop; ignore_case: also without case.
    marker_only: a text that announces no answer has none.
    """

    kind: Literal["exact"] = "exact"
    name: str = ""
    weight: float = 1.0
    markers: tuple[str, ...] = MARKERS
    marker_only: bool = False
    ignore_case: bool = False

    @property
    def scorer(self) -> Scorer:
        """How an answer is found and compared."""
        equality = text(self.ignore_case)
        return replace(SCORERS["exact"], equality=equality, markers=self.markers, marker_only=self.marker_only)

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return self.scorer.equality.refusal(answer)

    def score(self, sample: Sample) -> Score:
        return judged_by(self.scorer, sample)
