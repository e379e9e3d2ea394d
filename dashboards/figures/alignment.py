"""Proxy and gold against KL, best of n, the reward model's calibration and its taste for length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.statistics import Interval
from dashboards.facts.alignment import AlignmentFacts, PolicyFacts
from dashboards.facts.rewards import LawFacts, RewardModelFacts
from dashboards.figures.canvas import (
    BLUE,
    GOLD,
    MUTED,
    RED,
    SERIES,
    Figure,
    count_axis,
    log_axis,
    panel,
    percent_axis,
    with_interval,
)
from dashboards.run_data import Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def alignment_figure(facts: AlignmentFacts) -> Figure | None:
    """Proxy and gold against KL for every coefficient; the outcome by coefficient; best of n."""
    watched = [p for p in facts.policies if p.kl_curve and p.proxy_curve and (p.gold_curve or not facts.has_gold)]
    scale = _scale(watched)
    panels = [_proxy_and_gold(i, p, facts.units, scale) for i, p in enumerate(watched)]
    panels += [_watched(free) for free in facts.policies[:1] if free.kl_coef == 0.0 and _moving(free)]
    measured = [p for p in facts.policies if p.proxy is not None and (p.gold is not None or not facts.has_gold)]
    if len(measured) > 1:
        with panel("rlhf-end", "Where each policy ended", facts.units, "") as drawn:
            places = list(range(len(measured)))
            drawn.axes.axvline(0.0, color=MUTED, linewidth=1)
            _ends(drawn.axes, [p.proxy for p in measured if p.proxy], "s", BLUE, "proxy, 95%")
            _ends(drawn.axes, [p.gold for p in measured if p.gold], "o", GOLD, "gold, 95%")
            drawn.axes.set_yticks(places, [p.name for p in measured])
            drawn.axes.set_ylim(len(places) - 0.5, -0.5)
        panels.append(drawn.svg)
    rows = [r for r in facts.best_of_n if r.proxy is not None and (r.gold is not None or not facts.has_gold)]
    if rows:
        with panel("rlhf-best-of-n", "Best of n", "n samples", facts.units) as drawn:
            n = [r.n for r in rows]
            for name, color, found in (
                ("proxy", BLUE, [r.proxy for r in rows if r.proxy]),
                ("gold", GOLD, [r.gold for r in rows if r.gold]),
            ):
                if found:
                    middle, low, high = ([getattr(x, part) for x in found] for part in ("value", "low", "high"))
                    with_interval(drawn.axes, n, middle, low, high, color, label=f"{name}, 95%")
            _best_of_n_laws(drawn.axes, facts, n[-1])
            _ticks_at(drawn.axes, n)
        panels.append(drawn.svg)
    panels += _reward_model(facts.reward_model) if facts.reward_model else []
    gold = "gold (the true preference)" if facts.gold.of_stories else facts.gold.said
    what = f"Proxy (what the policy is paid for) and {gold}" if facts.has_gold else "The proxy"
    caption = (
        f"{what} as the policy moves away from the model that it began as, with the fitted laws of over-optimisation; "
        "the panels of all policies have one scale, even in √KL. "
        "Calibration: on the diagonal, what the reward model predicts is what happens."
    )
    return Figure("rlhf", caption, tuple(panels)) if panels else None


def _ends(axes: Axes, found: Sequence[Interval], marker: str, color: str, label: str) -> None:
    """Where the policies ended, one under the other; nothing where it is not known."""
    if found:
        around = [x.value - x.low for x in found], [x.high - x.value for x in found]
        places = list(range(len(found)))
        axes.errorbar([x.value for x in found], places, xerr=around, fmt=marker, capsize=2.5, color=color, label=label)


def _moving(policy: PolicyFacts) -> list[tuple[str, Series]]:
    """What was measured more than once and was not 0 at the start."""
    return [(name, series) for name, series in policy.watched if len(series.steps) > 1 and series.values[0] > 0]


def _watched(policy: PolicyFacts) -> str:
    title = f"What else was monitored: {policy.name}"
    with panel("rlhf-watched", title, "iteration", "relative to the start") as drawn:
        drawn.axes.axhline(1.0, color=MUTED, linewidth=1)
        for (name, series), color in zip(_moving(policy), SERIES, strict=False):
            drawn.axes.plot(series.steps, [v / series.values[0] for v in series.values], color=color, label=name)
        count_axis(drawn.axes, "x")
    return drawn.svg


def _reward_model(model: RewardModelFacts) -> list[str]:
    """Calibration, and score against length."""
    panels = []
    if model.bins:
        with panel("rlhf-calibration", "Reward model: calibration", "predicted", "chosen, 95%") as drawn:
            drawn.axes.plot([0.5, 1.0], [0.5, 1.0], color=MUTED, linewidth=1)
            chosen = [b.chosen for b in model.bins]
            with_interval(
                drawn.axes,
                [b.predicted for b in model.bins],
                [c.value for c in chosen],
                [c.low for c in chosen],
                [c.high for c in chosen],
                BLUE,
                fmt="o-",
            )
            drawn.axes.set_xlim(0.48, 1.02)
            percent_axis(drawn.axes, "x")
            percent_axis(drawn.axes)
        panels.append(drawn.svg)
    if model.score_by_length:
        with panel("rlhf-length", "Reward model: length", "tokens of the answer", "score") as drawn:
            drawn.axes.plot(
                [x for x, _ in model.score_by_length],
                [y for _, y in model.score_by_length],
                ".",
                color=BLUE,
                alpha=0.35,
                markersize=4,
            )
        panels.append(drawn.svg)
    return panels


def _ticks_at(axes: Axes, values: list[int]) -> None:
    """Ticks where the points are, on a logarithmic axis."""
    log_axis(axes, "x")
    axes.set_xticks(values, [str(value) for value in values])


def _common(*series: Series) -> list[tuple[float, ...]]:
    """Values of several series at the steps that all of them have."""
    tables = [dict(zip(one.steps, one.values, strict=True)) for one in series]
    return [
        tuple(table[step] for table in tables) for step in series[0].steps if all(step in table for table in tables)
    ]


Scale = tuple[float, float, float, float]  # lowest and greatest KL, lowest and highest reward


def _scale(policies: Sequence[PolicyFacts]) -> Scale:
    """What the panels of all policies have room for: they are compared with each other."""
    series = [s for p in policies for s in (p.proxy_curve, p.gold_curve, p.gold_low, p.gold_high)]
    rewards = [0.0, *(value for s in series for value in s.values)]
    room = 0.06 * ((max(rewards) - min(rewards)) or 1.0)
    distances = [value for p in policies for value in p.kl_curve.values]
    most = max([0.1, *distances])
    return (
        min([-0.001 * most, *(1.1 * value for value in distances)]),  # an estimate of a KL near 0 may lie below it
        most,
        min(rewards) - room,
        max(rewards) + room,
    )


def _proxy_and_gold(index: int, policy: PolicyFacts, unit: str, scale: Scale) -> str:
    title = f"{policy.name}: alarm raised" if policy.alarm else policy.name
    laws = {law.target: law for law in policy.laws}
    with panel(f"rlhf-{index}", title, "KL from where it began, nats", unit) as drawn:
        drawn.axes.axhline(0.0, color=MUTED, linewidth=1)
        proxy = _common(policy.kl_curve, policy.proxy_curve)
        _looks(drawn.axes, proxy, laws.get("proxy"), BLUE, "proxy")
        color = RED if policy.alarm else GOLD
        if policy.gold_low and policy.gold_high:
            band = _common(policy.kl_curve, policy.gold_curve, policy.gold_low, policy.gold_high)
            x, middle, low, high = ([point[i] for point in band] for i in range(4))
            with_interval(drawn.axes, x, middle, low, high, color, markersize=3.5, label="gold, 95%")
            _looks(drawn.axes, [point[:2] for point in band], laws.get("gold"), color, "")
        elif policy.gold_curve:
            _looks(drawn.axes, _common(policy.kl_curve, policy.gold_curve), laws.get("gold"), color, "gold")
        # Even in √KL, in which the laws are written: a policy that is held back still shows beside one that is free.
        root = (lambda kl: np.sign(kl) * np.sqrt(np.abs(kl)), lambda d: np.sign(d) * np.square(d))
        drawn.axes.set_xscale("function", functions=root)
        drawn.axes.set_xlim(scale[0], 1.04 * scale[1])
        drawn.axes.set_xticks(_kl_ticks(scale[1]))
        drawn.axes.set_ylim(*scale[2:])
    return drawn.svg


def _kl_ticks(most: float) -> list[float]:
    """0 and four round values that lie about evenly in √KL."""
    wanted = [most * (i / 4) ** 2 for i in range(1, 5)]
    digits = [10 ** math.floor(math.log10(one)) for one in wanted]
    return sorted({0.0, *(round(one / digit) * digit for one, digit in zip(wanted, digits, strict=True))})


def _best_of_n_laws(axes: Axes, facts: AlignmentFacts, most: int) -> None:
    """The fitted laws over n, from where a single sample stands."""
    single = facts.best_of_n[0]
    starts = {
        name: (x.value if x else None, color)
        for name, x, color in (("proxy", single.proxy, BLUE), ("gold", single.gold, GOLD))
    }
    grid = [most ** (i / 40) for i in range(41)]
    for law in facts.laws:
        start, color = starts[law.target]
        if law.run == "best of n" and start is not None and single.n == 1:
            gains = [start + law.gain(math.log(n) - (n - 1) / n) for n in grid]
            axes.plot(grid, gains, color=color, linewidth=1.2, alpha=0.7)


def _looks(axes: Axes, points: list[tuple[float, ...]], law: LawFacts | None, color: str, label: str) -> None:
    """Points of (KL, reward) with the law that was fitted to them, or joined in their order where there is none. A
    policy that is held back wanders about one KL: a line through its points would say nothing."""
    x, y = [point[0] for point in points], [point[1] for point in points]
    if label:
        axes.plot(x, y, "o", color=color, markersize=3.5, alpha=0.8, label=label)
    if law is None or not points:
        axes.plot(x, y, color=color, linewidth=1.2, alpha=0.6)
        return
    grid = [max(x) * (i / 60) ** 2 for i in range(61)]  # even in the law's d = √KL
    axes.plot(grid, [y[0] + law.gain(kl) for kl in grid], color=color, linewidth=1.2, alpha=0.7)
