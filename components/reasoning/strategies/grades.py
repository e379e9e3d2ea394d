"""What a generative judge says of answers: a grade in words, read without log-probabilities."""

from __future__ import annotations

import re
from collections.abc import Sequence

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.items import Item
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.text import spoken
from components.reasoning.strategy import Trial

_GRADE = re.compile(r"grade\W{0,4}(10|\d)(?:\.(\d+))?", re.IGNORECASE)
_NUMBER = re.compile(r"\b(10|\d)(?:\.(\d+))?\b")
_WIDEST = 10.0


def grade_of(text: str) -> float | None:
    """The last "Grade: 7", else the last number from 0 to 10, over 10; None where there is none."""
    said = spoken(text)
    found = _GRADE.findall(said) or _NUMBER.findall(said)
    return min(float(f"{found[-1][0]}.{found[-1][1] or 0}"), _WIDEST) / _WIDEST if found else None


def judged(
    trial: Trial, items: Sequence[Item], groups: Sequence[Sequence[TextCompletion]]
) -> tuple[list[list[float]], list[list[list[TextCompletion]]]]:
    """Grades in [0, 1] of all completions of each item, and the judge's requests. A completion without an answer has
    grade 0 and is not shown to the judge, one on which the judge says nothing has ½. Equal texts are judged once."""
    wording = template("judge", "judge")
    asked: dict[tuple[int, str], TextPrompt] = {}
    for place, (item, group) in enumerate(zip(items, groups, strict=True)):
        for done in group:
            if item.answer_of(done):
                text = spoken(done.text).strip()
                asked[place, text] = TextPrompt(wording.fill(question=item.question, text=text))
    said = dict(zip(asked, trial.ask(list(asked.values())), strict=True))
    grades, requests = [], []
    for place, (item, group) in enumerate(zip(items, groups, strict=True)):
        keys = [(place, spoken(done.text).strip()) if item.answer_of(done) else None for done in group]
        told = [_told(said[key][0].text) if key else 0.0 for key in keys]
        grades.append(told)
        requests.append([said[key] for key in dict.fromkeys(key for key in keys if key)])
    return grades, requests


def _told(text: str) -> float:
    grade = grade_of(text)
    return 0.5 if grade is None else grade
