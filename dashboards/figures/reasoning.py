"""Accuracy against dollars: strategies on chains, and trees against sampling on puzzles."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dashboards import formatting, labels
from dashboards.facts.reasoning import ReasoningFacts, TreeFacts
from dashboards.facts.scores import Score
from dashboards.figures.canvas import (
    BLUE,
    GOLD,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    SERIES,
    Figure,
    log_axis,
    panel,
    percent_axis,
    with_interval,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STRATEGY_COLORS = {
    "direct": MUTED,
    "few_shot": PURPLE,
    "cot": ORANGE,
    "self_consistency": BLUE,
    "adaptive": GREEN,
    "greedy": MUTED,
    "best_of": GOLD,
    "until_right": PURPLE,
    "direct_vote": RED,
    "tree_of_thought": RED,
}
# A mark of its own beside the colour: a legend that is read without colours tells strategies apart.
MARKS = {
    "direct": "s",
    "few_shot": "P",
    "cot": "D",
    "self_consistency": "o",
    "adaptive": "*",
    "greedy": "s",
    "best_of": "^",
    "until_right": "v",
    "direct_vote": "X",
    "tree_of_thought": "p",
}


def _spent(score: Score) -> float:
    """Dollars per million items; generated tokens per item in a run without prices."""
    return score.tokens or 0.0 if score.usd is None else 1e6 * score.usd


def _axis(scores: Sequence[Score]) -> str:
    return "generated tokens per item, prompts not counted" if scores[0].usd is None else "dollars per million items"


def _frontier(axes: Axes, scores: Sequence[Score]) -> None:
    """Points with intervals; the members of a family with growing k are joined, any others stand alone."""
    groups: dict[tuple[str, str], list[Score]] = {}
    for s in scores:
        if _spent(s):
            name = labels.label(labels.STRATEGIES, s.family) if s.k is not None else s.label
            groups.setdefault((s.family, name), []).append(s)
    spare = iter(SERIES * 4)
    for (family, name), members in groups.items():
        members.sort(key=_spent)
        alike = [one for one, _ in groups if one == family]
        color = STRATEGY_COLORS.get(family) if len(alike) == 1 else None
        color = color or next(spare)
        mark = MARKS.get(family, "o")
        x = [_spent(s) for s in members]
        joined = len(members) > 1
        with_interval(
            axes,
            x,
            [s.accuracy.value for s in members],
            [s.accuracy.low for s in members],
            [s.accuracy.high for s in members],
            color,
            fmt=f"{mark}-" if joined else mark,
            markersize=5 if joined else 6.5,
            label=textwrap.fill(name, 34),
        )
        for s in members:
            if s.k and s.k & (s.k - 1) == 0:  # of a fine grid the powers of two
                axes.annotate(
                    str(s.k),
                    (_spent(s), s.accuracy.value),
                    xytext=(4, -10),
                    textcoords="offset points",
                    fontsize=8,
                    color=color,
                )
    log_axis(axes, "x", (1.0, 2.0, 5.0))
    if scores[0].usd is not None:
        axes.xaxis.set_major_formatter(lambda value, _: formatting.dollars(value))
    percent_axis(axes)
    axes.set_ylim(bottom=0.0, top=min(1.05, 1.12 * max(s.accuracy.high for s in scores)))


def reasoning_figure(facts: ReasoningFacts) -> Figure | None:
    """The frontier of the main model, its accuracy by difficulty, and the frontier of others with three strategies."""
    panels: list[str] = []
    models = [facts.model, *sorted({s.model for s in facts.scores} - {facts.model})]
    for model in models:
        mine = [s for s in facts.scores if s.model == model and _spent(s)]
        if len(mine) > 2 or (mine and model == facts.model):
            with panel(
                f"reasoning-{len(panels)}",
                labels.heading(labels.MODELS, model),
                _axis(mine),
                "accuracy",
                (4.7, 3.6),
            ) as drawn:
                _frontier(drawn.axes, mine)
                drawn.axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
            panels.append(drawn.svg)
    if levels := _difficulty(facts):
        panels.insert(1, levels)
    caption = "Accuracy with 95% intervals against what an answer costs; small numbers are the samples k."
    return Figure("reasoning", caption, tuple(panels)) if panels else None


def _difficulty(facts: ReasoningFacts) -> str:
    chosen = [
        s
        for s in facts.scores
        if s.model == facts.model and s.family in ("direct", "cot", "adaptive") and len(s.by_difficulty) > 1
    ]
    full = facts.curve("self_consistency")
    chosen += [s for s in full[-1:] if len(s.by_difficulty) > 1]
    if not chosen:
        return ""
    with panel("reasoning-levels", "Harder items", "number of operations", "accuracy", (4.7, 3.6)) as drawn:
        for i, s in enumerate(chosen):
            levels = s.by_difficulty
            aside = 0.07 * (i - (len(chosen) - 1) / 2)  # so that bars of one level stand side by side
            with_interval(
                drawn.axes,
                [level + aside for level in levels],
                [x.value for x in levels.values()],
                [x.low for x in levels.values()],
                [x.high for x in levels.values()],
                STRATEGY_COLORS.get(s.family, PURPLE),
                fmt=f"{MARKS.get(s.family, 'o')}-",
                markersize=4.5,
                label=s.label,
            )
        drawn.axes.set_xticks(sorted({level for s in chosen for level in s.by_difficulty}))
        drawn.axes.set_ylim(0, 1.03)
        percent_axis(drawn.axes)
        drawn.axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return drawn.svg


def tree_figure(facts: TreeFacts) -> Figure | None:
    """The frontier of trees and of sampling on the same puzzles."""
    mine = [s for s in facts.scores if s.model == facts.model and _spent(s)]
    if not mine:
        return None
    with panel(
        "tree",
        f"Puzzles, {labels.label(labels.MODELS, facts.model)}",
        _axis(mine),
        "solved",
        (5.6, 3.8),
    ) as drawn:
        _frontier(drawn.axes, mine)
        drawn.axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return Figure(
        "tree",
        "Strategies at the same place on the axis cost the same, prompts and judging included. Bars are 95% intervals.",
        (drawn.svg,),
    )
