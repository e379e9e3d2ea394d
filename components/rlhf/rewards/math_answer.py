"""The answer is the reference as mathematics, through `math-verify` (LaTeX and expressions, compared by sympy)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from components.rlhf.rewards.answers import Sample, Score, missing, verdict
from components.rlhf.rewards.extraction import MARKERS, marked, spoken


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

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt with this reference cannot be judged; "" where it can."""
        return "" if _reference(answer, self.seconds) else f"the reference {answer[:60]!r} is no mathematics"

    def score(self, sample: Sample) -> Score:
        from math_verify import verify

        wanted = _reference(sample.answer, self.seconds)
        if not wanted:
            return Score.failed(self.refusal(sample.answer, sample.metadata))
        text = spoken(sample.completion)
        announced = marked(text, self.markers, sample.finished)
        found = _parsed(_as_latex(announced), self.seconds) if announced else []
        if not found and not self.marker_only and sample.finished:
            found = _parsed(text, self.seconds)
        if not found:
            return missing(sample)
        limit = self.seconds if _has_alarm() else None
        right = verify(list(wanted), found, timeout_seconds=limit)
        return verdict(bool(right), str(found[-1]))


@cache
def _reference(answer: str, seconds: int) -> tuple[Any, ...]:
    announced = marked(answer, ("####",), True) or answer
    return tuple(_parsed(_as_latex(announced), seconds))


def _as_latex(text: str) -> str:
    """An expression on its own: math-verify reads LaTeX only between delimiters."""
    return text if "$" in text or "\\[" in text or "\\(" in text else f"${text}$"


def _parsed(text: str, seconds: int) -> list[Any]:
    from math_verify import parse

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # what it cannot read, it returns nothing for
    found = parse(text[-20_000:], parsing_timeout=seconds if _has_alarm() else None)
    return list(found)


def _has_alarm() -> bool:
    """Its time limit is a signal, which only a main thread can take."""
    import threading

    return threading.current_thread() is threading.main_thread()
