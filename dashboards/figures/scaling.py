"""The scaling law with its forecast, and emergence."""

from __future__ import annotations

import numpy as np

from dashboards import formatting, labels
from dashboards.facts.scaling import BY_LAW, EmergenceFacts, FittedParameter, ScalingFacts
from dashboards.figures.canvas import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    RAMP,
    RED,
    Figure,
    log_axis,
    panel,
    percent_axis,
    with_interval,
)


def scaling_figure(facts: ScalingFacts) -> Figure | None:
    """Loss against tokens, a line for each N; and the fitted parameters with their intervals."""
    panels = []
    if any(point.tokens for point in facts.points):
        panels.append(_law(facts))
    judged = [
        p for p in facts.parameters if p.name in ("E", "alpha", "beta") and p.low is not None and p.high is not None
    ]
    if judged:
        panels.append(_parameters(facts, judged))
    caption = (
        "Lines: the fitted law at each size. Diamond: the forecast with its 95% interval; star: what was then observed."
    )
    return Figure("scaling", caption, tuple(panels)) if panels else None


def _law(facts: ScalingFacts) -> str:
    sizes = sorted({point.num_params for point in facts.points if point.tokens})
    shades = {size: RAMP[round(i * (len(RAMP) - 1) / max(len(sizes) - 1, 1))] for i, size in enumerate(sizes)}
    tokens = [point.tokens for point in facts.points if point.tokens]
    reach = [f.tokens for f in facts.forecasts if f.tokens] + tokens
    grid = np.geomspace(min(tokens), max(reach), 60)
    with panel("scaling-law", "Loss falls by a law", "training tokens D", "loss, nats per token", (4.7, 3.6)) as drawn:
        axes = drawn.axes
        for size in sizes:
            mine = [(p.tokens, p.loss) for p in facts.points if p.num_params == size and p.tokens]
            axes.plot(
                [x for x, _ in mine],
                [y for _, y in mine],
                "o",
                color=shades[size],
                markersize=4.5,
                label=f"N={formatting.short(size)}",
            )
            if facts.law is not None:
                axes.plot(grid, [facts.loss(size, d) or 0.0 for d in grid], color=shades[size], linewidth=1.2)
        for i, f in enumerate(f for f in facts.forecasts if f.tokens and f.method == BY_LAW):
            if f.low is not None and f.high is not None:
                with_interval(
                    axes,
                    [f.tokens or 0],
                    [f.predicted],
                    [f.low],
                    [f.high],
                    ORANGE,
                    fmt="D",
                    markersize=6,
                    label="" if i else "forecast, 95%",
                )
            if f.observed is not None:
                axes.plot(
                    [f.tokens or 0],
                    [f.observed],
                    "*",
                    color=RED,
                    markersize=10,
                    label="" if i else "observed",
                    zorder=5,
                )
        if facts.truth is not None:
            axes.axhline(facts.truth, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)), label="true irreducible")
        log_axis(axes, "x", (1.0, 2.0, 5.0))
        log_axis(axes, "y", (1.0, 2.0, 5.0))
        axes.set_yticks(_round_ticks(*axes.get_ylim()))
        axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2), columnspacing=1.2)
    return drawn.svg


def _round_ticks(low: float, high: float) -> list[float]:
    """Round values for a logarithmic axis that spans less than a decade."""
    ladder = [base * 10**power for power in range(-3, 4) for base in (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8)]
    inside = [value for value in ladder if low <= value <= high]
    return inside if len(inside) <= 8 else inside[:: -(-len(inside) // 8)]


def _parameters(facts: ScalingFacts, judged: list[FittedParameter]) -> str:
    with panel("scaling-parameters", "What the fits say, 95%", "value", "", (4.7, 3.6)) as drawn:
        names = []
        for place, p in enumerate(reversed(judged)):
            assert p.low is not None and p.high is not None
            drawn.axes.plot([p.low, p.high], [place, place], color=BLUE, linewidth=2)
            drawn.axes.plot([p.value], [place], "o", color=BLUE)
            if p.name == "E" and facts.truth is not None:
                drawn.axes.plot([facts.truth], [place], "|", color=ORANGE, markersize=16, markeredgewidth=2.4)
            names.append(f"{labels.PARAMETERS.get(p.name, p.name)}  {labels.label(labels.LAWS, p.law)}")
        drawn.axes.set_yticks(range(len(names)), names)
        drawn.axes.set_ylim(-0.7, len(names) - 0.3)
        drawn.axes.grid(axis="y", visible=False)
        drawn.axes.set_xlim(left=min(0.0, drawn.axes.get_xlim()[0]))
        if facts.truth is not None:
            drawn.axes.plot([], [], "|", color=ORANGE, markersize=11, markeredgewidth=2.4, label="true E")
            drawn.axes.legend(loc="upper right")
    return drawn.svg


def emergence_figure(facts: EmergenceFacts) -> Figure | None:
    """The same models under a sharp metric and a smooth one."""
    sizes = [p.num_params for p in facts.points]
    panels = []
    with panel("emergence-exact", "Sharp metric", "parameters N", "exact match") as drawn:
        exact = [p.accuracy for p in facts.points]
        if facts.report.trainings > 1:
            dots = [(p.num_params, x) for p in facts.points for x in p.accuracies]
            drawn.axes.plot([n for n, _ in dots], [x for _, x in dots], ".", color=MUTED, label="one training")
        with_interval(
            drawn.axes,
            sizes,
            [x.value for x in exact],
            [x.low for x in exact],
            [x.high for x in exact],
            BLUE,
            fmt="o-",
            label="greedy",
        )
        drawn.axes.plot(
            sizes, [p.sampled.value for p in facts.points], "s--", color=GREEN, markersize=4, label="sampled"
        )
        drawn.axes.plot(sizes, [p.expected.value for p in facts.points], ":", color=ORANGE, label="p^L")
        drawn.axes.set_ylim(0, 1.02)
        drawn.axes.legend(loc="upper left")
        percent_axis(drawn.axes)
        log_axis(drawn.axes, "x", (1.0, 2.0, 5.0))
    panels.append(drawn.svg)
    with panel("emergence-smooth", "Smooth metric", "parameters N", "log-probability, nats per token") as drawn:
        smooth = [p.log_prob for p in facts.points]
        with_interval(
            drawn.axes,
            sizes,
            [x.value for x in smooth],
            [x.low for x in smooth],
            [x.high for x in smooth],
            GREEN,
            fmt="o-",
            label="computed tokens",
        )
        drawn.axes.plot(
            sizes, [p.copied_log_prob for p in facts.points], "s--", color=MUTED, markersize=4, label="copied"
        )
        drawn.axes.legend(loc="lower right")
        log_axis(drawn.axes, "x", (1.0, 2.0, 5.0))
    panels.append(drawn.svg)
    return Figure("emergence", "The same models and items under two metrics; bars are 95% intervals.", tuple(panels))
