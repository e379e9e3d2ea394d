"""Self-critique and refinement (Madaan et al. 2023, "Self-Refine"): the model looks for mistakes in its answer, and
answers anew where it says that there is one. Answers that were right and became wrong are counted like those that went
the other way (Huang et al. 2024 find the first kind to be no rarer)."""

from __future__ import annotations

import re

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.text import spoken
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after

_VERDICT = re.compile(r"\b(CORRECT|WRONG|INCORRECT)\b")


def refine(rounds: int) -> Strategy:
    """At most `rounds` critiques and refinements."""
    return Strategy(f"refine@{rounds}", "refine", lambda trial: _refined(trial, rounds), greedy=True)


def says_wrong(critique: str) -> bool:
    """Whether the last verdict of a critique is against the answer; without one it stands."""
    found = _VERDICT.findall(spoken(critique))
    return bool(found) and found[-1] != "CORRECT"


def _refined(trial: Trial, rounds: int) -> list[Outcome]:
    critic, anew = template("critique", "critique"), template("refine", "refine")
    answers = list(trial.worked)
    requests: list[list[list[TextCompletion]]] = [[[done]] for done in answers]
    steps = [[Step(None, "answer", done.text, done.num_tokens)] for done in answers]
    open_items = [place for place, done in enumerate(answers) if not done.problem]
    for _ in range(rounds):
        shown = [(trial.items[place].question, spoken(answers[place].text).strip()) for place in open_items]
        critiques = trial.ask([TextPrompt(critic.fill(question=q, text=t)) for q, t in shown])
        doubted = []
        for place, pair, said in zip(open_items, shown, critiques, strict=True):
            requests[place].append(said)
            steps[place].append(Step(len(steps[place]) - 1, "critique", said[0].text, said[0].num_tokens))
            if says_wrong(said[0].text):
                doubted.append((place, pair, spoken(said[0].text).strip()))
        prompts = [
            TextPrompt(anew.fill(question=q, text=t, critique=said, form=trial.items[place].form))
            for place, (q, t), said in doubted
        ]
        for (place, _, _), again in zip(doubted, trial.ask(prompts), strict=True):
            requests[place].append(again)
            steps[place].append(Step(len(steps[place]) - 1, "answer", again[0].text, again[0].num_tokens))
            answers[place] = again[0]
        open_items = [place for place, _, _ in doubted]
    return [
        outcome_after(
            item,
            done,
            asked,
            {"first_right": item.accepts(first), "changed": _changed(item.accepts(first), item.accepts(done))},
            made,
        )
        for item, first, done, asked, made in zip(trial.items, trial.worked, answers, requests, steps, strict=True)
    ]


def _changed(before: bool, after: bool) -> str:
    return "" if before == after else "right to wrong" if before else "wrong to right"
