"""Proxy and gold over the distance from where a policy began, all policies on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from dashboards.app.figures.base import SERIES, Figure, Trace, axis, figure
from dashboards.facts.alignment import PolicyFacts


def policies_figure(policies: Sequence[PolicyFacts], unit: str, at: int | None = None) -> Figure:
    """Each policy's proxy (hollow) and gold (filled) over its KL, with the iteration `at` marked and alarms
    crossed. One pair of axes: a proxy that rises while gold falls is seen, and so is how much."""
    data: list[Trace] = []
    for place, policy in enumerate(policies):
        color = SERIES[place % len(SERIES)]
        kl = dict(zip(policy.kl_curve.steps, policy.kl_curve.values, strict=True))
        for name, curve, symbol in (
            ("proxy", policy.proxy_curve, "circle-open"),
            ("gold", policy.gold_curve, "circle"),
        ):
            found = [
                (kl[step], value, step) for step, value in zip(curve.steps, curve.values, strict=True) if step in kl
            ]
            if not found:
                continue
            sizes = [13 if step == at else 7 for _, _, step in found]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": f"{policy.name}: {name}",
                    "legendgroup": policy.label,
                    "x": [x for x, _, _ in found],
                    "y": [y for _, y, _ in found],
                    "text": [f"iteration {s}" for _, _, s in found],
                    "customdata": [urlencode({"policy": policy.label, "at": step}) for _, _, step in found],
                    "line": {"color": color, "width": 1.5, "dash": "dot" if name == "proxy" else "solid"},
                    "marker": {"color": color, "symbol": symbol, "size": sizes},
                    "hovertemplate": "%{text}<br>KL %{x:.3g}: %{y:.3g}<extra>" + f"{policy.name}, {name}" + "</extra>",
                }
            )
        if policy.alarm and policy.alarm_step in kl:
            gold = dict(zip(policy.gold_curve.steps, policy.gold_curve.values, strict=True))
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"{policy.name}: alarm",
                    "x": [kl[policy.alarm_step]],
                    "y": [gold.get(policy.alarm_step, 0.0)],
                    "marker": {"symbol": "x", "size": 14, "color": "--red"},
                }
            )
    return figure(data, axis("KL from where it began, nats"), axis(unit, zeroline=True))
