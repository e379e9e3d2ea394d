"""What a run books: sums that agree wherever they are read, what came to nothing, and a budget that stops it."""

from __future__ import annotations

import json
import math
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy_life import Counting, ToyConfig, count, toy_graph, train
from toy_run import run_assembly

from flows.engine.graph import Graph
from flows.runs.budget import reached
from flows.runs.registry import close_dead_runs, running
from flows.runs.run import RunResult
from flows.settings import BudgetConfig, ComputeConfig, ConfigError
from storage.home import Home
from storage.queries import query

DEAR = ComputeConfig(workers=1, usd_per_core_hour=3600.0)  # a dollar a second of a busy core
INLINE = ToyConfig(compute=ComputeConfig(workers=0, usd_per_core_hour=3600.0), tags={"team": "red"})


def run(graph: Any, home: Home, console: Console, cfg: ToyConfig, **options: Any) -> RunResult:
    options = {"prefect": False, "mlflow": False} | options
    return run_assembly(graph, cfg, home=home, console=console, **options)


def one(home: Home, sql: str) -> dict[str, Any]:
    (row,) = query(home, sql).to_pylist()
    return dict(row)


def test_sums_agree_from_stages_to_run_to_home_and_in_mlflow(home: Home, console: Console) -> None:
    first = run(toy_graph, home, console, INLINE, mlflow=True)
    other = ToyConfig(seed=4, compute=INLINE.compute, tags={"team": "blue"})
    run(toy_graph, home, console, other)
    again = run(toy_graph, home, console, INLINE)  # all of it cached
    stages = query(home, "SELECT run_id, usd, cpu_seconds FROM run_costs").to_pylist()
    runs = {row["run_id"]: row for row in query(home, "FROM cost_by_run").to_pylist()}
    own = sum(row["usd"] for row in stages if row["run_id"] == first.run_id)
    assert own == pytest.approx(sum(r["cpu_seconds"] for r in stages if r["run_id"] == first.run_id)) and own > 0
    assert runs[first.run_id]["usd"] == pytest.approx(own)
    assert runs[again.run_id]["usd"] == 0 and runs[again.run_id]["inherited_usd"] == pytest.approx(own)
    booked = one(home, "SELECT sum(usd) AS usd FROM ledger")["usd"]
    assert booked == pytest.approx(sum(row["usd"] for row in runs.values()))
    tagged = {
        row["value"]: row["usd"]
        for row in query(
            home, "SELECT value, sum(usd) AS usd FROM ledger JOIN run_tags USING (run_id) GROUP BY 1"
        ).to_pylist()
    }
    assert sum(tagged.values()) == pytest.approx(booked) and tagged["red"] == pytest.approx(own)

    import mlflow

    client = mlflow.MlflowClient(home.mlflow_uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    shown = client.search_runs(ids, "tags.`lifespan.label` != ''")
    assert len(shown) == 4
    assert sum(found.data.metrics["cost.usd"] for found in shown) == pytest.approx(own)


def test_what_a_killed_trainer_lost_is_waste_and_what_it_saved_is_not(
    home: Home, console: Console, tmp_path: Path
) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    cfg = ToyConfig(compute=DEAR)
    run(lambda cfg, life: train.submit(life, steps=6, fuse=str(fuse), mode="kill"), home, console, cfg)
    waste = one(home, "SELECT * FROM waste WHERE outcome <> 'saved'")
    assert waste["outcome"] == "killed" and waste["attempt"] == 1 and "SIGKILL" in waste["reason"]
    assert waste["tokens"] == 0  # three steps were done and saved
    made = one(home, "SELECT * FROM costs")
    assert made["tokens"] == 6  # of both attempts
    total = one(home, "SELECT sum(tokens) AS tokens, sum(usd) AS usd FROM ledger")
    assert total["tokens"] == 6
    assert total["usd"] == pytest.approx(waste["usd"] + made["usd"])
    assert one(home, "SELECT count(*) AS n FROM waste WHERE outcome = 'saved'")["n"] == 1  # of what now is in costs


def test_a_stage_that_fails_is_booked_and_its_saved_part_stays_until_it_resumes(
    home: Home, console: Console, tmp_path: Path
) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()

    def graph(cfg: Any, life: Graph) -> None:
        train.submit(life, steps=4, fuse=str(fuse), mode="bug")

    failed = run(graph, home, console, INLINE)
    held = one(home, "SELECT * FROM ledger WHERE outcome = 'saved'")
    assert held["tokens"] == 2
    assert one(home, "SELECT * FROM ledger WHERE outcome = 'failed'")["reason"].endswith("a bug")
    row = one(home, f"SELECT * FROM cost_by_run WHERE run_id = '{failed.run_id}'")
    assert row["usd"] == pytest.approx(row["waste_usd"] + row["unfinished_usd"]) and row["unfinished_usd"] > 0
    run(graph, home, console, INLINE)
    assert query(home, "SELECT tokens FROM ledger WHERE outcome IN ('saved', 'made')").to_pylist() == [{"tokens": 4}]


def test_an_artifact_that_has_to_be_made_again_was_made_in_vain(home: Home, console: Console) -> None:
    def graph(cfg: Any, life: Graph) -> None:
        count.submit(life, config=Counting(3))

    first = run(graph, home, console, INLINE)
    before = one(home, "FROM costs")["usd"]
    shutil.rmtree(home.store.path(first.outcomes["count"].artifact))
    second = run(graph, home, console, INLINE)
    row = one(home, "FROM waste")
    assert (row["outcome"], row["run_id"], row["usd"]) == ("repeated", first.run_id, before)
    assert one(home, "FROM costs")["run_id"] == second.run_id


def test_a_run_that_was_killed_is_booked_by_the_next(home: Home) -> None:
    folder = home.local / "running" / "dead"
    folder.mkdir(parents=True)
    who = {"run_id": "dead", "key": "k" * 64, "stage": "train", "group": "pretraining", "label": "train", "attempt": 1}
    rates = vars(DEAR.rates)
    attempt = {"who": who, "used": {"seconds": 9.0, "cpu_seconds": 2.5, "tokens": 7.0}, "rates": rates}
    (folder / "board.json").write_text(json.dumps({"under_way": [attempt]}))
    assert close_dead_runs(home) == ["dead"]
    row = one(home, "FROM waste")
    assert (row["outcome"], row["tokens"], row["usd"]) == ("killed", 7, pytest.approx(2.5))


def test_an_estimate_above_the_budget_refuses_the_run(home: Home, console: Console) -> None:
    run(toy_graph, home, console, INLINE)
    cfg = ToyConfig(seed=1, compute=INLINE.compute, budget=BudgetConfig(max_usd=1e-9))
    with pytest.raises(ConfigError, match=r"budget.max_usd is 1e-09, and this run is estimated at .* USD"):
        run(toy_graph, home, console, cfg)
    assert one(home, "SELECT count(*) AS n FROM latest_runs")["n"] == 1


def test_a_budget_is_reached_by_dollars_or_hours() -> None:
    budget = BudgetConfig(max_usd=2.0, max_hours=3.0)
    assert reached(budget, 1.99, 2.99) == "" and reached(BudgetConfig(), 1e9, 1e9) == ""
    assert reached(budget, 2.0, 0.0).startswith("budget.max_usd = 2 is reached (2 USD)")
    assert reached(budget, 0.0, 3.5).startswith("budget.max_hours = 3 is reached (3.5 hours)")


def test_a_run_stops_at_its_budget_and_goes_on_with_a_higher_one(home: Home, console: Console) -> None:
    def graph(cfg: Any, life: Graph) -> None:
        train.submit(life, steps=60, pause=0.1)

    def once_a_state_is_there(budget: BudgetConfig, usd: float, hours: float) -> str:  # however slow the machine is
        return reached(budget, usd, hours) if list(home.local.glob("scratch/*/step-*.json")) else ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flows.runs.run.check_budget", lambda made, budget: None)  # as an estimate that was too low
        patch.setattr("flows.runs.run.reached", once_a_state_is_there)
        stopped = run(graph, home, console, ToyConfig(compute=DEAR, budget=BudgetConfig(max_usd=1e-6)))
    assert stopped.status == "interrupted"
    assert any("budget.max_usd" in warning and "is reached" in warning for warning in stopped.warnings)
    resumed = run(graph, home, console, ToyConfig(compute=DEAR))
    assert resumed.outcomes["train"].artifact.facts["resumed_at"] > 0
    assert resumed.outcomes["train"].artifact.facts["w"] == sum(range(60))


def test_an_estimate_is_scored_when_the_run_has_ended(home: Home, console: Console) -> None:
    run(toy_graph, home, console, INLINE)
    second = run(toy_graph, home, console, ToyConfig(seed=1, compute=INLINE.compute))
    rows = {
        row["target"]: row
        for row in query(home, f"FROM forecasts WHERE run_id = '{second.run_id}' AND sweep = 'cost'").to_pylist()
    }
    costs = {
        row["label"]: row["usd"] for row in query(home, "FROM costs").to_pylist() if row["run_id"] == second.run_id
    }
    assert rows["usd of count"]["method"] in ("past", "alike")
    assert rows["usd of count"]["observed"] == costs["count"]
    assert rows["usd of the run"]["observed"] == pytest.approx(math.fsum(costs.values()))
    assert rows["hours of the run"]["observed"] > 0


def test_a_stage_that_tells_nothing_is_booked_by_the_clock(home: Home, console: Console) -> None:
    def graph(cfg: Any, life: Graph) -> None:
        count.submit(life, config=Counting(1, pause=30.0))

    import _thread

    def stop() -> None:
        while not any(b["under_way"] for b in running(home).values()):
            time.sleep(0.1)
        _thread.interrupt_main()

    threading.Thread(target=stop, daemon=True).start()
    result = run(
        graph, home, console, ToyConfig(compute=ComputeConfig(workers=1, usd_per_core_hour=3600.0, grace_seconds=0.2))
    )
    assert result.status == "interrupted"
    row = one(home, "FROM waste")
    assert row["outcome"] == "interrupted" and row["cpu_seconds"] > 0
    assert row["usd"] == pytest.approx(row["cpu_seconds"])


@pytest.mark.parametrize("name", ["bill.csv", "bill.parquet"])
def test_the_exported_bill_is_the_ledger(home: Home, console: Console, tmp_path: Path, name: str) -> None:
    import pyarrow.csv as pacsv
    import pyarrow.parquet as pq
    from typer.testing import CliRunner

    from flows.commands.cli import app

    assert CliRunner().invoke(app, ["costs", "export", str(tmp_path / name)]).exit_code == 2  # nothing was booked yet
    run(toy_graph, home, console, INLINE)
    done = CliRunner().invoke(app, ["costs", "export", str(tmp_path / name)])
    assert done.exit_code == 0, done.output
    file = tmp_path / name
    bill = (pacsv.read_csv(file) if name.endswith("csv") else pq.read_table(file)).to_pylist()
    assert sum(row["BilledCost"] for row in bill) == pytest.approx(one(home, "SELECT sum(usd) AS u FROM ledger")["u"])
    assert {json.loads(row["Tags"])["team"] for row in bill} == {"red"}
    assert {row["ConsumedUnit"] for row in bill} == {"Core-Hours"}
    shown = CliRunner().invoke(app, ["costs", "show", "--by", "tag"])
    assert shown.exit_code == 0 and "red" in shown.output
    wrong = CliRunner().invoke(app, ["costs", "show", "--by", "teem"])
    assert wrong.exit_code == 2 and wrong.output.count("\n") == 1
