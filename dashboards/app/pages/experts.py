"""The mixture of experts: who takes what, and how even the load is."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards import labels
from dashboards.app.address import Address
from dashboards.app.figures.experts import load_figure, routing_figure
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import Columns, ask, life, typed
from dashboards.app.view import Block, Chart, Column, Control, Controls, Note, Table, View, missing
from dashboards.facts.effects import Missing
from dashboards.facts.experts import MoeFacts, moe_facts
from storage.home import Home

_ROUTING = """
        SELECT variant, layer, expert, source, avg(share) AS share FROM routing
        WHERE key IN (SELECT key FROM stages WHERE run_id = $run AND status IN ('ran', 'cached'))
        GROUP BY ALL ORDER BY variant, layer, source, expert"""
_LOAD = """
        WITH m AS (SELECT s.label, step, m.name, value FROM run_stages s JOIN metrics m USING (key)
                   WHERE s.run_id = $run AND m.name IN ('router_max_share', 'router_entropy') AND isfinite(value)),
             w AS (SELECT label, max(step) + 1 AS width FROM m GROUP BY label)
        SELECT label, name, min(step) AS step, avg(value) AS value FROM m JOIN w USING (label)
        GROUP BY label, name, step * 200 // width ORDER BY label, name, step"""
TITLES = {"router_max_share": "largest share of any expert", "router_entropy": "entropy of the router, nats"}


def experts_page(home: Home, address: Address, outside: Outside) -> View:
    """Layer × expert × source for two variants side by side, and the load over time."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Experts", f"No run yet in {home.shown}.", ("Runs", "/"))
    facts = moe_facts(life(home, run))
    routing, load = ask(home, _ROUTING, {"run": run}), ask(home, _LOAD, {"run": run})
    if isinstance(facts, Missing) and not routing["variant"]:
        return View("Experts", (Controls((control,)), Note(facts.reason, "muted")), address=address.used)
    variants = list(dict.fromkeys(routing["variant"]))
    blocks: list[Block] = []
    if variants:
        options = tuple((one, labels.label(labels.VARIANTS, one)) for one in variants)
        shown = [address.text("a", variants[0], variants), address.text("b", variants[-1], variants)]
        blocks.append(
            Controls(
                (
                    control,
                    Control("a", "first", "select", shown[0], options),
                    Control("b", "second", "select", shown[1], options),
                )
            )
        )
        for place, variant in enumerate(dict.fromkeys(shown)):
            mine = {
                name: [v for v, of in zip(values, routing["variant"], strict=True) if of == variant]
                for name, values in routing.items()
            }
            title = f"{labels.heading(labels.VARIANTS, variant)}: who takes which source"
            height = 110 + 24 * len({*zip(mine["layer"], mine["source"], strict=True)})
            blocks.append(
                Chart(f"routing-{place}", title, routing_figure(mine), typed(_ROUTING, {"run": run}), height=height)
            )
    else:
        blocks.append(Controls((control,)))
        blocks.append(
            Note("No experts were trained on text of several sources, so nothing says who takes what.", "muted")
        )
    blocks += _loads(load, typed(_LOAD, {"run": run}), len(set(routing["expert"])))
    if not isinstance(facts, Missing):
        blocks.append(_table(facts))
    return View("Experts", tuple(blocks), address=address.used)


def _loads(load: Columns, sql: str, experts: int) -> Sequence[Chart]:
    charts = []
    for name, title in TITLES.items():
        curves: dict[str, tuple[list[float], list[float]]] = {}
        for label, metric, step, value in zip(*load.values(), strict=True):
            if metric == name:
                x, y = curves.setdefault(label, ([], []))
                x.append(step)
                y.append(value)
        if curves:
            even = 1 / experts if name == "router_max_share" and experts else None
            charts.append(
                Chart(
                    name,
                    title.capitalize(),
                    load_figure(curves, title, even),
                    sql,
                    "Dotted: all take the same." if even else "",
                )
            )
    return charts


def _table(facts: MoeFacts) -> Table:
    shown = facts.points
    return Table(
        "variants",
        "Variants beside each other, on facts",
        (
            Column("variant", "variant"),
            Column("seed", "seed", "count"),
            Column("loss", "held-out loss", "number", low="low", high="high"),
            Column("max_share", "largest share", "percent"),
            Column("entropy", "router's entropy", "number"),
            Column("specialization", "specialisation, nats", "number"),
        ),
        {
            "variant": [labels.label(labels.VARIANTS, p.variant) for p in shown],
            "seed": [p.seed for p in shown],
            "loss": [p.loss for p in shown],
            "low": [p.loss_interval.low if p.loss_interval else None for p in shown],
            "high": [p.loss_interval.high if p.loss_interval else None for p in shown],
            "max_share": [p.max_share for p in shown],
            "entropy": [p.entropy for p in shown],
            "specialization": [p.specialization for p in shown],
        },
        empty="no experts were compared on facts",
    )
