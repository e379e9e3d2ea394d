"""The doctor finds each illness that it knows, and nothing in a healthy home."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import toy_life
from rich.console import Console
from toy_run import run_assembly
from typer.testing import CliRunner

from flows.commands.cli import app
from flows.engine.graph import Graph
from flows.runs import health
from flows.runs.run import RunResult
from flows.services import services
from flows.settings import ComputeConfig
from storage.home import Home


def levels(home: Home, **options: bool) -> dict[str, str]:
    return {finding.what: finding.level for finding in health.examine(home, **options)}


def bad(home: Home, **options: bool) -> list[str]:
    return [what for what, level in levels(home, **options).items() if level == "bad"]


def live(home: Home, console: Console, graph: Any = toy_life.toy_graph) -> RunResult:
    cfg = toy_life.ToyConfig(compute=ComputeConfig(workers=0))
    return run_assembly(graph, cfg, home=home, console=console, prefect=False, mlflow=False)


def test_a_healthy_home_has_nothing_bad(home: Home, console: Console) -> None:
    live(home, console)
    assert bad(home, deep=True) == []
    assert any("4 artifacts" in what for what in levels(home, deep=True))


def test_known_bad_versions_are_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.3" if name == "sqlalchemy" else real(name))
    found = bad(home)
    assert any("creates no runs" in what for what in found)


def test_a_full_disk_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    assert any("GB free" in what for what in bad(home))


def test_a_taken_port_is_a_note(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(health, "MLFLOW_PORT", port)
        assert levels(home)[f"port {port} is in use"] == "note"


def test_a_home_that_cannot_be_written_is_told_and_nothing_else_goes_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIFESPAN_HOME", str(tmp_path / "file" / "home"))
    done = CliRunner().invoke(app, ["doctor", "--mend"])
    assert done.exit_code == 1
    assert "home is not writable: Not a directory" in done.stdout
    assert done.stderr == ""


def test_damage_is_found_only_when_it_looks_deep(home: Home, console: Console) -> None:
    live(home, console)
    (file, *_) = (Path(home.root) / "artifacts").glob("??/*/numbers.json")
    file.write_text(file.read_text().replace("0", "7", 1))
    assert bad(Home(home.root)) == []
    (found,) = bad(Home(home.root), deep=True)
    assert "numbers.json" in found


def test_what_a_killed_run_left_is_told_and_mended(home: Home) -> None:
    (home.local / "running" / "r1").mkdir(parents=True)
    left = Path(home.root) / "artifacts" / ".tmp"
    left.mkdir(parents=True)
    (left / "x.lock").touch()
    (left / "x").mkdir()
    (home.scratch("a" * 64) / "step-1.json").touch()
    found = levels(home)
    assert found["killed runs: r1"] == "note"
    assert found["1 temporary folders of killed stages"] == "note"
    assert found["1 unfinished stages have a saved state"] == "note"
    assert "marked as interrupted: r1" in levels(home, mend=True)
    assert not (left / "x").exists()
    assert home.tables.read("runs", ["run_id", "status"]).to_pylist() == [{"run_id": "r1", "status": "interrupted"}]
    assert "killed runs: r1" not in levels(home)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_orphaned_process_is_found_and_ended(home: Home) -> None:
    # Looks like a worker of a parent that is not its parent any more.
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "flows.engine.worker"],
        env={**os.environ, "LIFESPAN_PARENT": "1"},
    )
    try:
        deadline = time.monotonic() + 5
        while orphan.pid not in dict(health.orphaned_processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any(f"orphaned process {orphan.pid}" in what for what in bad(home))
        assert list(health.orphans(mend=False))
        os.kill(orphan.pid, signal.SIGKILL)
    finally:
        orphan.wait()
    assert orphan.pid not in dict(health.orphaned_processes())


def test_a_damaged_table_file_is_named_and_set_aside(home: Home, console: Console) -> None:
    live(home, console)
    part = sorted(home.tables.path("costs").glob("*.parquet"))[0]
    whole = part.stat().st_size
    part.write_bytes(part.read_bytes()[: whole // 2])
    asked = CliRunner().invoke(app, ["query", "SELECT count(*) AS n FROM costs"])
    assert asked.exit_code == 2
    assert str(part) in asked.stderr and "doctor --mend" in asked.stderr and "Traceback" not in asked.output
    assert [what for what in bad(home) if str(part) in what]
    assert any("was moved to" in what for what in levels(home, mend=True))
    assert bad(home) == []
    (aside,) = (Path(home.tables.url) / "damaged").iterdir()
    assert aside.stat().st_size == whole // 2 and not part.exists()
    asked = CliRunner().invoke(app, ["query", "SELECT count(*) AS n FROM costs", "--format", "csv"])
    assert asked.output.split() == ["n", "3"]

    # The rows come back with the next run, which makes their stage again and takes the rest as it is.
    again = live(home, console)
    assert sorted(outcome.status for outcome in again.outcomes.values()) == ["cached", "cached", "cached", "ran"]
    assert home.tables.read("costs").num_rows == 4


@pytest.mark.parametrize("table", ["costs", "metrics"])
def test_rows_that_are_lost_are_written_again(home: Home, console: Console, table: str) -> None:
    def graph(cfg: toy_life.ToyConfig, life: Graph) -> None:
        toy_life.train.submit(life, steps=3)
        toy_life.count.submit(life, config=toy_life.Counting(2))

    first = live(home, console, graph)
    kept = {key: value.artifact for key, value in first.outcomes.items()}
    before = home.tables.read(table).num_rows
    part = sorted(home.tables.path(table).glob("*.parquet"))[0]
    if table == "costs":
        part.unlink()  # by a hand, or a copy that broke off
        (what,) = bad(home)
        assert part.stem in what and "are missing in the tables" in what
    else:
        part.write_bytes(b"")
    list(health.examine(home, mend=True))
    assert bad(home) == []
    again = live(home, console, graph)
    assert [label for label, outcome in again.outcomes.items() if outcome.status == "ran"] == [
        label for label, artifact in kept.items() if artifact.key == part.stem
    ]
    assert home.tables.read(table).num_rows == before


def test_a_folder_that_was_never_sealed_is_set_aside(home: Home, console: Console) -> None:
    live(home, console)
    key = "ab" * 32
    (Path(home.root) / "artifacts" / "ab" / key).mkdir(parents=True)
    assert bad(home) == [f"artifact {key} was never sealed"]
    list(health.examine(home, mend=True))
    assert bad(home) == []


def test_services_that_are_down_or_keep_ending_are_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    own, gone = os.getpid(), 2**22 + 1
    group = services.Running(
        own,
        (
            services.Service("Prefect", "http://127.0.0.1:9", own),
            services.Service("worker", "", own, restarts=health.MANY_RESTARTS),
            services.Service("MLflow", "", gone, restarts=1),
            services.Service("another", "", own, restarts=1),
        ),
        "http://127.0.0.1:9/api",
    )
    found = {finding.what: finding for finding in health.running_services(home, group)}
    assert [finding.level for finding in found.values()] == ["bad", "bad", "bad", "ok"]
    assert "Prefect at http://127.0.0.1:9 is down" in found
    assert "worker.log" in found["worker keeps exiting, restarted 3 times"].advice
    assert "mlflow-ui.log" in found["MLflow is down, restarted 1 times"].advice
    (home.local / "services.json").parent.mkdir(parents=True, exist_ok=True)
    (home.local / "services.json").write_text("{}")  # its lock is free
    assert levels(home)["the services of `lifespan up` were killed"] == "note"


def test_what_mlflow_lacks_is_told_and_brought_up_to_date(home: Home) -> None:
    from storage import tracker

    def lived(run_id: str, status: str) -> None:
        row = {"run_id": run_id, "event": "ended", "status": status, "profile": "p", "time": datetime.now(UTC)}
        home.tables.write("runs", f"{run_id}-started", [{**row, "event": "started", "status": "running"}])
        home.tables.write("runs", f"{run_id}-ended", [row])

    lived("r1", "completed")
    assert not [what for what in levels(home) if "MLflow" in what and "port" not in what]  # there is none yet
    assert tracker.sync(home).runs == 1
    assert levels(home)["MLflow is up to date with the tables"] == "ok"
    lived("r2", "completed")
    lived("r1", "failed")
    told = "MLflow is missing or behind on 2 runs: r2, r1"
    assert levels(home)[told] == "bad"
    assert levels(home, mend=True)["2 runs were brought up to date in MLflow: r2, r1"] == "ok"
    assert levels(home)["MLflow is up to date with the tables"] == "ok"
