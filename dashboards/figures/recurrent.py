"""A recurrent net beside the transformer: training speed, and loss by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.statistics import Interval
from dashboards import labels
from dashboards.facts.recurrent import RecurrentFacts
from dashboards.figures.canvas import BLUE, INK, MUTED, ORANGE, Figure, count_axis, panel, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLORS = {"transformer": BLUE, "lstm": ORANGE}


def recurrent_figure(facts: RecurrentFacts) -> Figure | None:
    """Training tokens per second against the context, and loss against the tokens in sight."""
    panels = []
    if len(facts.speeds) > 1:
        with panel("recurrent-speed", "Training speed", "context length T, tokens", "tokens per second") as drawn:
            for name, color in _COLORS.items():
                known = [(s.context, s.speeds[name]) for s in facts.speeds if name in s.speeds]
                _line(drawn.axes, known, color, labels.ARCHITECTURES[name])
            _doubling_axis(drawn.axes, [s.context for s in facts.speeds])
            drawn.axes.set_ylim(bottom=0)
            count_axis(drawn.axes, "y")
        panels.append(drawn.svg)
    if len(facts.positions) > 1:
        with panel(
            "recurrent-position", "Loss by position", "tokens in sight", "held-out loss, nats per token"
        ) as drawn:
            for name, color in _COLORS.items():
                known = [(p.last, p.losses[name]) for p in facts.positions if name in p.losses]
                drawn.axes.plot(
                    [x for x, _ in known],
                    [y.value for _, y in known],
                    "o-",
                    color=color,
                    label=labels.ARCHITECTURES[name],
                )
            _doubling_axis(drawn.axes, [p.last for p in facts.positions])
        panels.append(drawn.svg)
    gaps = [(p.last, p.gap) for p in facts.positions if p.gap is not None]
    if len(gaps) > 1:
        with panel("recurrent-gap", "On the same windows", "tokens in sight", "LSTM − transformer, nats") as drawn:
            drawn.axes.axhline(0, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            _line(drawn.axes, gaps, INK, "")
            _doubling_axis(drawn.axes, [x for x, _ in gaps])
        panels.append(drawn.svg)
    caption = (
        "Speed: median of the timed steps, bars from the slowest to the fastest. A point at 2T stands for T + 1 … 2T "
        "tokens in sight; bars of the difference are 95% intervals over held-out windows."
    )
    return Figure("recurrent", caption, tuple(panels)) if panels else None


def _line(axes: Axes, points: Sequence[tuple[int, Interval]], color: str, label: str) -> None:
    with_interval(
        axes,
        [x for x, _ in points],
        [y.value for _, y in points],
        [y.low for _, y in points],
        [y.high for _, y in points],
        color,
        fmt="o-",
        label=label,
    )


def _doubling_axis(axes: Axes, ticks: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
