"""A life whose home is in an object store: what it costs in requests, and two runs that share it."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from s3_server import S3, s3_server
from toy_life import train

from flows.config import load_config
from flows.engine.graph import Graph
from flows.engine.progress import Board
from flows.engine.runner import Runner
from flows.engine.work import Work
from flows.lifecycle import run_lifecycle
from flows.settings import ComputeConfig
from storage.home import Home
from storage.remote import RemoteStore
from storage.remote_state import RemoteState

LIFE, CACHED_LIFE = 1500, 300  # requests


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with pytest.MonkeyPatch.context() as patch, s3_server(tmp_path_factory.mktemp("s3"), patch) as found:
        yield found


@pytest.mark.slow
def test_what_a_life_and_its_cached_rerun_cost_in_requests(server: S3, tmp_path: Path) -> None:
    cfg = load_config("smoke")

    def live() -> tuple[str, dict[str, str], int]:
        home = Home(f"{server.url}/{tmp_path.name}/home", local=tmp_path / "local")
        console = Console(file=StringIO(), width=160)
        ended = run_lifecycle(cfg, home=home, console=console, profile="smoke", prefect=False, mlflow=False)
        statuses = {label: outcome.status for label, outcome in ended.outcomes.items()}
        assert ended.failures == {}
        assert not [warning for warning in ended.warnings if "report" in warning], ended.warnings
        count = server.requests()
        print(f"{ended.summary}: {count.total()} requests {dict(count)}")
        return ended.status, statuses, count.total()

    server.requests()
    status, statuses, requests = live()
    assert (status, set(statuses.values())) == ("completed", {"ran"})
    assert requests <= LIFE
    status, statuses, requests = live()
    assert (status, set(statuses.values())) == ("completed", {"cached"})
    assert requests <= CACHED_LIFE


def graph() -> Graph:
    graph = Graph(ComputeConfig())
    train.submit(graph, label="a", steps=6, pause=0.2)
    train.submit(graph, label="b", steps=7, pause=0.2)
    return graph


def test_two_machines_that_run_the_same_in_one_store_do_the_work_once(server: S3, tmp_path: Path) -> None:
    runners = [
        Runner(
            graph(),
            Home(
                f"{server.url}/{tmp_path.name}/home", local=tmp_path / f"machine{number}"
            ),  # locks on a disk of its own
            f"r{number}",
            ComputeConfig(workers=1),
            Board("toy"),
            "toy",
        )
        for number in (1, 2)
    ]
    for runner in runners:
        runner.start()
    made = [runner.wait(label, 120) for runner in runners for label in ("a", "b")]
    assert sorted(outcome.status for outcome in made) == ["cached", "cached", "ran", "ran"]
    assert len({outcome.artifact for outcome in made}) == 2
    home = Home(f"{server.url}/{tmp_path.name}/home", local=tmp_path / "reader")
    assert home.tables.read("metrics", ["step"]).num_rows == 6 + 7
    for runner in runners:
        runner.finished.wait(20)


def test_the_state_of_a_lost_machine_goes_on_on_another(server: S3, tmp_path: Path) -> None:
    def work(machine: str) -> Work:
        far = RemoteState(RemoteStore(f"{server.url}/{tmp_path.name}/state/x"))
        return Work(tmp_path / "out", tmp_path / machine, far=far)

    first = work("one")
    for step in (1, 2, 3):
        first.log(step, {"loss": 1.0 / step})
        first.save_state(step, {"w": torch.full((2,), float(step))}, {"note": step})
    assert first._far is not None
    assert first._far.flush(20)
    second = work("two")  # whose disk is empty
    found = second.load_state()
    assert found is not None
    assert (found[0], found[1]["w"].tolist(), found[2]) == (3, [3.0, 3.0], {"note": 3})
    assert [step for step, _, _, _ in second.metrics()] == [1, 2, 3]
    second.log(4, {"loss": 0.25})
    second.save_state(4, {"w": torch.full((2,), 4.0)}, {"note": 4})
    assert second._far is not None
    assert second._far.flush(20)
    back = work("one")  # whose disk is behind
    found = back.load_state()
    assert found is not None
    assert found[0] == 4
    assert [step for step, _, _, _ in back.metrics()] == [1, 2, 3, 4]
    back.forget_state()
    assert RemoteStore(f"{server.url}/{tmp_path.name}/state").fs.find(f"lifespan/{tmp_path.name}/state") == []


def test_a_torn_upload_gives_the_state_before_it(server: S3, tmp_path: Path) -> None:
    far = RemoteState(RemoteStore(f"{server.url}/{tmp_path.name}/state/x"))
    first = Work(tmp_path / "out", tmp_path / "one", far=far)
    first.save_state(1, {"w": torch.zeros(1)}, {})
    assert far.flush(20)
    fs: Any = RemoteStore(f"{server.url}/{tmp_path.name}/state").fs
    fs.pipe_file(f"lifespan/{tmp_path.name}/state/x/step-000000002.json", b'{"step": 2, "sha2')  # and no tensors
    second = Work(
        tmp_path / "out", tmp_path / "two", far=RemoteState(RemoteStore(f"{server.url}/{tmp_path.name}/state/x"))
    )
    found = second.load_state()
    assert found is not None
    assert found[0] == 1


def test_a_machine_that_lost_its_lease_writes_nothing(server: S3, tmp_path: Path) -> None:
    from dataclasses import replace

    from flows.engine.jobs import execute
    from storage.leases import LeaseLost

    home = Home(f"{server.url}/{tmp_path.name}/home", local=tmp_path / "local")
    node = graph().nodes["a"]
    name = f"stage-{node.key}"
    with home.turn(name, 1.0) as lease:
        assert lease is not None
        stale = replace(node.job("r1", home, ComputeConfig(), {}), fence=lease.token)
    with home.turn(name, 1.0), pytest.raises(LeaseLost):
        execute(stale, lambda event: None)
    assert home.store.find(node.key) is None
    assert home.tables.read("metrics").num_rows == 0
