"""A recurrent net beside the transformer, and which expert takes which source's tokens."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from components.statistics import Interval
from dashboards.architecture import NAMES, VARIANT_NAMES
from dashboards.facts.experts import TextExperts
from dashboards.facts.recurrent import RecurrentFacts
from dashboards.figures.canvas import BLUE, INK, MUTED, ORANGE, PAPER, RAMP, Figure, count_axis, panel, with_interval

_COLORS = {"transformer": BLUE, "lstm": ORANGE}


def recurrent_figure(facts: RecurrentFacts) -> Figure | None:
    """Training tokens a second against the context, and loss against the tokens in sight."""
    panels = []
    if len(facts.speeds) > 1:
        with panel("recurrent-speed", "Training speed", "context length T, tokens", "tokens a second") as drawn:
            for name, color in _COLORS.items():
                known = [(s.context, s.speeds[name]) for s in facts.speeds if name in s.speeds]
                _line(drawn.axes, known, color, NAMES[name])
            _doubling_axis(drawn.axes, [s.context for s in facts.speeds])
            drawn.axes.set_ylim(bottom=0)
            count_axis(drawn.axes, "y")
        panels.append(drawn.svg)
    if len(facts.positions) > 1:
        with panel("recurrent-position", "Loss by position", "tokens in sight", "held-out loss, nats a token") as drawn:
            for name, color in _COLORS.items():
                known = [(p.last, p.losses[name]) for p in facts.positions if name in p.losses]
                drawn.axes.plot(
                    [x for x, _ in known], [y.value for _, y in known], "o-", color=color, label=NAMES[name]
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
        "Left: median of the timed steps, bars from the slowest to the fastest. A point at 2T stands for T + 1 … 2T "
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


def specialization_panel(experts: TextExperts) -> str:
    """Heat map: a row a source of each layer, a column an expert; rows sum to 100%. Empty without two sources."""
    layers = [layer for layer in experts.layers if layer.by_source]
    if not layers:
        return ""
    sources, width = experts.sources, len(layers[0].by_source[0])
    height = len(layers) * (len(sources) + 0.6)
    title = VARIANT_NAMES.get(experts.variant, experts.variant).capitalize()
    with panel(f"special-{experts.variant}", title, "expert", "", (4.7, 0.9 + 0.26 * height)) as drawn:
        axes, names, places = drawn.axes, [], []
        for group, layer in enumerate(layers):
            top = group * (len(sources) + 0.6)
            axes.annotate(
                f"layer {layer.layer + 1}",
                (width - 0.4, top + (len(sources) - 1) / 2),
                va="center",
                fontsize=8.5,
                color=MUTED,
            )
            for row, (source, shares) in enumerate(zip(sources, layer.by_source, strict=True)):
                names.append(source)
                places.append(top + row)
                for expert, share in enumerate(shares):
                    shade = min(int(share / 0.08), len(RAMP) - 1)  # from 56% on the strongest
                    axes.barh(top + row, 0.94, 0.9, expert - 0.47, color=RAMP[shade])
                    if share >= 0.005:
                        ink = INK if shade < 3 else PAPER
                        axes.text(
                            expert, top + row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7.5, color=ink
                        )
        axes.set_yticks(places, names)
        axes.set_xticks(range(width), [str(expert + 1) for expert in range(width)])
        axes.set(xlim=(-0.5, width + 0.7), ylim=(height - 0.6, -0.6))
        axes.grid(visible=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
    return drawn.svg
