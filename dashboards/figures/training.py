"""Data funnel, and the curves of pretraining and fine-tuning."""

from __future__ import annotations

from dashboards.facts.training import DataFacts, FinetuningFacts, TrainingFacts
from dashboards.figures.canvas import (
    BLUE,
    SERIES,
    Figure,
    count_axis,
    panel,
    smoothed,
    thinned,
)


def data_figure(data: DataFacts) -> Figure | None:
    """Megabytes of each source after each step."""
    cells = {(step.source, step.step): step.bytes for step in data.funnel if step.bytes is not None}
    if not cells:
        return None
    with panel("data", "What is left after each step", "", "text, MB", (5.6, 3.25)) as drawn:
        places = range(len(data.steps))
        base = [0.0] * len(data.steps)
        for source, color in zip(data.sources, SERIES * 3, strict=False):
            heights = [(cells.get((source, step)) or 0) / 1e6 for step in data.steps]
            drawn.axes.bar(places, heights, bottom=base, color=color, width=0.62, label=source)
            base = [below + height for below, height in zip(base, heights, strict=True)]
        drawn.axes.set_xticks(list(places), [step.replace("_", " ") for step in data.steps])
        if sum(map(len, data.steps)) > 56:
            drawn.axes.tick_params(axis="x", rotation=25)
        drawn.axes.grid(axis="x", visible=False)
        drawn.axes.set_ylim(0, 1.3 * max(base))
        drawn.axes.legend(ncols=min(3, len(data.sources)), loc="upper right")
    return Figure("data", "Text by source after each step of cleaning.", (drawn.svg,))


def pretraining_figure(training: TrainingFacts) -> Figure | None:
    return _training("pretraining", training)


def finetuning_figure(facts: FinetuningFacts) -> Figure | None:
    return _training("finetuning", facts.training)


def _training(slug: str, training: TrainingFacts) -> Figure | None:
    """Loss by step, and held-out loss by source."""
    panels = []
    if training.curve:
        with panel(f"{slug}-loss", "Training loss", "step", "loss, nats per token") as drawn:
            steps, values = training.curve.steps, training.curve.values
            drawn.axes.plot(*thinned(steps, values), color=BLUE, alpha=0.3, linewidth=1)
            drawn.axes.plot(*thinned(steps, smoothed(values, 0.8)), color=BLUE)
            count_axis(drawn.axes, "x")
        panels.append(drawn.svg)
    if training.losses_by_source:
        with panel(f"{slug}-sources", "Held-out loss by source", "loss, nats per token", "") as drawn:
            names = sorted(training.losses_by_source, key=lambda name: training.losses_by_source[name])
            losses = [training.losses_by_source[name] for name in names]
            drawn.axes.barh(range(len(names)), losses, color=BLUE, height=0.55)
            drawn.axes.set_yticks(range(len(names)), names)
            for place, loss in enumerate(losses):
                drawn.axes.annotate(
                    f"{loss:.2f}", (loss, place), xytext=(4, 0), textcoords="offset points", va="center"
                )
            drawn.axes.grid(axis="y", visible=False)
            drawn.axes.set_xlim(0, 1.15 * max(losses))
        panels.append(drawn.svg)
    return Figure(slug, "Training loss (raw, smoothed) and loss on held-out text.", tuple(panels)) if panels else None
