"""What every reward is handed, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.reasoning.scoring.scorers import Scorer as AnswerScorer
from components.reasoning.scoring.scorers import Status


class RewardError(ValueError):
    """A reward that cannot be used at all: its settings, its file, its server or too many failures; says what to do."""


@dataclass(frozen=True)
class Sample:
    """One answer to one prompt.

    Attributes:
        messages: the prompt, `{"role", "content"}` each; the last is the user's.
        completion: the answer, without the end of its turn.
        answer: the reference; "" where the prompt has none.
        metadata: the other columns of the prompt's row.
        finished: the answer ended by itself, not at the length limit.
        tokens: prompt and answer as token ids of the policy; empty where only the text is known.
    """

    messages: tuple[Mapping[str, str], ...]
    completion: str
    answer: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    finished: bool = True
    tokens: tuple[int, ...] = ()

    @property
    def prompt(self) -> str:
        """What the user said last."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Score:
    """value: 0 where nothing could be judged. found: the answer that was taken from the text. note: why it failed."""

    value: float
    status: Status = "answered"
    found: str = ""
    note: str = ""

    @classmethod
    def failed(cls, note: str) -> Score:
        """Nothing is known about the answer."""
        return cls(0.0, "failed", note=note)


Scorer = Callable[[Sequence[Sample]], list[Score]]
"""Scores in the order of the samples; an answer that cannot be scored is a failed score, never an exception."""


def missing(sample: Sample) -> Score:
    """Of a text without an answer: cut off, or simply without."""
    return Score(0.0, "unparsed" if sample.finished else "truncated")


def judged_by(scorer: AnswerScorer, sample: Sample) -> Score:
    """1 where the answer of a sample is its reference."""
    found = scorer.judge(sample.completion, (sample.answer,), sample.finished)
    return Score(float(found.right), found.status, found.found, found.note)


def verdict(right: bool, found: str) -> Score:
    """Of an answer that was found."""
    return Score(float(right), found=found)
