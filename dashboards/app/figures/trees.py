"""A search drawn as a tree: the root above, each state below the one that it came from."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from dashboards import formatting
from dashboards.app.figures.base import Figure, Trace, figure

# What became of a state, in words, and its colour; the order of the legend.
STATUSES = {
    "solved": ("solved", "--green"),
    "expanded": ("went on", "--blue"),
    "open": ("left open", "--run8"),
    "pruned": ("pruned", "--muted"),
    "failed": ("failed", "--red"),
    "": ("step", "--blue"),
}
NAMED = 40  # nodes of a tree whose steps are written beside them
WIDEST = 22  # characters of such a step


@dataclass(frozen=True)
class Thought:
    """A node; `parent` is the place of its parent among the nodes, which come before their children."""

    text: str
    parent: int | None
    value: float | None
    status: str
    tokens: int | None


def places(parents: Sequence[int | None]) -> list[tuple[float, int]]:
    """(x, depth) of every node: leaves side by side in the order of a walk, a parent over the middle of its own."""
    children: dict[int | None, list[int]] = {}
    for place, parent in enumerate(parents):
        children.setdefault(parent, []).append(place)
    depths = [0] * len(parents)
    for place, parent in enumerate(parents):
        depths[place] = 0 if parent is None else depths[parent] + 1
    across = [0.0] * len(parents)
    leaves = 0
    stack = [(place, False) for place in reversed(children.get(None, []))]
    while stack:  # a loop: a chain of steps may be deeper than what Python recurses
        place, seen = stack.pop()
        below = children.get(place, [])
        if not below:
            across[place] = float(leaves)
            leaves += 1
        elif seen:
            across[place] = (across[below[0]] + across[below[-1]]) / 2
        else:
            stack += [(place, True), *((child, False) for child in reversed(below))]
    return list(zip(across, depths, strict=True))


def way_to_solution(nodes: Sequence[Thought]) -> set[int]:
    """The places from the root to the state that was solved."""
    at = next((place for place, node in enumerate(nodes) if node.status == "solved"), None)
    way = set()
    while at is not None:
        way.add(at)
        at = nodes[at].parent
    return way


def tree_figure(nodes: Sequence[Thought]) -> Figure:
    """Edges, those of the solution thick; states by what became of them, with value and tokens on hover."""
    at = places([node.parent for node in nodes])
    way = way_to_solution(nodes)
    data: list[Trace] = []
    for on_way, width, color in ((False, 1, "--line"), (True, 3, "--green")):
        x: list[float | None] = []
        y: list[float | None] = []
        for place, node in enumerate(nodes):
            if node.parent is not None and (place in way) == on_way:
                x += [at[node.parent][0], at[place][0], None]
                y += [-at[node.parent][1], -at[place][1], None]
        line = {"width": width, "color": color}
        data.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "line": line, "hoverinfo": "skip",
                     "showlegend": False})  # fmt: skip
    for status in dict.fromkeys([*STATUSES, *(node.status for node in nodes)]):
        mine = [place for place, node in enumerate(nodes) if node.status == status]
        if mine:
            words, color = STATUSES.get(status, (status, "--run7"))
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers+text" if len(nodes) <= NAMED else "markers",
                    "name": words,
                    "x": [at[place][0] for place in mine],
                    "y": [-at[place][1] for place in mine],
                    "text": [textwrap.shorten(nodes[place].text, WIDEST, placeholder="…") for place in mine],
                    "textposition": "bottom center",
                    "textfont": {"size": 10},
                    "hovertext": [_told(nodes[place]) for place in mine],
                    "hoverinfo": "text",
                    "marker": {"color": color, "size": 11},
                }
            )
    hidden = {"visible": False, "fixedrange": False}
    depth = max((depth for _, depth in at), default=0)
    wide = max((x for x, _ in at), default=0.0)
    return figure(data, {**hidden, "range": [-0.8, wide + 0.8]}, {**hidden, "range": [-depth - 0.7, 0.5]})


def _told(node: Thought) -> str:
    """Plotly takes <b> and <a href> in a label at their word: only our own breaks are left as they are."""
    worth = [] if node.value is None else [f"value {formatting.decimal(node.value, 2)}"]
    spent = [] if node.tokens is None else [f"{node.tokens} tokens"]
    lines = textwrap.wrap(node.text.replace("<", "‹"), 60)[:12]
    return "<br>".join([*lines, " · ".join([node.status, *worth, *spent])])
