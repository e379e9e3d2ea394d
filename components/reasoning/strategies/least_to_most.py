"""Least-to-most prompting (Zhou et al. 2023): the question is cut into simpler ones, which are answered in order, each
with the answers before it, and then the question itself."""

from __future__ import annotations

import re

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.text import spoken
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

MAX_PARTS = 4
PART_TOKENS = 128
_LISTED = re.compile(r"^[ \t]*(?:\d+[.):]|[-*•])[ \t]*(\S[^\n]*?)[ \t]*$", re.MULTILINE)


def parts_of(text: str) -> list[str]:
    """The entries of a list, numbered or with dashes, at most four."""
    return _LISTED.findall(spoken(text))[:MAX_PARTS]


def _answered(trial: Trial) -> list[Outcome]:
    cut, part, whole = template("decompose", "decompose"), template("part", "part"), template("whole", "whole")
    asked = [TextPrompt(cut.fill(question=item.question, parts=MAX_PARTS)) for item in trial.items]
    lists = trial.ask(asked)
    requests: list[list[list[TextCompletion]]] = [[group] for group in lists]
    steps = [[Step(None, "parts", group[0].text, group[0].num_tokens)] for group in lists]
    parts = [parts_of(group[0].text) for group in lists]
    done = [""] * len(trial.items)
    for number in range(MAX_PARTS):
        due = [place for place, mine in enumerate(parts) if number < len(mine)]
        prompts = [
            TextPrompt(part.fill(question=trial.items[p].question, done=done[p], part=parts[p][number])) for p in due
        ]
        for place, said in zip(due, trial.ask(prompts, max_tokens=min(PART_TOKENS, trial.max_tokens)), strict=True):
            requests[place].append(said)
            steps[place].append(Step(len(steps[place]) - 1, "part", said[0].text, said[0].num_tokens))
            done[place] += f"Q: {parts[place][number]}\nA: {spoken(said[0].text).strip()}\n\n"
    prompts = [
        TextPrompt(whole.fill(question=item.question, done=told, form=item.form))
        for item, told in zip(trial.items, done, strict=True)
    ]
    outcomes = []
    for place, (item, said) in enumerate(zip(trial.items, trial.ask(prompts), strict=True)):
        last = Step(len(steps[place]) - 1, "answer", said[0].text, said[0].num_tokens)
        details = {"parts": len(parts[place])}
        outcomes.append(outcome_after(item, said[0], [*requests[place], said], details, [*steps[place], last]))
    return outcomes


LEAST_TO_MOST = Strategy("least_to_most", "least_to_most", _answered, greedy=True)
