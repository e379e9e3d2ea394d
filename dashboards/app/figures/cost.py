"""Dollars of a lifetime of questions for every measured way of answering, and what moves them most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from components.cost.answering import StrategyCost, frontier
from dashboards.app.figures.base import RUN_COLORS, Figure, Trace, axis, figure, line, vertical

MOST_LINES = 12


def lifetime_figure(strategies: Sequence[StrategyCost], questions: float, chosen: StrategyCost | None) -> Figure:
    """Lifetime dollars over questions: the strategies of the front at `questions` in colour, the chosen one thick."""
    grid = np.geomspace(max(questions / 1000, 1.0), questions * 1000, 25)
    best = frontier(strategies, questions)
    shown = [*best, *(one for one in strategies if one not in best)][:MOST_LINES]
    if chosen is not None and chosen not in shown:
        shown.append(chosen)
    data: list[Trace] = []
    for place, one in enumerate(shown):
        on = one in best or one is chosen
        color = RUN_COLORS[place % len(RUN_COLORS)] if on else "--muted/0.4"
        width = 4 if one is chosen else 2 if on else 1
        name = f"{one.name} ({one.accuracy.value:.0%})"
        dollars = [one.option.cost(float(x)) for x in grid]
        data.append(
            line(
                grid.tolist(),
                dollars,
                name,
                color,
                line={"width": width},
                hovertemplate="%{x:.3s} questions: $%{y:.4g}<extra>" + name + "</extra>",
            )
        )
    x, y = (
        axis("questions over the lifetime", log=True),
        axis("dollars, training beyond fine-tuning included", log=True, dollars=True),
    )
    # Plotly places shapes on a logarithmic axis by their value, annotations by its logarithm.
    mark = vertical(questions, "yours")
    mark["annotations"][0]["x"] = float(np.log10(questions))
    return figure(data, x, y, **mark)


def tornado_figure(total: float, moved: Mapping[str, tuple[float, float]]) -> Figure:
    """What the total becomes when one assumption is halved and doubled, the widest first. moved: by assumption, the
    dollars at half and at twice its value."""
    names = sorted(moved, key=lambda name: abs(moved[name][1] - moved[name][0]))
    data: list[Trace] = [
        {
            "type": "bar",
            "orientation": "h",
            "y": names,
            "base": [total] * len(names),
            "name": word,
            "x": [moved[name][end] - total for name in names],
            "marker": {"color": color},
            "text": [f"${moved[name][end]:.3g}" for name in names],
        }
        for end, word, color in ((0, "half", "--blue"), (1, "twice", "--orange"))
    ]
    return figure(data, axis("dollars over the lifetime", dollars=True), {"automargin": True}, barmode="overlay")


def parts_figure(groups: Mapping[str, float]) -> Figure:
    """Dollars by part of the life, least below."""
    names = sorted(groups, key=lambda name: groups[name])
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [groups[name] for name in names],
        "y": names,
        "showlegend": False,
        "marker": {"color": "--blue"},
        "hovertemplate": "%{y}: $%{x:.4g}<extra></extra>",
    }
    return figure([trace], axis("dollars", dollars=True), {"automargin": True})
