"""A run's estimate before it starts, its budget while it goes on, and how the estimate did when it has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from components.cost.estimating import Past, RunEstimate, estimate_run, estimate_stage
from flows.engine.graph import Graph
from flows.engine.work import now
from flows.settings import BudgetConfig, ComputeConfig, ConfigError
from storage.fingerprint import plain
from storage.home import Home

SWEEP = "cost"  # of the table `forecasts`


def past_stages(home: Home) -> list[Past]:
    """What stages took in this home, the makings that the ledger has."""
    rows = home.tables.read("stages", ["stage", "label", "key", "status", "config_json"]).to_pylist()
    settings = {row["key"]: row for row in rows if row["status"] == "ran" and row["config_json"]}
    found = []
    for cost in home.tables.read("costs").to_pylist():
        if (row := settings.get(cost["key"])) and cost["seconds"] is not None:
            held = cost["device_seconds"] if cost["device_seconds"] is not None else cost["cpu_seconds"]
            ended = cost["ended_at"].timestamp() if cost["ended_at"] else 0.0
            past = Past(
                row["stage"],
                row["label"],
                json.loads(row["config_json"]),
                cost["seconds"],
                held or 0.0,
                cost["peak_memory_bytes"],
                ended,
            )
            found.append(past)
    return found


def estimate(graph: Graph, home: Home, compute: ComputeConfig) -> RunEstimate:
    """Of the stages that are not sealed yet."""
    past = past_stages(home)
    missing = [node for node in graph.nodes.values() if home.store.find(node.key) is None]
    stages = [
        estimate_stage(
            node.stage.name,
            node.label,
            plain(node.bound.settings),
            past,
            node.stage.seconds,
            compute.usd_per_core_hour,
            compute.threads_per_worker,
        )
        for node in missing
    ]
    needs = {label: node.needs for label, node in graph.nodes.items()}
    return estimate_run(stages, needs, max(1, compute.counted().workers))


def check_budget(made: RunEstimate, budget: BudgetConfig) -> None:
    """Raises ConfigError where the estimate is above the budget; names it, and what it is."""
    for name, limit, value, low, high, unit in (
        ("max_usd", budget.max_usd, made.usd, made.low_usd, made.high_usd, "USD"),
        ("max_hours", budget.max_hours, made.hours, made.low_hours, made.high_hours, "hours"),
    ):
        if limit and value > limit:
            raise ConfigError(
                f"budget.{name} is {limit:g}, and this run is estimated at {value:.3g} {unit} ({low:.3g} to "
                f"{high:.3g}): `lifespan plan --cost` shows what it goes to; raise it with --set budget.{name}="
                f"{high:.2g}, or run a part with --only"
            )


def reached(budget: BudgetConfig, usd: float, hours: float) -> str:
    """Why a run has to stop now; "" where it may go on."""
    for name, limit, value, unit in (
        ("max_usd", budget.max_usd, usd, "USD"),
        ("max_hours", budget.max_hours, hours, "hours"),
    ):
        if limit and value >= limit:
            return f"budget.{name} = {limit:g} is reached ({value:.3g} {unit}): a higher one goes on from here"
    return ""


def score(home: Home, run_id: str, made: RunEstimate, begun: Any, hours: float, complete: bool) -> None:
    """Write the estimate into `forecasts`, with what came. `begun`: when it was made. Of a run that did not end well
    the sums are not scored, and of stages those that were made."""
    took = {
        row["label"]: row
        for row in home.tables.read("costs", ["run_id", "label", "usd"]).to_pylist()
        if row["run_id"] == run_id
    }
    all_usd = sum(row["usd"] for row in took.values()) if complete else None

    def row(target: str, how: str, low: float, value: float, high: float, came: float | None) -> Mapping[str, Any]:
        scored = {"observed": came, "scored_at": now()} if came is not None else {}
        common = {"run_id": run_id, "key": run_id, "sweep": SWEEP, "target": target, "method": how, "made_at": begun}
        return common | {"predicted": value, "low": low, "high": high} | scored

    rows = [
        row(
            f"usd of {one.label}",
            one.basis,
            one.low_usd,
            one.usd,
            one.high_usd,
            took[one.label]["usd"] if one.label in took else None,
        )
        for one in made.stages
    ]
    if rows:
        rows.append(row("usd of the run", "sum", made.low_usd, made.usd, made.high_usd, all_usd))
        took_hours = hours if complete else None
        rows.append(row("hours of the run", "sum", made.low_hours, made.hours, made.high_hours, took_hours))
        home.tables.write("forecasts", f"{run_id}-cost", rows)
