"""Accuracy on the user's own sets: every model and strategy at the dollars that it costs."""

from __future__ import annotations

from dashboards import formatting, labels
from dashboards.facts.evaluations import EvaluationFacts
from dashboards.figures.canvas import SERIES, Figure, panel, percent_axis, with_interval

MARKS = "osD^vPX*"


def evaluation_figure(facts: EvaluationFacts) -> Figure | None:
    """A panel for each set; the strategies of a model in one colour."""
    panels = []
    models = list(dict.fromkeys(s.model for s in facts.scores))
    for number, suite in enumerate(dict.fromkeys(s.suite for s in facts.scores)):
        priced = all(s.usd is not None for s in facts.scores)
        paid = "dollars per million items" if priced else "generated tokens per item, prompts not counted"
        with panel(f"set{number}", f"Accuracy on {suite}", paid, "accuracy") as drawn:
            for color, model in zip(SERIES * len(models), models, strict=False):
                mine = [s for s in facts.scores if (s.suite, s.model) == (suite, model)]
                with_interval(
                    drawn.axes,
                    [1e6 * (s.usd or 0.0) if priced else s.tokens for s in mine],
                    [s.accuracy.value for s in mine],
                    [s.accuracy.low for s in mine],
                    [s.accuracy.high for s in mine],
                    color,
                    fmt=MARKS[models.index(model) % len(MARKS)],
                    label=labels.label(labels.MODELS, model),
                )
            percent_axis(drawn.axes)
            if priced:
                drawn.axes.xaxis.set_major_formatter(lambda value, _: formatting.dollars(value))
            drawn.axes.legend(loc="best")
        panels.append(drawn.svg)
    caption = "Every point is a strategy, with its 95% interval; answers that could not be read count as wrong."
    return Figure("evaluations", caption, tuple(panels)) if panels else None
