"""What each step of the data's way removed, by source."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from components.data.results import FunnelStep
from dashboards.app.figures.base import SERIES, Figure, Trace, axis, figure


def removed(funnel: Sequence[FunnelStep], unit: str) -> dict[str, dict[str, int]]:
    """By source and step, the documents or bytes that the step took away. The first step reads, and removes nothing."""
    found: dict[str, dict[str, int]] = {}
    before: dict[str, int] = {}
    for step in funnel:
        left = int(getattr(step, unit))
        if step.source in before:
            found.setdefault(step.source, {})[step.step] = before[step.source] - left
        before[step.source] = left
    return found


def removed_figure(funnel: Sequence[FunnelStep], unit: str) -> Figure:
    """Bars on a logarithmic axis: steps that took nothing have none. A click shows what was rejected."""
    taken = removed(funnel, unit)
    steps = list(dict.fromkeys(step for by_step in taken.values() for step in by_step))
    data: list[Trace] = [
        {
            "type": "bar",
            "name": source,
            "x": steps,
            "y": [by_step.get(step, 0) or None for step in steps],
            "marker": {"color": SERIES[place % len(SERIES)]},
            "customdata": [urlencode({"source": source, "reason": ""}) for _ in steps],
            "hovertemplate": "%{x}: %{y:,}<extra>" + source + "</extra>",
        }
        for place, (source, by_step) in enumerate(taken.items())
    ]
    title = "documents removed" if unit == "documents" else "bytes removed"
    return figure(data, {"automargin": True}, axis(title, log=True), barmode="group")
