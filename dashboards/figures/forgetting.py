"""The matrix of forgetting as a heat map of differences."""

from __future__ import annotations

import textwrap

from dashboards import formatting
from dashboards.facts.forgetting import Cell, ForgettingFacts
from dashboards.figures.canvas import GREEN, INK, MUTED, RED, Figure, panel

# A change of this size has the full colour.
FULL = {"bits_per_byte": 2.0, "accuracy": 0.6}


def forgetting_figure(facts: ForgettingFacts) -> Figure | None:
    """Red where a checkpoint lost against the first, green where it gained; pale where the interval holds zero."""
    from matplotlib.patches import Rectangle

    columns, rows = list(facts.evaluations), list(facts.checkpoints)
    if len(rows) < 2:
        return None
    size = (1.9 + 0.95 * len(columns), 1.3 + 0.36 * len(rows))
    with panel("forgetting", "Change against the first checkpoint", "", "", size) as drawn:
        axes = drawn.axes
        for y, checkpoint in enumerate(rows):
            for x, evaluation in enumerate(columns):
                cell = facts.cells.get((checkpoint, evaluation))
                if cell is None:
                    continue
                color = GREEN if cell.gain is not None and cell.gain.value > 0 else RED
                axes.add_patch(
                    Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=color, alpha=_strength(cell), lw=0)
                )
                plain = INK if cell.worse or cell.better or cell.change is None else MUTED
                axes.annotate(_text(cell), (x, y), ha="center", va="center", fontsize=8.5, color=plain)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xticks(range(len(columns)), [textwrap.fill(name, 10) for name in columns])
        axes.set_yticks(range(len(rows)), rows)
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
    first = facts.checkpoints[0]
    caption = (
        f"First row: {first} as it is. Below: change against it, in bits per byte on held-out text (down is better) "
        "and in points of accuracy (up is better). Green gained, red lost; grey text: the 95% interval holds zero."
    )
    return Figure("forgetting", caption, (drawn.svg,))


def _strength(cell: Cell) -> float:
    if cell.gain is None or not cell.gain.value:
        return 0.0
    full = min(1.0, abs(cell.gain.value) / FULL[cell.unit])
    return (0.12 + 0.6 * full) if cell.worse or cell.better else 0.06


def _text(cell: Cell) -> str:
    if cell.change is None:
        return formatting.percent(cell.value, 0) if cell.unit == "accuracy" else formatting.decimal(cell.value, 2)
    return (
        formatting.signed(100 * cell.change.value, 0)
        if cell.unit == "accuracy"
        else formatting.signed(cell.change.value)
    )
