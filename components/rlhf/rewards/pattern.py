"""The answer matches a regular expression."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.reasoning.scoring.text import spoken
from components.rlhf.rewards.answers import Sample, Score, verdict


@dataclass(frozen=True)
class PatternReward:
    """1 where `pattern` is found in the answer (whole: where it matches all of it), "." matching line ends too.

    With a group named `answer`, what it catches must also be the reference, blanks at its ends aside.
    """

    pattern: str
    kind: Literal["regex"] = "regex"
    name: str = ""
    weight: float = 1.0
    whole: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from None

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return "the reference answer is empty" if "(?P<answer>" in self.pattern and not answer.strip() else ""

    def score(self, sample: Sample) -> Score:
        expression = re.compile(self.pattern, re.DOTALL)
        text = spoken(sample.completion).strip()
        found = expression.fullmatch(text) if self.whole else expression.search(text)
        if found is None:
            return Score(0.0, "answered" if sample.finished else "truncated")
        if "answer" in expression.groupindex:
            caught = (found["answer"] or "").strip()
            return verdict(caught == sample.answer.strip(), caught)
        return verdict(True, found[0])
