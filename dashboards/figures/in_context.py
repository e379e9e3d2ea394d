"""The hardest condition of each task through training: the largest transformer and the largest LSTM."""

from __future__ import annotations

from dashboards import formatting
from dashboards.facts.in_context import InContextFacts
from dashboards.figures.canvas import BLUE, ORANGE, Figure, panel, percent_axis

_COLORS = {"transformer": BLUE, "lstm": ORANGE}


def in_context_figure(facts: InContextFacts) -> Figure | None:
    """A panel a task; None where no model kept its course."""
    panels = []
    for task in facts.tasks:
        courses = [one for one in facts.courses if one.task == task and one.course and one.scores]
        if not courses:
            continue
        asked = courses[0].scores[-1].condition
        with panel(f"context-{task}", f"{task}, {asked}", "step of training", "share solved") as drawn:
            for name, color in _COLORS.items():
                of_name = [one for one in courses if one.architecture == name]
                if not of_name:
                    continue
                one = max(of_name, key=lambda x: x.num_params)
                steps = [measured.step for measured in one.course]
                solved = [measured.solved[-1] for measured in one.course]
                label = f"{name}, {formatting.count(one.num_params)} parameters"
                drawn.axes.plot(steps, solved, "o-", color=color, markersize=3, label=label)
            drawn.axes.set_ylim(0, 1.02)
            percent_axis(drawn.axes)
        panels.append(drawn.svg)
    caption = "The last condition of each task, of one training of the largest models."
    return Figure("in_context", caption, tuple(panels)) if panels else None
