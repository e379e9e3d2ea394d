"""Whole runs of toy stages without Prefect and MLflow: the cache, reasons, failures, damage, two at once, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy_life import Counting, ToyConfig, count, scale, total, toy_graph, train
from toy_run import run_assembly

from flows.engine.graph import Graph, assemble
from flows.engine.plan import plan
from flows.runs.history import recent_runs
from flows.runs.registry import close_dead_runs, running
from flows.runs.run import RunResult
from flows.runs.start import terminable
from flows.settings import ComputeConfig
from storage.home import Home

HERE = ToyConfig(compute=ComputeConfig(workers=0))


def run(graph: Any, home: Home, console: Console, cfg: ToyConfig = HERE, **options: Any) -> RunResult:
    return run_assembly(graph, cfg, home=home, console=console, prefect=False, mlflow=False, **options)


def statuses(result: RunResult) -> dict[str, str]:
    return {label: outcome.status for label, outcome in result.outcomes.items()}


def test_a_run_merges_what_has_become_many_small_files(
    home: Home, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(toy_graph, home, console)
    parts = len(home.tables.layout("stages").parts)
    assert parts >= 4
    monkeypatch.setattr("flows.runs.run.MANY_PARTS", parts)
    run(toy_graph, home, console)
    assert (len(home.tables.layout("stages").parts), home.tables.read("stages").num_rows) == (0, 8)


def test_a_second_run_is_all_cached_and_the_rows_tell(home: Home, console: Console) -> None:
    first = run(toy_graph, home, console, profile="toy")
    assert first.status == "completed"
    assert set(statuses(first).values()) == {"ran"}
    assert first.outcomes["total"].artifact.facts["total"] == 9.0

    second = run(toy_graph, home, console, profile="toy")
    assert set(statuses(second).values()) == {"cached"}
    assert [o.artifact for o in second.outcomes.values()] == [o.artifact for o in first.outcomes.values()]

    rows = home.tables.read("stages").to_pylist()
    assert len(rows) == 8
    assert {(row["label"], row["key"]) for row in rows if row["run_id"] == first.run_id} == {
        (row["label"], row["key"]) for row in rows if row["run_id"] == second.run_id
    }
    assert home.tables.read("costs").num_rows == 4  # a cached stage cost nothing anew
    one = next(row for row in rows if row["label"] == "scale[factor=2.0]" and row["status"] == "ran")
    assert json.loads(one["config_json"]) == {"factor": 2.0}
    assert json.loads(one["inputs_json"]) == {"numbers": first.outcomes["count"].artifact.key}
    assert one["reason"] == "it never ran before"
    assert [(r["run_id"], r["status"], r["ran"], r["cached"]) for r in recent_runs(home)] == [
        (second.run_id, "completed", 0, 4),
        (first.run_id, "completed", 4, 0),
    ]


def test_a_changed_setting_runs_what_follows_and_nothing_before(home: Home, console: Console) -> None:
    def graph(cfg: ToyConfig, run: Graph) -> None:
        numbers = count.submit(run, config=Counting(3))
        small = scale.submit(run, label="small", numbers=numbers, factor=1.0)
        big = scale.submit(run, label="big", numbers=numbers, factor=float(10 + cfg.seed))
        total.submit(run, parts=[small, big])

    run(graph, home, console)
    changed = HERE.model_copy(update={"seed": 5})
    steps = {step.label: step for step in plan(assemble(graph, changed), home)}
    assert [label for label, step in steps.items() if step.cached] == ["count", "small"]
    assert steps["big"].reasons == ("factor: 10.0 -> 15.0",)
    assert steps["total"].reasons == ("input parts: big runs again",)
    result = run(graph, home, console, changed)
    assert statuses(result) == {"count": "cached", "small": "cached", "big": "ran", "total": "ran"}
    assert result.outcomes["big"].reason == "factor: 10.0 -> 15.0"
    assert all(step.cached for step in plan(assemble(graph, changed), home))


def test_a_failure_takes_its_dependants_alone(home: Home, console: Console, tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()

    def graph(cfg: ToyConfig, run: Graph) -> None:
        broken = train.submit(run, steps=2, fuse=str(fuse), mode="value")
        total.submit(run, parts=[broken])
        scale.submit(run, numbers=count.submit(run, config=Counting(2)), factor=1.0)

    result = run(graph, home, console)
    assert result.status == "failed"
    assert statuses(result) == {"count": "ran", "scale": "ran"}
    assert list(result.failures) == ["train"]
    assert result.failures["train"].startswith("train failed: line 3 of stories.jsonl")
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "total: skipped: total needs train, which failed" in shown
    (row,) = [row for row in home.tables.read("stages").to_pylist() if row["status"] == "failed"]
    assert "stories.jsonl" in row["reason"]


def test_a_damaged_input_is_rebuilt_on_the_way(home: Home, console: Console) -> None:
    result = run(toy_graph, home, console)
    numbers = home.store.path(result.outcomes["count"].artifact) / "numbers.json"
    numbers.write_text("[0, 1, 9]")  # same size: only the checksum tells

    def more(cfg: ToyConfig, run: Graph) -> None:
        scale.submit(run, numbers=count.submit(run, config=Counting(3)), factor=7.0)

    again = run(more, Home(home.root), console)
    assert again.status == "completed", again.failures
    assert again.outcomes["scale"].artifact.facts["total"] == 21.0
    assert list((Path(home.root) / "artifacts" / "damaged").iterdir())


def test_workers_run_branches_side_by_side(home: Home, console: Console) -> None:
    def graph(cfg: ToyConfig, run: Graph) -> None:
        for n in range(2):
            count.submit(run, label=f"count{n}", config=Counting(2, 0.5), seed=n)

    result = run(graph, home, console, ToyConfig(compute=ComputeConfig(workers=2)))
    rows = home.tables.read("stages").to_pylist()
    assert result.status == "completed"
    ended = [row["ended_at"] for row in rows]
    assert abs((ended[0] - ended[1]).total_seconds()) < 0.9  # one after the other: 1 s apart


def test_waiting_for_a_worker_is_no_part_of_a_stages_time(home: Home, console: Console) -> None:
    def graph(cfg: ToyConfig, run: Graph) -> None:
        for n in range(3):
            count.submit(run, label=f"count{n}", config=Counting(2, 0.2), seed=n)

    run(graph, home, console, ToyConfig(compute=ComputeConfig(workers=1)))
    first, second, third = home.tables.read("stages").sort_by("started_at").to_pylist()
    assert first["ended_at"] <= second["started_at"] and second["ended_at"] <= third["started_at"]
    for row in (first, second, third):
        assert row["seconds"] == pytest.approx((row["ended_at"] - row["started_at"]).total_seconds(), abs=0.1)


def test_two_runs_at_once_make_each_artifact_once(home: Home) -> None:
    def graph(cfg: ToyConfig, run: Graph) -> None:
        scale.submit(run, numbers=count.submit(run, config=Counting(4, 0.2)), factor=1.0)

    results: list[RunResult] = []
    threads = [
        threading.Thread(target=lambda: results.append(run(graph, Home(home.root), Console(file=StringIO()))))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [result.status for result in results] == ["completed", "completed"]
    made = sorted(statuses(result)[label] for result in results for label in ("count", "scale"))
    assert made == ["cached", "cached", "ran", "ran"]
    assert results[0].outcomes["scale"].artifact == results[1].outcomes["scale"].artifact


SCRIPT = """
import sys
sys.path[:0] = {path!r}
from rich.console import Console
from toy_life import count, scale, train, Counting, ToyConfig
from flows.settings import ComputeConfig
from toy_run import run_assembly
def graph(cfg, run):
    scale.submit(run, numbers=count.submit(run, config=Counting(2)), factor=1.0)
    train.submit(run, steps=200, pause=0.05, priority=0.0)
result = run_assembly(graph, ToyConfig(compute=ComputeConfig(workers=1)), prefect=False, mlflow=False)
print("ENDED", result.status)
"""


def start_long_run(home: Home) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(path=sys.path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "LIFESPAN_HOME": home.root},
        start_new_session=True,
    )
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:  # until the long stage has saved states
        if list((home.local / "scratch").glob("*/step-*5.json")):
            return process
        time.sleep(0.1)
    process.kill()
    pytest.fail("the run did not get to its long stage")


def finish(home: Home, console: Console) -> RunResult:
    def graph(cfg: ToyConfig, run: Graph) -> None:
        scale.submit(run, numbers=count.submit(run, config=Counting(2)), factor=1.0)
        train.submit(run, steps=200, pause=0.05, priority=0.0)

    import toy_life

    # The pause is identity here; keep it, but do not wait for it.
    before, toy_life.time = toy_life.time, type("quick", (), {"sleep": staticmethod(lambda seconds: None)})  # type: ignore[assignment]
    try:
        return run(graph, home, console)
    finally:
        toy_life.time = before


def test_ctrl_c_ends_within_seconds_and_the_next_run_goes_on(home: Home, console: Console) -> None:
    process = start_long_run(home)
    board = running(home)
    assert [row["label"] for row in next(iter(board.values()))["stages"]] == ["count", "scale", "train"]
    began = time.monotonic()
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=15)
    assert time.monotonic() - began < 6
    assert "ENDED interrupted" in out
    assert running(home) == {}
    (interrupted,) = recent_runs(home)
    assert interrupted["status"] == "interrupted"

    result = finish(home, console)
    assert statuses(result) == {"count": "cached", "scale": "cached", "train": "ran"}
    train_facts = result.outcomes["train"].artifact.facts
    assert train_facts["w"] == sum(range(200))
    assert train_facts["resumed_at"] >= 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_requests_to_end_are_as_ctrl_c(number: int) -> None:
    before = signal.getsignal(number)

    def wait_to_be_told() -> None:
        with terminable():
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        wait_to_be_told()
    assert signal.getsignal(number) is before


def test_a_killed_run_is_closed_by_the_next_and_loses_no_row(home: Home, console: Console) -> None:
    process = start_long_run(home)
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()
    result = finish(home, console)
    assert statuses(result) == {"count": "cached", "scale": "cached", "train": "ran"}
    assert result.outcomes["train"].artifact.facts["w"] == sum(range(200))
    assert {row["run_id"]: row["status"] for row in recent_runs(home)}[result.run_id] == "completed"
    assert sorted(row["status"] for row in recent_runs(home)) == ["completed", "interrupted"]
    metrics = home.tables.read("metrics", ["stage", "step"]).to_pylist()
    assert sorted(row["step"] for row in metrics if row["stage"] == "train") == list(range(1, 201))
    assert close_dead_runs(home) == []


def test_a_mistake_in_an_assembly_leaves_no_run_behind(home: Home, console: Console) -> None:
    def graph(cfg: ToyConfig, run: Graph) -> None:
        count.submit(run, config=Counting(), sed=3)

    with pytest.raises(TypeError, match="'sed'"):
        run(graph, home, console)
    assert running(home) == {}
    assert home.tables.read("runs").num_rows == 0
