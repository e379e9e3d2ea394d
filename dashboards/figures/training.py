"""Data funnel, and the curves of pretraining and fine-tuning."""

from __future__ import annotations

from dashboards.facts.training import DataFacts, FinetuningFacts, TrainingFacts
from dashboards.figures.canvas import (
    BLUE,
    SERIES,
    Figure,
    count_axis,
    log_axis,
    panel,
    smoothed,
    thinned,
)


def data_figure(data: DataFacts) -> Figure | None:
    """Documents of each source that each step removed. A logarithmic axis: a step that takes ten and one that takes ten
    thousand are both looked at."""
    removed = data.removed
    steps = [step for step in data.steps if any(removed.get((source, step)) for source in data.sources)]
    if not steps:
        return None
    sources = [source for source in data.sources if any(removed.get((source, step)) for step in steps)]
    thick = 0.8 / len(sources)
    height = max(2.4, 0.9 + 0.17 * len(steps) * (len(sources) + 1))
    with panel("data", "What each step removed", "documents", "", (6.4, height)) as drawn:
        for i, (source, color) in enumerate(zip(sources, SERIES * 3, strict=False)):
            places = [place for place, step in enumerate(steps) if removed.get((source, step))]
            drawn.axes.barh(
                [place + (i - (len(sources) - 1) / 2) * thick for place in places],
                [removed[source, steps[place]] for place in places],
                0.92 * thick,
                color=color,
                label=source,
            )
        drawn.axes.set_yticks(range(len(steps)), [step.replace("_", " ") for step in steps])
        log_axis(drawn.axes, "x")
        drawn.axes.set_xlim(left=0.5)  # a bar of one document is seen
        drawn.axes.set_ylim(len(steps) - 0.5, -0.5)
        drawn.axes.grid(axis="y", visible=False)
        drawn.axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return Figure(
        "data", "Documents removed by source at each step of cleaning; the axis is logarithmic.", (drawn.svg,)
    )


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
