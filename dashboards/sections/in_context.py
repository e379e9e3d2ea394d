"""Section on what models do with their context: the verdicts, and each task's table by size."""

from __future__ import annotations

from dashboards import formatting
from dashboards.blocks import Section, Table, body
from dashboards.facts.in_context import InContextFacts


def in_context_section(facts: InContextFacts) -> Section:
    """The verdicts, and for each task the share of each condition that each model solves."""
    many = facts.report.trainings
    meaning = (
        f"Transformers and LSTMs of their sizes on the same batches, {many} training{'s' if many != 1 else ''} of "
        "each: intervals are over the questions."
    )
    shown = Table("What it shows", ("", "verdict"), "<<", tuple(_parted(verdict) for verdict in facts.report.verdicts))
    return body(meaning, (shown, *(_task(facts, task) for task in facts.tasks)))


def _parted(verdict: str) -> tuple[str, str]:
    about, _, words = verdict.partition(": ")
    return about, words


def _task(facts: InContextFacts, task: str) -> Table:
    points = [point for point in facts.report.points if point.task == task]
    conditions = tuple(score.condition for score in points[0].scores)
    return Table(
        f"{task}: share solved [95%]",
        ("condition", *(f"{p.architecture} {formatting.count(p.num_params)}" for p in points)),
        "<" + ">" * len(points),
        tuple(
            (
                condition,
                *(
                    next(
                        (formatting.percent_interval(s.solved) for s in p.scores if s.condition == condition),
                        formatting.MISSING,
                    )
                    for p in points
                ),
            )
            for condition in conditions
        ),
    )
