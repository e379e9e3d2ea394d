"""The pool: order, death, user mistakes, a quick end."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toy_life import Counting, count, scale, train, train_long

from flows.engine.graph import Graph
from flows.engine.wire import Job, arrived, travelling
from flows.engine.workers import Interrupted, StageFailed, WorkerPool
from flows.settings import ComputeConfig
from storage.home import Home


@pytest.fixture
def heard() -> queue.SimpleQueue[tuple[str, dict[str, Any]]]:
    return queue.SimpleQueue()


@pytest.fixture
def pool(home: Home, heard: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> Iterator[WorkerPool]:
    logs = home.local / "logs" / "x"
    pool = WorkerPool(1, 1, logs, home.local / "cache", lambda job, event: heard.put((job.label, event)))
    yield pool
    pool.close()
    assert pool.pids() == []


def job(home: Home, stage: Any, label: str = "", **arguments: Any) -> Job:
    run = Graph()
    stage.submit(run, label=label or stage.name, **arguments)
    (node,) = run.nodes.values()
    return node.job("r1", home, ComputeConfig(), {})


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_job_is_executed_and_sealed_in_another_process(pool: WorkerPool, home: Home, heard: Any) -> None:
    artifact = pool.submit(job(home, count, config=Counting(5)), 0).result(30)
    assert artifact == home.store.find(artifact.key)
    assert (home.store.path(artifact) / "numbers.json").read_text() == "[0, 1, 2, 3, 4]"
    assert artifact.facts["num_tokens"] == 5
    assert home.tables.read("metrics", ["step", "value"]).to_pylist() == [
        {"step": n, "value": float(n)} for n in range(5)
    ]
    (cost,) = home.tables.read("costs").to_pylist()
    assert (cost["tokens"], cost["flops"], cost["group"], cost["key"]) == (5, 10.0, "data", artifact.key)
    events = [heard.get() for _ in range(heard.qsize())]
    assert events[0] == ("count", {"event": "started"})
    assert events[-1][1]["done"] == events[-1][1]["total"] == 5.0
    assert not home.scratch(artifact.key).exists() or not any(home.scratch(artifact.key).iterdir())


def test_higher_priority_goes_first(pool: WorkerPool, home: Home, heard: Any) -> None:
    blocker = pool.submit(job(home, count, config=Counting(3, 0.3)), 9.0)
    while heard.get()[1]["event"] != "started":
        pass
    futures = [pool.submit(job(home, count, f"p{p}", config=Counting(1), seed=p), float(p)) for p in (1, 3, 2)]
    for future in [blocker, *futures]:
        future.result(30)
    started = [label for label, event in (heard.get() for _ in range(heard.qsize())) if event["event"] == "started"]
    assert started == ["p3", "p2", "p1"]


@pytest.mark.parametrize(("mode", "how"), [("kill", "SIGKILL"), ("segv", "SIGSEGV")])
def test_a_dying_worker_fails_its_stage_alone_and_the_stage_resumes(
    pool: WorkerPool, home: Home, tmp_path: Path, mode: str, how: str
) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    work = job(home, train, steps=6, fuse=str(fuse), mode=mode)
    with pytest.raises(StageFailed, match=f"train failed: its worker process was ended by {how}") as caught:
        pool.submit(work, 0).result(60)
    if mode == "segv":
        assert "about to crash" in str(caught.value)
    artifact = pool.submit(work, 0).result(60)  # a new worker took the place
    assert artifact.facts["w"] == 15.0
    assert artifact.facts["resumed_at"] == 3
    assert artifact.facts["usage"]["tokens"] == 6
    steps = home.tables.read("metrics", ["step"]).column("step").to_pylist()
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_user_mistake_is_one_line_and_a_bug_has_its_type(pool: WorkerPool, home: Home, tmp_path: Path) -> None:
    fuse = tmp_path / "fuse"
    fuse.touch()
    with pytest.raises(StageFailed) as caught:
        pool.submit(job(home, train, steps=2, fuse=str(fuse), mode="value"), 0).result(60)
    text = str(caught.value)
    assert text.startswith("train failed: line 3 of stories.jsonl is not JSON: fix it or set data.skip_broken=true")
    assert "\n" not in text
    fuse.touch()
    with pytest.raises(StageFailed, match="train failed: RuntimeError: a bug") as caught:
        pool.submit(job(home, train, steps=2, fuse=str(fuse)), 0).result(60)
    assert "toy_life.py" in caught.value.error["traceback"]
    assert caught.value.log is not None
    assert "RuntimeError: a bug" in caught.value.log.read_text()


def test_code_that_was_edited_meanwhile_is_not_sealed_under_the_old_key(pool: WorkerPool, home: Home) -> None:
    work = job(home, count, config=Counting(2))
    older = replace(work, code=dict.fromkeys(work.code, "0" * 64))
    with pytest.raises(StageFailed, match=r"toy_life:count.* was edited since the run began: run again"):
        pool.submit(older, 0).result(60)
    assert home.store.find(work.key) is None


def test_closing_ends_workers_within_seconds(home: Home) -> None:
    pool = WorkerPool(1, 1, home.local / "logs" / "x", home.local / "cache", lambda job, event: started.put(event))
    started: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    running = pool.submit(job(home, count, config=Counting(100, 1.0)), 0)
    waiting = pool.submit(job(home, count, "later", config=Counting(2)), 0)
    started.get(timeout=30)
    (pid,) = pool.pids()
    before = time.monotonic()
    pool.close()
    assert time.monotonic() - before < 4
    for future in (running, waiting):
        with pytest.raises(Interrupted):
            future.result(0)
    assert gone(pid)


def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = f"""
import sys, time
sys.path[:0] = {sys.path!r}
from pathlib import Path
from flows.engine.workers import WorkerPool
pool = WorkerPool(1, 1, Path({str(tmp_path)!r}), Path({str(tmp_path)!r}), lambda job, event: None)
while not pool.pids():
    time.sleep(0.05)
time.sleep(0.5)
print(pool.pids()[0], flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    worker = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(worker)


def test_settings_survive_the_trip() -> None:
    value = Counting(7, 0.1 + 0.2)
    assert arrived("config", travelling(value), Counting) == value
    assert arrived("sizes", travelling((1, 2)), tuple[int, ...]) == (1, 2)
    with pytest.raises(TypeError, match="parameter n"):
        arrived("n", "3", int)


def test_rows_for_an_unknown_table_are_refused(home: Home, tmp_path: Path) -> None:
    from flows.engine.jobs import write_rows
    from flows.engine.work import Work

    work = Work(tmp_path, tmp_path)
    work.rows("evil", [{"x": 1}])
    with pytest.raises(ValueError, match="wrote rows for 'evil'; tables: runs"):
        write_rows(home, scale, job(home, count, config=Counting()), work, work.spent(), ComputeConfig())


@pytest.mark.parametrize("whom", ["pool", "worker"])
def test_a_stage_that_is_asked_to_end_saves_its_state_first(
    pool: WorkerPool, home: Home, heard: queue.SimpleQueue[tuple[str, dict[str, Any]]], whom: str
) -> None:
    task = job(home, train_long, steps=400)  # 8 s, and a state is due every 20
    future = pool.submit(task, 0)
    while heard.get(timeout=30)[1]["event"] != "progress":
        pass
    if whom == "pool":
        pool.close()
        with pytest.raises(Interrupted):
            future.result(10)
        pool = WorkerPool(1, 1, home.local / "logs" / "y", home.local / "cache", lambda job, event: None)
    else:
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGTERM)  # as a scheduler of machines does
        with pytest.raises(StageFailed, match="ended by SIGTERM") as caught:
            future.result(10)
        assert caught.value.error["transient"]  # so it is tried again
    try:
        artifact = pool.submit(task, 0).result(30)
        assert artifact.facts["resumed_at"] >= 20
        steps = home.tables.read("metrics", ["step"]).column("step").to_pylist()
        assert sorted(steps) == list(range(1, 401))
    finally:
        pool.close()
