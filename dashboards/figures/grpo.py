"""GRPO: accuracy or reward by iteration."""

from __future__ import annotations

from dashboards.facts.grpo import GrpoFacts
from dashboards.figures.canvas import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    Figure,
    panel,
    percent_axis,
    with_interval,
)


def grpo_figure(facts: GrpoFacts) -> Figure | None:
    """Held-out accuracy and training reward by iteration, with the share of groups that gave no signal."""
    panels = []
    if facts.accuracy_curve or facts.reward_curve:
        what = "accuracy, mean reward" if facts.measure == "accuracy" else "mean reward"
        with panel("grpo", f"{facts.measure.capitalize()} while GRPO trains", "iteration", what) as drawn:
            if facts.reward_curve:
                drawn.axes.plot(
                    facts.reward_curve.steps, facts.reward_curve.values, color=BLUE, alpha=0.6, label="sampled reward"
                )
            if facts.accuracy_curve:
                drawn.axes.plot(
                    facts.accuracy_curve.steps, facts.accuracy_curve.values, "o-", color=GREEN, label="held out"
                )
            last = max(facts.accuracy_curve.steps[-1:] + facts.reward_curve.steps[-1:])
            for end, x in ((facts.before, 0), (facts.after, last)):
                if end is not None:
                    with_interval(drawn.axes, [x], [end.value], [end.low], [end.high], ORANGE, markersize=6)
            if facts.measure == "accuracy":
                drawn.axes.set_ylim(0, 1.02)
                percent_axis(drawn.axes)
            drawn.axes.legend(loc="lower right")
        panels.append(drawn.svg)
    if facts.zero_std_curve:
        with panel(
            "grpo-silent", "Groups without a signal", "iteration", "share of groups, all right or all wrong"
        ) as drawn:
            drawn.axes.plot(facts.zero_std_curve.steps, facts.zero_std_curve.values, color=MUTED)
            drawn.axes.set_ylim(0, 1.02)
            percent_axis(drawn.axes)
        panels.append(drawn.svg)
    silent = "A group whose answers all score the same gives no signal."
    caption = f"Orange: {facts.measure} before and after, 95% intervals. {silent}"
    return Figure("grpo", caption, tuple(panels)) if panels else None
