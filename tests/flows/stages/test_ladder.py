"""A tiny sweep by hand: a forecast is made from smaller sizes, then scored, and the law fitted to all."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from components.scaling.sweep_plan import FIRST, plan_sweep
from flows.config import load_config
from flows.engine.graph import assemble
from flows.runs.start import starting
from flows.sweep import ladder_graph, run_sweep
from storage.home import Home
from storage.queries import query

SMALL = [
    "scaling.facts.num_facts=64",
    "scaling.run.num_layers=1",
    "scaling.run.eval_tokens=3000",
    "scaling.steps=400",
    "compute.workers=0",
]


def test_each_larger_size_is_forecast_by_all_smaller_ones_and_scored(tmp_path: Path) -> None:
    cfg = load_config("smoke", SMALL)
    plan = plan_sweep(3e9, cfg.scaling.run, cfg.scaling.facts.vocab_size, ratio=1.0)
    graph = assemble(partial(ladder_graph, plan=plan), cfg)
    widths = [rung.config.d_model for rung in plan.rungs]
    for place, width in enumerate(widths):
        needs = graph.nodes[f"rung[d{width},0]"].needs
        assert needs == ((f"forecast[d{width}]",) if place >= FIRST else ())
        if place >= FIRST:
            assert graph.nodes[f"forecast[d{width}]"].needs == tuple(f"rung[d{w},0]" for w in widths[:place])
    home = Home(tmp_path / "home")
    for status in ("ran", "cached"):
        with starting("sweep", None, home=home, prefect=False) as start:
            result = run_sweep(cfg, plan, start=start, prefect=False, mlflow=False)
        assert result.status == "completed", result.failures
        shown = query(
            home, f"SELECT count(*) AS n FROM run_stages WHERE run_id = '{result.run_id}' AND status = '{status}'"
        )
        assert shown.to_pylist()[0]["n"] == len(graph.nodes)
    scores = query(home, "SELECT * FROM forecast_scores WHERE method = 'law'").to_pylist()
    assert len(scores) == len(widths) - FIRST
    assert all(one["made_at"] < one["scored_at"] and one["low"] < one["predicted"] < one["high"] for one in scores)
    points = query(home, "SELECT * FROM scaling_points WHERE sweep = 'ladder'").to_pylist()
    assert len({one["key"] for one in points}) == len(widths)
    assert all(json.loads(one["details_json"])["oracle_loss"] > 0 for one in points)
    fits = query(home, "SELECT parameter FROM scaling_fits WHERE sweep = 'ladder'").to_pylist()
    assert {one["parameter"] for one in fits} == {"A", "B", "E", "alpha", "beta", "params_exponent"}
