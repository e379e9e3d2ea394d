"""What a run lives through: killed trainers, stages that hang, a disk that cannot be written, a clock that jumps, a
server that dies; and what `lifespan gc` leaves alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy_life import Counting, ToyConfig, count, scale, total, toy_graph, train
from toy_run import run_assembly

from flows.engine.graph import Graph
from flows.runs import run as runs
from flows.runs.removal import RunInProgress, removable
from flows.runs.run import RunResult
from flows.settings import ComputeConfig
from storage.home import Home
from storage.queries import query

WORKERS = ToyConfig(compute=ComputeConfig(workers=1))
INLINE = ToyConfig(compute=ComputeConfig(workers=0))


def run(graph: Any, home: Home, console: Console, cfg: ToyConfig = WORKERS, **options: Any) -> RunResult:
    return run_assembly(graph, cfg, home=home, console=console, prefect=False, mlflow=False, **options)


def test_a_trainer_that_is_killed_is_started_again_and_goes_on(home: Home, console: Console, tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()

    def graph(cfg: ToyConfig, life: Graph) -> None:
        total.submit(life, parts=[scale.submit(life, numbers=count.submit(life, config=Counting(2)), factor=1.0)])
        train.submit(life, steps=6, fuse=str(fuse), mode="kill")

    result = run(graph, home, console)
    assert result.status == "completed"
    assert result.outcomes["train"].artifact.facts["w"] == 15.0
    assert result.outcomes["train"].artifact.facts["resumed_at"] == 3
    assert "ended by SIGKILL" in console.file.getvalue()  # type: ignore[attr-defined]
    rows = query(home, "SELECT step FROM metrics WHERE stage = 'train' ORDER BY step").to_pylist()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]  # none lost, none twice


def test_a_bug_is_not_tried_again(home: Home, console: Console, tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    result = run(lambda cfg, life: train.submit(life, steps=2, fuse=str(fuse), mode="bug"), home, console)
    assert list(result.failures) == ["train"]  # with the fuse gone, a second attempt would have succeeded


def test_a_stage_that_takes_too_long_is_ended(home: Home, console: Console) -> None:
    cfg = ToyConfig(compute=ComputeConfig(workers=1, stage_timeout_seconds=1.5))
    began = time.monotonic()
    result = run(lambda cfg, life: count.submit(life, config=Counting(1000, pause=0.1)), home, console, cfg)
    assert "ran longer than compute.stage_timeout_seconds = 1.5" in result.failures["count"]
    assert time.monotonic() - began < 60


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a read-only disk takes root")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_home_that_cannot_be_written_is_one_clear_error(read_only: Path) -> None:
    program = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", program, "run", "smoke"],
        env={**os.environ, "LIFESPAN_HOME": str(read_only / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr
    assert str(read_only) in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_the_newest_run_stays_the_newest_when_the_clock_is_set_back(
    home: Home, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(toy_graph, home, console, INLINE)
    monkeypatch.setattr(runs, "now", lambda: datetime.now(UTC) - timedelta(days=400))
    second = run(toy_graph, home, console, INLINE)
    assert query(home, "SELECT run_id FROM current_run").to_pylist() == [{"run_id": second.run_id}]
    (row,) = query(home, "SELECT status, seconds FROM current_run").to_pylist()
    assert row["status"] == "completed"
    assert row["seconds"] > 0


def test_gc_shows_and_removes_what_no_kept_run_needs(home: Home, console: Console) -> None:
    run(toy_graph, home, console, INLINE, profile="toy")
    other = ToyConfig(seed=5, compute=ComputeConfig(workers=0))
    second = run(toy_graph, home, console, other, profile="toy")
    found = list(removable(home, keep=1))
    assert len([thing for thing in found if " of " in thing.what]) == 4  # the first run's, none of the second's
    assert list(removable(home, keep=2)) == []
    for thing in found:
        thing.remove()
    assert list(removable(home, keep=1)) == []
    again = run(toy_graph, home, console, other, profile="toy")
    assert {o.status for o in again.outcomes.values()} == {"cached"}
    assert {o.artifact.key for o in again.outcomes.values()} == {o.artifact.key for o in second.outcomes.values()}
    rebuilt = run(toy_graph, home, console, INLINE, profile="toy")
    assert {o.status for o in rebuilt.outcomes.values()} == {"ran"}


def test_gc_waits_for_a_run_that_goes_on(home: Home, console: Console) -> None:
    refused: list[str] = []

    def graph(cfg: ToyConfig, life: Graph) -> None:
        count.submit(life, config=Counting(2))
        try:
            list(removable(home, keep=1))
        except RunInProgress as error:
            refused.append(str(error))

    with home.lock("run-alive"):
        (home.local / "running" / "alive").mkdir(parents=True)
        graph(INLINE, Graph())
    assert refused == ["run alive is in progress in this home: wait until it ends, or stop it first"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the server in /proc")
def test_a_prefect_server_that_is_killed_costs_the_run_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    program = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", "smoke", "--only", "pretrain", "--set", "pretrain.num_steps=1500"],
        env={**environment, "LIFESPAN_HOME": str(home), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    killed = threading.Event()

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed.is_set():
            for entry in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    command = entry.read_bytes()
                    children = f"LIFESPAN_PARENT={process.pid}".encode() in (entry.parent / "environ").read_bytes()
                except OSError:
                    continue
                if b"prefect_app" in command and children and (home / "running").is_dir():
                    os.kill(int(entry.parent.name), signal.SIGKILL)
                    killed.set()
            time.sleep(0.2)

    thread = threading.Thread(target=kill)
    thread.start()
    out, _ = process.communicate(timeout=300)
    was_killed = killed.is_set()
    killed.set()
    thread.join()
    assert was_killed, f"the run ended before Prefect's server was up:\n{out}"
    assert process.returncode == 0, out
    assert "completed: 4 ran" in out
    assert "warning: Prefect" in out
