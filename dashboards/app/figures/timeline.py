"""When the stages of a run ran, by worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from dashboards.app.figures.base import Figure, axis, figure

COLORS = {"ran": "--green", "cached": "--blue", "failed": "--red", "waiting": "--gold"}


def timeline_figure(stages: Mapping[str, Sequence[Any]], workers: Mapping[str, str]) -> Figure:
    """A bar a stage on the run's clock. stages: columns label, status, started_at and ended_at (milliseconds);
    workers: by label, the worker that made it."""
    rows = [
        (label, status, start, end)
        for label, status, start, end in zip(
            stages["label"], stages["status"], stages["started_at"], stages["ended_at"], strict=True
        )
        if start is not None and end is not None
    ]
    zero = min((start for _, _, start, _ in rows), default=0)
    data = []
    for status in dict.fromkeys(status for _, status, _, _ in rows):
        mine = [row for row in rows if row[1] == status]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": status,
                "y": [label for label, *_ in mine],
                "base": [(start - zero) / 1000 for _, _, start, _ in mine],
                "x": [max((end - start) / 1000, 0.01) for _, _, start, end in mine],
                "text": [workers.get(label, "") for label, *_ in mine],
                "textposition": "none",
                "customdata": [f"stage={quote(label)}" for label, *_ in mine],
                "hovertemplate": "%{y}<br>%{text}<br>from %{base:.1f} s, for %{x:.2f} s<extra>" + status + "</extra>",
                "marker": {
                    "color": COLORS.get(status, "--muted"),
                    "pattern": {"shape": "/" if status == "cached" else "x" if status == "failed" else ""},
                },
            }
        )
    order = [label for label, *_ in sorted(rows, key=lambda row: row[2])]
    y = {"automargin": True, "categoryorder": "array", "categoryarray": order[::-1], "tickfont": {"size": 11}}
    return figure(data, axis("seconds since the run began"), y, barmode="overlay", showlegend=True)
