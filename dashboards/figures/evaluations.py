"""Accuracy on the user's own sets: every model and strategy at the tokens that it spends."""

from __future__ import annotations

from dashboards import labels
from dashboards.facts.evaluations import EvaluationFacts
from dashboards.figures.canvas import SERIES, Figure, panel, percent_axis, with_interval


def evaluation_figure(facts: EvaluationFacts) -> Figure | None:
    """A panel for each set; the strategies of a model in one colour."""
    panels = []
    models = list(dict.fromkeys(s.model for s in facts.scores))
    for number, suite in enumerate(dict.fromkeys(s.suite for s in facts.scores)):
        with panel(f"set{number}", f"Accuracy on {suite}", "generated tokens per item", "accuracy") as drawn:
            for color, model in zip(SERIES * len(models), models, strict=False):
                mine = [s for s in facts.scores if (s.suite, s.model) == (suite, model)]
                with_interval(
                    drawn.axes,
                    [s.tokens for s in mine],
                    [s.accuracy.value for s in mine],
                    [s.accuracy.low for s in mine],
                    [s.accuracy.high for s in mine],
                    color,
                    fmt="o",
                    label=labels.label(labels.MODELS, model),
                )
            percent_axis(drawn.axes)
            drawn.axes.legend(loc="best")
        panels.append(drawn.svg)
    caption = "Every point is a strategy, with its 95% interval; answers that could not be read count as wrong."
    return Figure("evaluations", caption, tuple(panels)) if panels else None
