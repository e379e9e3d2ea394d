"""Where the money went, and when serving has cost as much as training."""

from __future__ import annotations

import numpy as np

from dashboards import formatting, labels
from dashboards.facts.cost import CostFacts, total
from dashboards.figures.canvas import BLUE, INK, MUTED, ORANGE, Figure, log_axis, panel


def cost_figure(facts: CostFacts) -> Figure | None:
    """Cost by part of the life, and training against serving."""
    panels = [svg for svg in (_breakdown(facts), _lifetime(facts)) if svg]
    caption = (
        "Left: what each part of the life cost when it was made. Right: training is paid for once, serving per token; "
        "the band is the break-even's 95% interval."
    )
    return Figure("cost", caption, tuple(panels)) if panels else None


def _breakdown(facts: CostFacts) -> str:
    priced = bool(total(facts.lines, "usd"))
    column, label = ("usd", "dollars") if priced else ("seconds", "seconds")
    groups = {
        labels.label(labels.GROUPS, group or "other"): value
        for group in dict.fromkeys(line.group for line in facts.lines)
        if (value := total([line for line in facts.lines if line.group == group], column))
    }
    if not groups:
        return ""
    names = sorted(groups, key=lambda name: groups[name])
    with panel("cost-parts", "Cost by part of the life", label, "") as drawn:
        drawn.axes.barh(range(len(names)), [groups[name] for name in names], color=BLUE, height=0.6)
        for place, name in enumerate(names):
            drawn.axes.annotate(
                formatting.dollars(groups[name]) if priced else formatting.duration(groups[name]),
                (groups[name], place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        drawn.axes.set_yticks(range(len(names)), names)
        drawn.axes.set_xlim(0, 1.25 * max(groups.values()))
        drawn.axes.locator_params(axis="x", nbins=5)
        drawn.axes.grid(axis="y", visible=False)
    return drawn.svg


def _lifetime(facts: CostFacts) -> str:
    points = [p for p in facts.lifetime if p.tokens > 0]
    if len(points) < 2:
        return ""
    with panel("cost-lifetime", "Training against serving", "output tokens served", "dollars") as drawn:
        x = [p.tokens for p in points]
        grid = np.geomspace(x[0], x[-1], 80)  # the sum bends between the points
        training = np.interp(grid, x, [p.training_usd for p in points])
        serving = np.interp(grid, x, [p.inference_usd for p in points])
        drawn.axes.plot(grid, training, color=BLUE, label="training")
        drawn.axes.plot(grid, serving, color=ORANGE, label="serving")
        drawn.axes.plot(grid, training + serving, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), label="both")
        log_axis(drawn.axes, "x")
        log_axis(drawn.axes, "y")
        drawn.axes.yaxis.set_major_formatter(lambda value, _: f"${value:,g}")
        even = facts.break_even_tokens
        if even is not None and even.value > 0:
            drawn.axes.axvspan(even.low, even.high, color=MUTED, alpha=0.25, linewidth=0)
            drawn.axes.axvline(even.value, color=MUTED, linewidth=1.2)
            drawn.axes.annotate(
                f"break-even\n{formatting.count(even.value)} tokens",
                (even.value, drawn.axes.get_ylim()[0]),
                xytext=(5, 8),
                textcoords="offset points",
                fontsize=8.5,
                color=MUTED,
            )
        drawn.axes.legend(loc="upper left")
    return drawn.svg
