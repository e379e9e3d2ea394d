"""The answer is the reference as a number, exactly or within a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from components.rlhf.rewards.answers import Sample, Score, missing, verdict
from components.rlhf.rewards.extraction import MARKERS, marked, number_in, shown, spoken


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

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return "" if self.reference(answer) is not None else f"the reference answer {answer[:60]!r} holds no number"

    def reference(self, answer: str) -> Fraction | None:
        """The number of a reference."""
        announced = marked(answer, ("####",), True)
        return number_in(announced or answer)

    def score(self, sample: Sample) -> Score:
        text = spoken(sample.completion)
        announced = marked(text, self.markers, sample.finished)
        found = number_in(announced, last=False) if announced else None
        if found is None and not self.marker_only and sample.finished:
            found = number_in(text)
        wanted = self.reference(sample.answer)
        if wanted is None:
            return Score.failed(self.refusal(sample.answer, sample.metadata))
        if found is None:
            return missing(sample)
        allowed = Fraction(self.tolerance) + Fraction(self.relative) * abs(wanted)
        return verdict(abs(found - wanted) <= allowed, shown(found))
