"""Load of the experts, their loss, and which expert takes which source's tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from components.statistics import Interval
from dashboards import labels
from dashboards.facts.experts import MoeFacts, MoePoint, TextExperts
from dashboards.figures.canvas import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    PAPER,
    PURPLE,
    RAMP,
    Figure,
    panel,
    percent_axis,
    with_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_VARIANT_COLORS = {"dense": MUTED, "moe_balanced": BLUE, "moe_unbalanced": ORANGE}


def moe_figure(facts: MoeFacts) -> Figure | None:
    """Share of the tokens by expert, busiest first, and the losses of each seed."""
    panels = []
    loaded = [v for v in ("moe_balanced", "moe_unbalanced") if any(p.load for p in facts.of(v))]
    if loaded:
        with panel("moe-load", "Load of the experts", "expert, busiest first", "share of the tokens") as drawn:
            width = 0.8 / len(loaded)
            experts = max(len(p.load) for p in facts.points)
            for i, variant in enumerate(loaded):
                runs = [p.load for p in facts.of(variant) if len(p.load) == experts]
                places = [e + (i - (len(loaded) - 1) / 2) * width for e in range(experts)]
                heights = [sum(column) / len(runs) for column in zip(*runs, strict=True)]
                drawn.axes.bar(
                    places,
                    heights,
                    width * 0.92,
                    color=_VARIANT_COLORS[variant],
                    label=f"{labels.VARIANTS[variant]}, mean of {len(runs)} seeds",
                )
                for run in runs:
                    drawn.axes.plot(places, run, ".", color=INK, markersize=4, alpha=0.6)
            drawn.axes.axhline(1 / experts, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="even load")
            drawn.axes.set_xticks(range(experts), [str(e + 1) for e in range(experts)])
            drawn.axes.grid(axis="x", visible=False)
            percent_axis(drawn.axes)
        panels.append(drawn.svg)
    if any(p.loss is not None for p in facts.points):
        panels.append(_losses(facts))
    heat = [svg for one in facts.on_text if (svg := specialization_panel(one))]
    caption = "Dots: single seeds; lines join runs of one seed."
    if heat:
        caption += " Heat maps: of a source's held-out tokens, the percentage that each expert takes."
    return Figure("moe", caption, (*panels, *heat)) if panels or heat else None


def _losses(facts: MoeFacts) -> str:
    variants = [v for v in labels.VARIANTS if facts.of(v)]
    with panel("moe-loss", "Loss at equal active compute", "", "held-out loss, nats per token") as drawn:
        by_seed: dict[int, list[tuple[int, float]]] = {}
        for place, variant in enumerate(variants):
            for p in facts.of(variant):
                if p.loss is not None:
                    by_seed.setdefault(p.seed, []).append((place, p.loss))
                    _loss_point(drawn.axes, place, p)
        for points in by_seed.values():
            drawn.axes.plot([x for x, _ in points], [y for _, y in points], color=PURPLE, alpha=0.4, linewidth=1)
        drawn.axes.set_xticks(range(len(variants)), [labels.VARIANTS[v].replace(", ", "\n") for v in variants])
        drawn.axes.set_xlim(-0.5, len(variants) - 0.5)
        drawn.axes.grid(axis="x", visible=False)
    return drawn.svg


def _loss_point(axes: Axes, place: int, p: MoePoint) -> None:
    x = p.loss_interval or Interval(p.loss or 0.0, p.loss or 0.0, p.loss or 0.0, 0)
    with_interval(axes, [place], [x.value], [x.low], [x.high], _VARIANT_COLORS.get(p.variant, BLUE), capsize=0)


def specialization_panel(experts: TextExperts) -> str:
    """Heat map: a row per source of each layer, a column per expert; rows sum to 100%. Empty without two sources."""
    layers = [layer for layer in experts.layers if layer.by_source]
    if not layers:
        return ""
    sources, width = experts.sources, len(layers[0].by_source[0])
    height = len(layers) * (len(sources) + 0.6)
    title = labels.heading(labels.VARIANTS, experts.variant)
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
