"""Curves of metrics: runs beside each other, raw behind smooth, seeds as their mean and band."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards.app.figures.base import Figure, Trace, axis, band, figure, line, run_color
from dashboards.figures.canvas import smoothed

AXES = {
    "step": "step",
    "tokens": "tokens processed",
    "time": "seconds since the stage's first step",
    "dollars": "dollars spent in the stage",
}


@dataclass(frozen=True)
class Curve:
    """A metric of one run: x on the chosen axis, and the mean, least and greatest value of each bucket of steps."""

    run_id: str
    label: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    group: str = ""


def curves_figure(
    curves: Sequence[Curve], metric: str, x: str, weight: float = 0.0, log_x: bool = False, log_y: bool = False
) -> Figure:
    """Each run's curve, smoothed by `weight` (0 to 1) with the raw one faint under it. The band of a raw curve spans
    what its buckets hold, so no spike is averaged away."""
    data: list[Trace] = []
    for one in curves:
        color = run_color(one.run_id)
        if weight > 0:
            data.append(
                line(one.x, one.mean, one.label, f"{color}/0.3", line={"width": 1}, showlegend=False, hoverinfo="skip")
            )
        elif any(h > m for h, m in zip(one.high, one.mean, strict=True)):
            data.append(band(one.x, one.low, one.high, color, one.label))
        shown = smoothed(one.mean, weight) if weight > 0 else one.mean
        data.append(line(one.x, shown, one.label, color))
    return _drawn(data, metric, x, log_x, log_y)


def seeds_figure(
    curves: Sequence[Curve], metric: str, x: str, weight: float = 0.0, log_x: bool = False, log_y: bool = False
) -> Figure:
    """Runs that differ in the seed alone as one: the mean, and a band from the least to the greatest of them."""
    groups: dict[str, list[Curve]] = {}
    for one in curves:
        groups.setdefault(one.group or one.run_id, []).append(one)
    data: list[Trace] = []
    for members in groups.values():
        length = min(len(one.x) for one in members)
        if not length:
            continue
        values = [smoothed(one.mean, weight)[:length] if weight > 0 else list(one.mean)[:length] for one in members]
        at, color = list(members[0].x)[:length], run_color(members[0].run_id)
        columns = list(zip(*values, strict=True))
        many = len(members) > 1
        name = f"{members[0].label} and {len(members) - 1} other seeds" if many else members[0].label
        if many:
            data.append(band(at, [min(c) for c in columns], [max(c) for c in columns], color, name))
        data.append(line(at, [statistics.fmean(c) for c in columns], name, color))
    return _drawn(data, metric, x, log_x, log_y)


def _drawn(data: Sequence[Trace], metric: str, x: str, log_x: bool, log_y: bool) -> Figure:
    return figure(data, axis(AXES[x], log=log_x, dollars=x == "dollars"), axis(metric, log=log_y))


def live_figure(stage: str, metric: str, found: Mapping[str, Sequence[Any]], skipped: Sequence[int] = ()) -> Figure:
    """The curve of a stage that runs: columns step, mean, low, high. `skipped`: steps whose update was left out."""
    x, mean = found["step"], found["mean"]
    data = [line(x, mean, metric, "--blue", meta={"label": stage, "name": metric})]
    if any(h > m for h, m in zip(found["high"], mean, strict=True)):
        data.insert(0, band(list(x), list(found["low"]), list(found["high"]), "--blue", metric))
    if skipped:
        level = max(mean, default=0.0)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": list(skipped),
                "y": [level] * len(skipped),
                "name": "update left out",
                "marker": {"symbol": "x", "size": 8, "color": "--red"},
            }
        )
    return figure(data, axis("step"), axis(metric))
