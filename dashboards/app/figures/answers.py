"""Accuracy against what an answer costs, the front of strategies, votes, and items that two strategies answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from dashboards import labels
from dashboards.app.figures.base import Figure, Trace, axis, family_color, figure, points
from dashboards.facts.scores import Score

PER = {"dollars": "dollars per million items, prompts included", "tokens": "tokens per item, prompts included"}


def spent(score: Score, per: str) -> float | None:
    """What a strategy takes: dollars per million items, or tokens per item, read and generated."""
    if per == "dollars":
        return None if score.usd is None else 1e6 * score.usd
    return None if score.tokens is None else score.tokens + (score.prompt_tokens or 0.0)


def front(scores: Sequence[Score], per: str) -> list[Score]:
    """By rising cost, those that are more accurate than all that cost less."""
    kept: list[Score] = []
    for one in sorted((s for s in scores if spent(s, per)), key=lambda s: (spent(s, per) or 0.0, -s.accuracy.value)):
        if not kept or one.accuracy.value > kept[-1].accuracy.value:
            kept.append(one)
    return kept


def front_figure(scores: Sequence[Score], per: str) -> Figure:
    """A point a strategy with its 95% interval, families in one colour, and the front as a line. A click on a point
    shows its items."""
    families: dict[str, list[Score]] = {}
    for one in scores:
        if spent(one, per):
            families.setdefault(one.family, []).append(one)
    best = front(scores, per)
    data: list[Trace] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [spent(s, per) for s in best],
            "y": [s.accuracy.value for s in best],
            "name": "front",
            "line": {"color": "--muted", "dash": "dot", "shape": "hv"},
            "hoverinfo": "skip",
        }
    ]
    for family, members in families.items():
        members.sort(key=lambda s: (s.model, spent(s, per) or 0.0))
        data.append(
            points(
                [spent(s, per) for s in members],
                [s.accuracy.value for s in members],
                labels.label(labels.STRATEGIES, family),
                family_color(family),
                low=[s.accuracy.low for s in members],
                high=[s.accuracy.high for s in members],
                text=[f"{labels.label(labels.MODELS, s.model)}, {s.label}" for s in members],
                customdata=[urlencode({"model": s.model, "strategy": s.strategy, "item": ""}) for s in members],
                hovertemplate="%{text}<br>%{x:.4g}: %{y:.1%}<extra></extra>",
                marker={"symbol": "diamond" if any(s.verified for s in members) else "circle"},
            )
        )
    return figure(
        data, axis(PER[per], log=True, dollars=per == "dollars"), axis("accuracy", percent=True, rangemode="tozero")
    )


def votes_figure(votes: Mapping[str, Any], answer: str, target: str) -> Figure:
    """How many samples gave each answer; the right one in green, the chosen one framed."""
    shown = sorted(votes.items(), key=lambda one: -float(one[1]))[:12]
    names = [name or "no answer" for name, _ in shown]
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [float(n) for _, n in shown],
        "y": names,
        "showlegend": False,
        "marker": {
            "color": ["--green" if name == target else "--muted" for name, _ in shown],
            "line": {"color": "--ink", "width": [2 if name == answer else 0 for name, _ in shown]},
        },
    }
    return figure([trace], axis("samples"), {"automargin": True, "autorange": "reversed", "type": "category"})


OUTCOMES = ("both", "only a", "only b", "neither")


def outcomes_figure(counts: Mapping[str, int], a: str, b: str) -> Figure:
    """How many items both, only one, or neither answered right. A click shows them."""
    names = {"both": "both right", "only a": f"only A: {a}", "only b": f"only B: {b}", "neither": "neither"}
    colors = {"both": "--green", "only a": "--blue", "only b": "--orange", "neither": "--muted"}
    trace: Trace = {
        "type": "bar",
        "orientation": "h",
        "x": [counts.get(one, 0) for one in OUTCOMES],
        "y": [names[one] for one in OUTCOMES],
        "text": [f"{counts.get(one, 0):,}" for one in OUTCOMES],
        "marker": {"color": [colors[one] for one in OUTCOMES]},
        "customdata": [urlencode({"outcome": one}) for one in OUTCOMES],
        "showlegend": False,
        "hovertemplate": "%{y}: %{x}<extra></extra>",
    }
    return figure([trace], axis("items"), {"automargin": True, "autorange": "reversed"})
