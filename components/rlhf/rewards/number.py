"""The answer is the reference as a number, exactly or within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.reasoning.scoring.equality import number
from components.reasoning.scoring.scorers import SCORERS, Scorer
from components.reasoning.scoring.text import MARKERS
from components.rlhf.rewards.answers import Sample, Score, judged_by


@dataclass(frozen=True)
class NumberReward:
    """1 where the number of the answer is within tolerance + relative · |reference| of the reference.

    It is the first number behind a marker or in a box where one is announced, else the last of the text. Numbers are
    compared as fractions: "1,600" is 1600.0, and 0.1 + 0.2 is 0.3. A reference may be a worked solution that ends in
    "#### 18", as those of GSM8K are. marker_only: a text that announces no number has none.
    """

    kind: Literal["number"] = "number"
    name: str = ""
    weight: float = 1.0
    tolerance: float = 0.0
    relative: float = 0.0
    markers: tuple[str, ...] = MARKERS
    marker_only: bool = False

    def __post_init__(self) -> None:
        for name in ("tolerance", "relative"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least 0")

    @property
    def scorer(self) -> Scorer:
        """How an answer is found and compared."""
        equality = number(self.tolerance, self.relative)
        return replace(SCORERS["number"], equality=equality, markers=self.markers, marker_only=self.marker_only)

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return self.scorer.equality.refusal(answer)

    def score(self, sample: Sample) -> Score:
        return judged_by(self.scorer, sample)
