"""The answer is the reference as mathematics, through `math-verify` (LaTeX and expressions, compared by sympy)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from components.reasoning.scoring.equality import expression
from components.reasoning.scoring.scorers import SCORERS, Scorer
from components.reasoning.scoring.text import MARKERS
from components.rlhf.rewards.answers import Sample, Score, judged_by


@dataclass(frozen=True)
class MathReward:
    """1 where the answer equals the reference: ½ and 0.5, x² + 2x + 1 and (x + 1)², {1, 2} and {2, 1}.

    The expression is the one that a marker announces or a box holds, else the last that the text has. Nothing of it is
    evaluated as Python. seconds: limit of a comparison, past which the answer counts as wrong.
    """

    kind: Literal["math"] = "math"
    name: str = ""
    weight: float = 1.0
    markers: tuple[str, ...] = MARKERS
    marker_only: bool = False
    seconds: int = 5

    def __post_init__(self) -> None:
        if self.seconds < 1:
            raise ValueError(f"seconds is {self.seconds}: give a number of at least 1")

    @property
    def scorer(self) -> Scorer:
        """How an answer is found and compared."""
        equality = expression(self.seconds)
        return replace(SCORERS["math"], equality=equality, markers=self.markers, marker_only=self.marker_only)

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return self.scorer.equality.refusal(answer)

    def score(self, sample: Sample) -> Score:
        return judged_by(self.scorer, sample)
