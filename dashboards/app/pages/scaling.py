"""The scaling law of a run, what it says of other sizes, and the ledger of the home's forecasts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from components.scaling.chinchilla_fit import ChinchillaFit
from dashboards import formatting, labels
from dashboards.app.address import Address
from dashboards.app.figures.scaling import isoflop_figure, law_figure, ledger_figure, loss
from dashboards.app.outside import Outside
from dashboards.app.pages.choice import chosen_run
from dashboards.app.rows import Columns, ask, life, typed
from dashboards.app.view import Block, Chart, Column, Control, Controls, Fact, Facts, Note, Table, View, missing
from dashboards.facts.effects import Missing
from dashboards.facts.scaling import ScalingFacts, scaling_facts
from dashboards.run_data import RunRows
from storage.home import Home

_POINTS = """
        SELECT sweep, variant, seed, num_params, tokens, loss FROM scaling_points
        WHERE key IN (SELECT key FROM stages WHERE run_id = $run AND status IN ('ran', 'cached')) AND sweep = 'dense'
        ORDER BY num_params, tokens"""
_LEDGER = """
        SELECT DISTINCT ON (f.key, target, method, num_params, tokens) f.run_id, f.sweep, f.target, f.num_params,
               f.tokens, f.extrapolation, f.predicted, f.low, f.high, f.observed, f.made_at, f.scored_at,
               f.predicted - f.observed AS error, f.observed BETWEEN f.low AND f.high AS inside
        FROM forecasts f WHERE method = 'law' ORDER BY f.made_at DESC, f.key LIMIT 500"""


def scaling_page(home: Home, address: Address, outside: Outside) -> View:
    """Law, band, forecast and outcome; N and D can be dragged."""
    run, control = chosen_run(home, address)
    if run is None:
        return missing("Scaling", f"No run yet in {home.shown}.", ("Runs", "/"))
    rows = life(home, run)
    facts = scaling_facts(rows)
    blocks: list[Block] = [Controls((control,))]
    if isinstance(facts, Missing):
        blocks.append(Note(facts.reason, "muted"))
    elif not any(point.tokens for point in facts.points):
        blocks.append(Note("This run has trained no sweep of its own.", "muted"))
    else:
        blocks = _law(home, rows, facts, control, address, run)
    blocks += ledger(ask(home, _LEDGER), _LEDGER)
    return View("Scaling", tuple(blocks), address=address.used)


def _law(home: Home, rows: RunRows, facts: ScalingFacts, control: Control, address: Address, run: str) -> list[Block]:
    sizes = [p.num_params for p in facts.points]
    lengths = [p.tokens for p in facts.points if p.tokens]
    num_params = address.number("n", 2.0 * max(sizes), min(sizes) / 10, 1000 * max(sizes))
    tokens = address.number("d", 2.0 * max(lengths), min(lengths) / 10, 1000 * max(lengths))
    controls = Controls(
        (
            control,
            Control(
                "n",
                "parameters N",
                "range",
                num_params,
                low=min(sizes) / 10,
                high=1000 * max(sizes),
                log=True,
                format="count",
            ),
            Control(
                "d",
                "tokens D",
                "range",
                tokens,
                low=min(lengths) / 10,
                high=1000 * max(lengths),
                log=True,
                format="count",
            ),
        )
    )
    blocks: list[Block] = [controls]
    fit = saved_fit(home, rows)
    law = facts.law
    sql = typed(_POINTS, {"run": run})
    if law:
        blocks.append(foretold(law, fit, facts, num_params, tokens))
    blocks += [Note(f"The fit warns: {'; '.join(facts.warnings)}.", "warn") for _ in facts.warnings[:1]]
    shown = band_at(law, fit, num_params, tokens) if law else None
    note = (
        "Points as measured, lines by the law, the band for the size that is chosen above: 95% of the posterior."
        if fit
        else ""
    )
    blocks.append(Chart("law", "The law and its points", law_figure(facts, law, shown), sql, note, 420))
    if law:
        blocks.append(
            Chart(
                "isoflop",
                "At equal compute",
                isoflop_figure(law, facts.points),
                sql,
                "C = 6ND; a star marks the best size.",
            )
        )
    blocks.append(_parameters(facts, sql))
    return blocks


def saved_fit(home: Home, rows: RunRows) -> ChinchillaFit | None:
    """The fit with its posterior, where the run has one that can be read."""
    stage = rows.find("fit_scaling_law")
    artifact = home.store.find(stage.key) if stage else None
    if artifact is None:
        return None
    try:
        return ChinchillaFit.from_json(
            json.loads((home.store.path(artifact) / "chinchilla.json").read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, KeyError):
        return None


def band_at(law: Mapping[str, float], fit: ChinchillaFit | None, num_params: float, tokens: float) -> dict[str, Any]:
    """The law's line at a size, with the 95% band of the posterior where there is one."""
    grid = np.geomspace(tokens / 30, tokens * 3, 40)
    middle = loss(law, num_params, grid)
    low = high = middle
    if fit is not None and len(fit.samples):
        ends = [fit.predict(num_params, float(x)) for x in grid]
        low, high = np.array([x.low for x in ends]), np.array([x.high for x in ends])
    return {
        "tokens": grid.tolist(),
        "middle": middle.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
        "name": f"{formatting.count(num_params)} parameters, by the law",
    }


def foretold(
    law: Mapping[str, float], fit: ChinchillaFit | None, facts: ScalingFacts, num_params: float, tokens: float
) -> Facts:
    """What the law says of the size and tokens that were chosen, and how far outside of the sweep they lie."""
    value = float(loss(law, num_params, tokens))
    said = f"{value:.3f}"
    if fit is not None and len(fit.samples):
        x = fit.predict(num_params, tokens)
        said += f" [{x.low:.3f}, {x.high:.3f}]"
    largest = max(6.0 * p.num_params * p.tokens for p in facts.points if p.tokens)
    far = 6.0 * num_params * tokens / largest
    a, b = law["alpha"], law["beta"]
    # The best split of this compute by the law (Hoffmann et al. 2022, eq. 4): G (C/6)^(beta/(alpha+beta)).
    best = (a * law["A"] / (b * law["B"])) ** (1 / (a + b)) * (num_params * tokens) ** (b / (a + b))
    return Facts(
        (
            Fact("loss by the law [95%]", said),
            Fact("compute", f"{formatting.count(6.0 * num_params * tokens)} FLOPs"),
            Fact("times the largest of the sweep", f"{far:.3g}", tone="warn" if far > 10 else ""),
            Fact("best size for it", formatting.count(best) if math.isfinite(best) else formatting.MISSING),
            Fact(
                "irreducible loss",
                f"{law['E']:.3f}" + (f" (true {facts.truth:.3f})" if facts.truth is not None else ""),
            ),
        )
    )


def _parameters(facts: ScalingFacts, sql: str) -> Table:
    shown = facts.parameters
    return Table(
        "parameters",
        "What was fitted",
        (
            Column("law", "law"),
            Column("name", "parameter"),
            Column("value", "value", "number", low="low", high="high"),
            Column("identified", "identified", "verdict"),
            Column("n", "points", "count"),
            Column("method", "how"),
        ),
        {
            "law": [p.law for p in shown],
            "name": [labels.label(labels.PARAMETERS, p.name) for p in shown],
            "value": [p.value for p in shown],
            "low": [p.low for p in shown],
            "high": [p.high for p in shown],
            "identified": [identified(p.value, p.low, p.high) for p in shown],
            "n": [p.n for p in shown],
            "method": [p.method for p in shown],
        },
        sql,
        "Not identified: the interval is wider than the value itself.",
    )


def identified(value: float, low: float | None, high: float | None) -> str:
    """Whether an interval tells something: it is no wider than its value."""
    if low is None or high is None:
        return ""
    return "yes" if high - low <= abs(value) else "not identified"


def ledger(found: Columns, sql: str) -> list[Block]:
    """Every sealed forecast of the home with its outcome, and how often the intervals held."""
    scored = [i for i, observed in enumerate(found["observed"]) if observed is not None]
    if not found["run_id"]:
        return [Note("No forecast has been sealed in this home yet.", "muted")]
    inside = sum(bool(found["inside"][i]) for i in scored)
    with_interval = sum(found["inside"][i] is not None for i in scored)
    share = f"{inside} of {with_interval}" + (f", {inside / with_interval:.0%}" if with_interval else "")
    rows = {name: [values[i] for i in scored] for name, values in found.items()}
    facts = Facts(
        (
            Fact("forecasts sealed", f"{len(found['run_id']):,}"),
            Fact("scored", f"{len(scored):,}"),
            Fact("inside their 95% interval", share),
        ),
        "The ledger of this home's forecasts",
    )
    blocks: list[Block] = [facts]
    if scored:
        blocks.append(
            Chart(
                "ledger",
                "Predicted and observed",
                ledger_figure(rows),
                sql.strip(),
                "Above the diagonal it was worse foretold than it came.",
            )
        )
    columns = (
        Column("run_id", "run", href="/run?run={run_id}"),
        Column("num_params", "parameters", "count"),
        Column("tokens", "tokens", "count"),
        Column("extrapolation", "times the sweep", "number"),
        Column("predicted", "predicted", "number", low="low", high="high"),
        Column("observed", "observed", "number"),
        Column("error", "error", "number"),
        Column("made_at", "sealed, UTC", "time"),
    )
    return [*blocks, Table("forecasts", "Forecasts", columns, found, sql.strip(), filter=True)]
