"""Program-aided answers (Gao et al. 2023, "PAL"): the model writes a program of arithmetic, and it is evaluated
exactly, as a tree of operations and never by Python (`components.reasoning.scoring.arithmetic`)."""

from __future__ import annotations

from dataclasses import replace

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.arithmetic import NotArithmetic, value_of_program
from components.reasoning.scoring.numbers import shown
from components.reasoning.scoring.text import code_block, spoken
from components.reasoning.strategy import Outcome, Step, Strategy, Trial, outcome_after


def _answered(trial: Trial) -> list[Outcome]:
    wording = template("program", "program")
    groups = trial.ask([TextPrompt(wording.fill(question=item.question)) for item in trial.items])
    outcomes = []
    for item, group in zip(trial.items, groups, strict=True):
        answer, trouble = evaluated(group[0])
        details = {"program": group[0].text, "trouble": trouble}
        steps = [
            Step(None, "program", group[0].text, group[0].num_tokens),
            Step(0, "value", answer.text or trouble, 0, "failed" if trouble else ""),
        ]
        outcomes.append(outcome_after(item, answer, [group], details, steps))
    return outcomes


def evaluated(done: TextCompletion) -> tuple[TextCompletion, str]:
    """The completion with the value of its program as text, or without text and why there is no value."""
    if done.problem:
        return done, done.note
    said = spoken(done.text)
    program = code_block(said, "python", "py")
    if program is None and not done.finished:
        return replace(done, text=""), "the length limit cut the program"
    try:
        value = value_of_program(said if program is None else program)
    except NotArithmetic as error:
        return replace(done, text=""), str(error)
    return replace(done, text=f"The answer is {shown(value)}\n", finished=True), ""


PROGRAM_AIDED = Strategy("program_aided", "program_aided", _answered, greedy=True)
