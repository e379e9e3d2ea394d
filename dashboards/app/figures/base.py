"""What all figures share: a layout, colours by name, and the look of lines, bands and intervals.

A colour is the name of a variable of the page, `--blue`; the browser puts the theme's value in its place, and so does
`painted` for tests and for files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

Trace = dict[str, Any]
Figure = dict[str, Any]

SERIES = ("--blue", "--orange", "--green", "--purple", "--red", "--gold")
RUN_COLORS = tuple(f"--run{i}" for i in range(10))
# Of a strategy's family, the same on all pages.
FAMILIES = {
    "direct": "--muted",
    "few_shot": "--run8",
    "cot": "--orange",
    "self_consistency": "--blue",
    "adaptive": "--green",
    "greedy": "--run9",
    "best_of": "--gold",
    "until_right": "--purple",
    "direct_vote": "--run5",
    "tree_of_thought": "--red",
}


def run_color(run_id: str) -> str:
    """A run keeps its colour on all pages."""
    return RUN_COLORS[hashlib.sha256(run_id.encode()).digest()[0] % len(RUN_COLORS)]


def family_color(family: str) -> str:
    """The colour of a strategy's family."""
    return FAMILIES.get(family, "--run7")


def axis(title: str, *, log: bool = False, percent: bool = False, dollars: bool = False, **more: Any) -> dict[str, Any]:
    """An axis with its unit in the title."""
    made: dict[str, Any] = {"title": {"text": title}, **more}
    if log:
        made |= {"type": "log", "exponentformat": "SI"}
    if percent:
        made["tickformat"] = ".0%"
    if dollars:
        made |= {"tickprefix": "$", "exponentformat": "SI"}
    return made


def figure(data: Sequence[Trace], x: Mapping[str, Any], y: Mapping[str, Any], **layout: Any) -> Figure:
    """A figure with the pages' layout."""
    several = sum(bool(trace.get("showlegend", True)) for trace in data) > 1
    base = {
        "xaxis": dict(x),
        "yaxis": dict(y),
        "margin": {"l": 64, "r": 16, "t": 36 if several else 8, "b": 48},
        "hovermode": "closest",
        "showlegend": several,
        "legend": {"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        "uirevision": "kept",  # zoom and hover survive a refresh
    }
    return {"data": list(data), "layout": {**base, **layout}}


def line(x: Sequence[Any], y: Sequence[Any], name: str, color: str, **more: Any) -> Trace:
    """A line."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": list(x),
        "y": list(y),
        "name": name,
        "line": {"color": color, "width": 2, **more.pop("line", {})},
        **more,
    }


def band(x: Sequence[Any], low: Sequence[Any], high: Sequence[Any], color: str, name: str) -> Trace:
    """The area between two lines, behind the line that it belongs to."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *reversed(x)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"{color}/0.18",
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
        "name": name,
    }


def points(x: Sequence[Any], y: Sequence[Any], name: str, color: str, **more: Any) -> Trace:
    """Marks, with the bars of their intervals where `low` and `high` are given."""
    low, high = more.pop("low", None), more.pop("high", None)
    trace: Trace = {
        "type": "scatter",
        "mode": "markers",
        "x": list(x),
        "y": list(y),
        "name": name,
        "marker": {"color": color, "size": 9, **more.pop("marker", {})},
        **more,
    }
    if low is not None and high is not None:
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [None if h is None else h - v for v, h in zip(y, high, strict=True)],
            "arrayminus": [None if lo is None else v - lo for v, lo in zip(y, low, strict=True)],
            "color": color,
            "thickness": 1.2,
            "width": 3,
        }
    return trace


def vertical(x: float, text: str, color: str = "--muted") -> dict[str, Any]:
    """A line across the figure at `x`, with words: entries for `shapes` and `annotations`."""
    where = {"xref": "x", "yref": "paper"}
    return {
        "shapes": [
            {"type": "line", **where, "x0": x, "x1": x, "y0": 0, "y1": 1, "line": {"color": color, "dash": "dot"}}
        ],
        "annotations": [
            {**where, "x": x, "y": 1, "text": text, "showarrow": False, "yanchor": "bottom", "font": {"size": 11}}
        ],
    }


def painted(value: Any, palette: Mapping[str, tuple[int, int, int]]) -> Any:
    """A figure with colours in place of their names; `--blue/0.18` is that colour with an opacity."""
    if isinstance(value, dict):
        return {name: painted(one, palette) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [painted(one, palette) for one in value]
    if isinstance(value, str) and value.startswith("--"):
        name, _, opacity = value.partition("/")
        red, green, blue = palette[name]
        return f"rgba({red},{green},{blue},{opacity or 1})"
    return value
