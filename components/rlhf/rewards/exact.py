"""The answer is the reference, word for word."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.rlhf.rewards.answers import Sample, Score, missing, verdict
from components.rlhf.rewards.extraction import MARKERS, marked, spoken


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

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return "" if self._plain(answer) else "the reference answer is empty"

    def score(self, sample: Sample) -> Score:
        text = spoken(sample.completion)
        found = marked(text, self.markers, sample.finished)
        if not found and not self.marker_only and sample.finished:
            found = text.strip()
        if not found:
            return missing(sample)
        return verdict(self._plain(found) == self._plain(sample.answer), found)

    def _plain(self, text: str) -> str:
        plain = " ".join(unicodedata.normalize("NFC", text).split()).removesuffix(".")
        return plain.casefold() if self.ignore_case else plain
