"""Which expert takes which source, layer by layer, and how even their load is while they are trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dashboards import labels
from dashboards.app.figures.base import SERIES, Figure, axis, figure, line


def routing_figure(routing: Mapping[str, Sequence[Any]]) -> Figure:
    """Share of a source's assignments that each expert takes, of one variant: columns layer, expert, source, share. A
    row is a layer and source, a column an expert."""
    rows = sorted({(layer, source) for layer, source in zip(routing["layer"], routing["source"], strict=True)})
    experts = sorted(set(routing["expert"]))
    cells = {
        (layer, source, expert): share
        for layer, source, expert, share in zip(
            routing["layer"], routing["source"], routing["expert"], routing["share"], strict=True
        )
    }
    trace = {
        "type": "heatmap",
        "x": [f"expert {expert}" for expert in experts],
        "y": [f"layer {layer}, {source}" for layer, source in rows],
        "z": [[cells.get((layer, source, expert)) for expert in experts] for layer, source in rows],
        "colorscale": [[0, "--page"], [0.5, "--ramp3"], [1, "--ramp6"]],
        "zmin": 0,
        "colorbar": {"tickformat": ".0%", "thickness": 12},
        "hovertemplate": "%{y}, %{x}: %{z:.1%}<extra></extra>",
        "xgap": 1,
        "ygap": 1,
    }
    return figure(
        [trace],
        {"side": "top"},
        {"automargin": True, "autorange": "reversed"},
        margin={"l": 64, "r": 16, "t": 40, "b": 16},
    )


def load_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, even: float | None
) -> Figure:
    """A metric of the router over training, by variant; `even`: what it is where all experts take the same."""
    data = [
        line(x, y, labels.label(labels.VARIANTS, name), SERIES[place % len(SERIES)])
        for place, (name, (x, y)) in enumerate(curves.items())
    ]
    shapes = (
        []
        if even is None
        else [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": even,
                "y1": even,
                "line": {"dash": "dot", "color": "--muted"},
            }
        ]
    )
    return figure(data, axis("step"), axis(title), shapes=shapes)
