"""Data funnel, training curves, proxy and gold against KL, GRPO."""

from __future__ import annotations

from dashboards.facts.alignment import AlignmentFacts, GrpoFacts, PolicyFacts
from dashboards.facts.training import DataFacts, TrainingFacts
from dashboards.figures.canvas import (
    BLUE,
    GOLD,
    GREEN,
    MUTED,
    ORANGE,
    RED,
    SERIES,
    Figure,
    count_axis,
    log_axis,
    panel,
    percent_axis,
    smoothed,
    thinned,
    with_interval,
)
from dashboards.rows import Series


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


def training_figure(slug: str, training: TrainingFacts) -> Figure | None:
    """Loss by step, and held-out loss by source."""
    panels = []
    if training.curve:
        with panel(f"{slug}-loss", "Training loss", "step", "loss, nats a token") as drawn:
            steps, values = training.curve.steps, training.curve.values
            drawn.axes.plot(*thinned(steps, values), color=BLUE, alpha=0.3, linewidth=1)
            drawn.axes.plot(*thinned(steps, smoothed(values, 0.8)), color=BLUE)
            count_axis(drawn.axes, "x")
        panels.append(drawn.svg)
    if training.losses_by_source:
        with panel(f"{slug}-sources", "Held-out loss by source", "loss, nats a token", "") as drawn:
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


def alignment_figure(facts: AlignmentFacts) -> Figure | None:
    """Proxy and gold against KL for every coefficient; the outcome by coefficient; best of n."""
    panels = [
        _proxy_and_gold(i, p) for i, p in enumerate(facts.policies) if p.kl_curve and p.proxy_curve and p.gold_curve
    ]
    measured = [(p, p.gold) for p in facts.policies if p.gold is not None and p.proxy is not None]
    if len(measured) > 1:
        with panel("rlhf-end", "Where each policy ended", "KL coefficient", "SFT standard deviations") as drawn:
            places = list(range(len(measured)))
            drawn.axes.axhline(0.0, color=MUTED, linewidth=1)
            drawn.axes.plot(places, [p.proxy or 0.0 for p, _ in measured], "s", color=BLUE, label="proxy")
            gold = [g for _, g in measured]
            with_interval(
                drawn.axes,
                places,
                [g.value for g in gold],
                [g.low for g in gold],
                [g.high for g in gold],
                GOLD,
                label="gold, 95%",
            )
            drawn.axes.set_xticks(places, [f"{p.kl_coef:g}" if p.kl_coef is not None else p.label for p, _ in measured])
            drawn.axes.set_xlim(-0.5, len(places) - 0.5)
        panels.append(drawn.svg)
    rows = [(r, r.gold) for r in facts.best_of_n if r.gold is not None]
    if rows:
        with panel("rlhf-best-of-n", "Best of n", "n samples", "SFT standard deviations") as drawn:
            n = [r.n for r, _ in rows]
            proxies = [(r.n, r.proxy) for r, _ in rows if r.proxy is not None]
            drawn.axes.plot([x for x, _ in proxies], [y for _, y in proxies], "s-", color=BLUE, label="proxy")
            gold = [g for _, g in rows]
            with_interval(
                drawn.axes,
                n,
                [g.value for g in gold],
                [g.low for g in gold],
                [g.high for g in gold],
                GOLD,
                fmt="o-",
                label="gold, 95%",
            )
            _ticks_at(drawn.axes, n)
        panels.append(drawn.svg)
    caption = (
        "Proxy (what the policy is paid for) and gold (what people would prefer) as the policy moves away from the "
        "fine-tuned model."
    )
    return Figure("rlhf", caption, tuple(panels)) if panels else None


def _ticks_at(axes: object, values: list[int]) -> None:
    """Ticks where the points are, on a logarithmic axis."""
    log_axis(axes, "x")  # type: ignore[arg-type]
    axes.set_xticks(values, [str(value) for value in values])  # type: ignore[attr-defined]


def _common(*series: Series) -> list[tuple[float, ...]]:
    """Values of several series at the steps that all of them have."""
    tables = [dict(zip(one.steps, one.values, strict=True)) for one in series]
    return [
        tuple(table[step] for table in tables) for step in series[0].steps if all(step in table for table in tables)
    ]


def _proxy_and_gold(index: int, policy: PolicyFacts) -> str:
    name = policy.label if policy.kl_coef is None else f"KL coefficient {policy.kl_coef:g}"
    title = f"{name}: alarm raised" if policy.alarm else name
    with panel(f"rlhf-{index}", title, "KL from the fine-tuned model, nats", "SFT standard deviations") as drawn:
        drawn.axes.axhline(0.0, color=MUTED, linewidth=1)
        proxy = _common(policy.kl_curve, policy.proxy_curve)
        drawn.axes.plot([p[0] for p in proxy], [p[1] for p in proxy], color=BLUE, label="proxy")
        color = RED if policy.alarm else GOLD
        if policy.gold_low and policy.gold_high:
            band = _common(policy.kl_curve, policy.gold_curve, policy.gold_low, policy.gold_high)
            x, middle, low, high = ([point[i] for point in band] for i in range(4))
            with_interval(drawn.axes, x, middle, low, high, color, fmt="o-", markersize=3.5, label="gold, 95%")
        else:
            gold = _common(policy.kl_curve, policy.gold_curve)
            drawn.axes.plot([p[0] for p in gold], [p[1] for p in gold], "o-", color=color, markersize=3.5, label="gold")
    return drawn.svg


def grpo_figure(facts: GrpoFacts) -> Figure | None:
    """Held-out accuracy and training reward by iteration, with the share of groups that taught nothing."""
    panels = []
    if facts.accuracy_curve or facts.reward_curve:
        with panel("grpo", "Accuracy while GRPO trains", "iteration", "accuracy, mean reward") as drawn:
            if facts.reward_curve:
                drawn.axes.plot(
                    facts.reward_curve.steps, facts.reward_curve.values, color=BLUE, alpha=0.6, label="sampled reward"
                )
            if facts.accuracy_curve:
                drawn.axes.plot(
                    facts.accuracy_curve.steps, facts.accuracy_curve.values, "o-", color=GREEN, label="greedy, held out"
                )
            last = max(facts.accuracy_curve.steps[-1:] + facts.reward_curve.steps[-1:])
            for end, x in ((facts.before, 0), (facts.after, last)):
                if end is not None:
                    with_interval(drawn.axes, [x], [end.value], [end.low], [end.high], ORANGE, markersize=6)
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
    caption = (
        "Orange: accuracy before and after, 95% intervals. A group whose answers all score the same teaches nothing."
    )
    return Figure("grpo", caption, tuple(panels)) if panels else None
