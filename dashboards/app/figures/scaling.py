"""The law of a sweep: its points and curves, what it says of another size, and forecasts beside their outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dashboards import formatting
from dashboards.app.figures.base import SERIES, Figure, Trace, axis, band, figure, line, points
from dashboards.facts.scaling import Forecast, ScalingFacts, ScalingPoint


def law_figure(
    facts: ScalingFacts, law: Mapping[str, float] | None, band_of: Mapping[str, Any] | None = None
) -> Figure:
    """Loss over tokens: a colour a size, points as measured, lines by the law, the band of one forecast size.

    law: E, A, B, alpha, beta; None draws the points alone. band_of: tokens, low, high, name.
    """
    data: list[Trace] = []
    sizes = sorted({point.num_params for point in facts.points})
    for place, size in enumerate(sizes):
        color = SERIES[place % len(SERIES)]
        mine = sorted((p for p in facts.points if p.num_params == size and p.tokens), key=lambda p: p.tokens or 0)
        name = f"{formatting.count(size)} parameters"
        data.append(points([p.tokens for p in mine], [p.loss for p in mine], name, color))
        if law and mine:
            grid = np.geomspace(mine[0].tokens or 1, 4.0 * (mine[-1].tokens or 1), 40)
            data.append(
                line(
                    grid.tolist(),
                    loss(law, size, grid).tolist(),
                    f"law at {formatting.count(size)}",
                    color,
                    line={"width": 1},
                    showlegend=False,
                )
            )
    if band_of:
        data.append(band(band_of["tokens"], band_of["low"], band_of["high"], "--muted", band_of["name"]))
        data.append(line(band_of["tokens"], band_of["middle"], band_of["name"], "--muted", line={"dash": "dash"}))
    return figure(data, axis("training tokens", log=True), axis("loss, nats per token"))


def loss(law: Mapping[str, float], num_params: Any, tokens: Any) -> Any:
    """L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022)."""
    return law["E"] + law["A"] * num_params ** -law["alpha"] + law["B"] * tokens ** -law["beta"]


def isoflop_figure(law: Mapping[str, float], measured: Sequence[ScalingPoint]) -> Figure:
    """Loss over the number of parameters at equal compute, C = 6ND, with the best size of each by the law."""
    spent = [6.0 * p.num_params * p.tokens for p in measured if p.tokens]
    sizes = [p.num_params for p in measured]
    data: list[Trace] = []
    best_x, best_y = [], []
    for place, compute in enumerate(np.geomspace(min(spent), 10 * max(spent), 4)):
        grid = np.geomspace(min(sizes) / 4, 8 * max(sizes), 60)
        values = loss(law, grid, compute / (6.0 * grid))
        lowest = int(np.argmin(values))
        best_x.append(float(grid[lowest]))
        best_y.append(float(values[lowest]))
        data.append(
            line(
                grid.tolist(), values.tolist(), f"{formatting.count(float(compute))} FLOPs", SERIES[place % len(SERIES)]
            )
        )
    data.append(points(best_x, best_y, "best size", "--ink", marker={"symbol": "star", "size": 11}))
    return figure(data, axis("parameters", log=True), axis("loss by the law, nats per token"))


def ledger_figure(forecasts: Mapping[str, Sequence[Any]]) -> Figure:
    """Every scored forecast of the home: what was observed over what was predicted, with the interval. Columns
    predicted, low, high, observed, run_id. On the diagonal a forecast is right."""
    rows = list(zip(*(forecasts[name] for name in ("predicted", "low", "high", "observed", "run_id")), strict=True))
    held = [row for row in rows if row[1] is not None and row[2] is not None and row[1] <= row[3] <= row[2]]
    missed = [row for row in rows if row not in held]
    data: list[Trace] = []
    for name, color, some in (("inside its interval", "--green", held), ("outside, or without one", "--red", missed)):
        if some:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": name,
                    "x": [row[3] for row in some],
                    "y": [row[0] for row in some],
                    "text": [row[4] for row in some],
                    "marker": {"color": color, "size": 8},
                    "error_y": {
                        "type": "data",
                        "symmetric": False,
                        "color": color,
                        "thickness": 1.2,
                        "array": [None if row[2] is None else row[2] - row[0] for row in some],
                        "arrayminus": [None if row[1] is None else row[0] - row[1] for row in some],
                    },
                    "hovertemplate": "%{text}<br>predicted %{y:.4f}, observed %{x:.4f}<extra></extra>",
                }
            )
    ends = [value for row in rows for value in (row[0], row[3])]
    if ends:
        data.append(
            line([min(ends), max(ends)], [min(ends), max(ends)], "right", "--muted", line={"dash": "dot", "width": 1})
        )
    return figure(data, axis("observed loss, nats per token"), axis("predicted"))


def scored_summary(forecasts: Sequence[Forecast]) -> tuple[int, int, int]:
    """How many were made, how many are scored, and how many of those lie inside their interval."""
    scored = [one for one in forecasts if one.inside is not None]
    return len(forecasts), len(scored), sum(bool(one.inside) for one in scored)
