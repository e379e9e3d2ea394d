"""A reward that is a model's mark: a server that speaks OpenAI's chat completions is asked about every answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.reasoning.scoring.numbers import as_number, number_in
from components.reasoning.scoring.text import marked, spoken
from components.rlhf.rewards.answers import Sample, Score, Scorer

QUESTION = (
    "A user asked:\n{prompt}\n\nThe answer was:\n{completion}\n\nHow good is this answer, from 1 (useless) to 10 "
    "(perfect)? Say the number alone."
)
_FIELD = re.compile(r"\{(prompt|completion|answer)\}")


@dataclass(frozen=True)
class JudgeReward:
    """The number that a model gives, brought from lowest…highest to 0…1; a number outside of them is a failed score.

    url: ends before `/chat/completions`. model: "" for the one that the server has. question: holds {completion}, and
    as you like {prompt} and {answer}. The key of the server is LIFESPAN_JUDGE_KEY.
    """

    url: str
    kind: Literal["judge"] = "judge"
    name: str = ""
    weight: float = 1.0
    model: str = ""
    question: str = QUESTION
    lowest: float = 1.0
    highest: float = 10.0
    max_tokens: int = 16

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"url is {self.url!r}: give an address that starts with http:// or https://")
        if "{completion}" not in self.question:
            raise ValueError("question has no {completion}: the judge would not see what it judges")
        if not self.lowest < self.highest:
            raise ValueError(f"lowest is {self.lowest} and highest {self.highest}: give a range of marks")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.max_tokens}: give a number of at least 1")

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """Why a prompt cannot be judged; "" where it can."""
        return "the reference answer is empty" if "{answer}" in self.question and not answer.strip() else ""


Ask = Callable[[Sequence[str], int], list[str]]
"""What a model says, greedily, to each question in at most so many tokens; "" where it refuses one."""


def open_judge(config: JudgeReward, ask: Ask) -> Scorer:
    """`ask`: `components.rlhf.judge_server.JudgeServer` behind this interface, or a stand-in."""

    def score(samples: Sequence[Sample]) -> list[Score]:
        questions = [_filled(config.question, sample) for sample in samples]
        return [_mark(config, said) for said in ask(questions, config.max_tokens)]

    return score


def _filled(question: str, sample: Sample) -> str:
    """In one pass: an answer that holds "{prompt}" stays as it is."""
    texts = {"prompt": sample.prompt, "completion": sample.completion, "answer": sample.answer}
    return _FIELD.sub(lambda found: texts[found[1]], question)


def _mark(config: JudgeReward, said: str) -> Score:
    text = spoken(said).strip()
    whole = as_number(text)
    number = whole if whole is not None else number_in(marked(text, ("####", "score:", "rating:"), True) or text, False)
    if number is None:
        return Score.failed(f"the judge said {said[:80]!r}, which holds no number")
    if not config.lowest <= number <= config.highest:
        return Score.failed(f"the judge said {said[:80]!r}, outside of {config.lowest:g} to {config.highest:g}")
    return Score((float(number) - config.lowest) / (config.highest - config.lowest), found=text[:80])
