"""The answer is the letter of the right option."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.rlhf.rewards.answers import Sample, Score, missing, verdict
from components.rlhf.rewards.extraction import MARKERS, letter_in, marked, spoken

_ALONE = re.compile(r"\(?\s*([A-Za-z])\s*[).:]?")


@dataclass(frozen=True)
class ChoiceReward:
    """1 where the letter of the answer is the reference's ("B", "(B)"): the one announced behind a marker or in a box,
    else the last in parentheses, else the last that stands alone."""

    kind: Literal["choice"] = "choice"
    name: str = ""
    weight: float = 1.0
    markers: tuple[str, ...] = MARKERS
    marker_only: bool = False

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return "" if _ALONE.fullmatch(answer.strip()) else f"the reference answer {answer[:60]!r} is no letter"

    def score(self, sample: Sample) -> Score:
        wanted = _ALONE.fullmatch(sample.answer.strip())
        if wanted is None:
            return Score.failed(self.refusal(sample.answer, sample.metadata))
        text = spoken(sample.completion)
        announced = marked(text, self.markers, sample.finished)
        alone = _ALONE.fullmatch(announced)
        found = alone[1].upper() if alone else _first(announced)
        if not found and not self.marker_only and sample.finished:
            alone = _ALONE.fullmatch(text.strip())
            found = alone[1].upper() if alone else letter_in(text)
        return verdict(found == wanted[1].upper(), found) if found else missing(sample)


def _first(announced: str) -> str:
    """The letter that an announcement begins with: "B) 12 apples", "(B) since A is too small"."""
    found = re.match(r"\(?([A-Z])(?:[).:]|\b)", announced)
    return found[1] if found else letter_in(announced)
