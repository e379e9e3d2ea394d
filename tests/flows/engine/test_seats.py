"""Seats that come and go: order, lost machines, seats that never come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.engine.ray_seats import SeatKind, check_ray, needs
from flows.engine.seats import SeatDied, SeatLost
from flows.engine.wire import Job
from flows.engine.workers import MOST_LOSSES, SeatPool, StageFailed
from flows.settings import ComputeConfig, ConfigError, SeatConfig


def job(label: str) -> Job:
    return Job(f"m:{label}", label, label, "r", "home", "home", {}, {}, {})


class FakeSeat:
    """A seat whose jobs end when the test says how: `done`, `lost` or `died`."""

    log: Path | None = None

    def __init__(self, node: str, is_ready: threading.Event, jobs: queue.Queue[tuple[str, queue.Queue[str]]]) -> None:
        self.node, self._is_ready, self._jobs, self._alive = node, is_ready, jobs, True

    def ready(self, seconds: float) -> bool:
        return self._is_ready.wait(min(seconds, 0.02))

    def alive(self) -> bool:
        return self._alive

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        ends: queue.Queue[str] = queue.Queue()
        self._jobs.put((job.label, ends))
        yield {"event": "started"}
        how = ends.get(timeout=20)
        if how == "lost":
            self._alive = False
            raise SeatLost(f"{self.node} was lost")
        if how == "died":
            self._alive = False
            raise SeatDied({"type": "WorkerDied", "message": "killed", "clean": True})
        yield {"event": "done", "artifact": {"kind": "corpus", "key": job.key, "facts": {}}}

    def ask(self) -> None:
        self.kill()

    def kill(self) -> None:
        self._alive = False

    def close(self, seconds: float) -> None:
        self._alive = False


class FakeSeats:
    """`room` seats; `is_ready` says whether they answer, `lack` what no machine has."""

    eager = False

    def __init__(self, room: int = 1) -> None:
        self.room, self.lack, self.opened, self.closed = room, "", 0, False
        self.is_ready = threading.Event()
        self.is_ready.set()
        self.jobs: queue.Queue[tuple[str, queue.Queue[str]]] = queue.Queue()

    def kind(self, job: Job) -> Hashable:
        return "any"

    def count(self, kind: Hashable) -> int:
        return self.room

    def missing(self, kind: Hashable) -> str:
        return self.lack

    def open(self, kind: Hashable, number: int) -> FakeSeat:
        self.opened += 1
        return FakeSeat(f"node{self.opened}", self.is_ready, self.jobs)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def seats() -> FakeSeats:
    return FakeSeats()


@pytest.fixture
def heard() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def pool(seats: FakeSeats, heard: list[tuple[str, dict[str, Any]]]) -> Iterator[SeatPool]:
    pool = SeatPool(seats, lambda job, event: heard.append((job.label, event)), grace=0.1, patience=0.2)
    yield pool
    pool.close()
    assert seats.closed


def test_a_lost_machine_is_no_failed_attempt_and_its_job_goes_before_more_urgent_ones(
    pool: SeatPool, seats: FakeSeats, heard: list[tuple[str, dict[str, Any]]]
) -> None:
    futures = {label: pool.submit(job(label), priority) for label, priority in (("a", 1.0),)}
    label, ends = seats.jobs.get(timeout=20)
    assert label == "a"
    futures |= {label: pool.submit(job(label), priority) for label, priority in (("b", 2.0), ("c", 9.0))}
    ends.put("lost")
    order = []
    for _ in range(3):
        label, ends = seats.jobs.get(timeout=20)
        order.append(label)
        ends.put("done")
    assert order == ["a", "c", "b"]
    assert {label: future.result(20).key for label, future in futures.items()} == {"a": "a", "b": "b", "c": "c"}
    assert ("a", {"event": "lost", "why": "node1 was lost"}) in heard
    assert [event["node"] for label, event in heard if label == "a" and event["event"] == "started"] == [
        "node1",
        "node2",
    ]


def test_a_worker_that_dies_on_a_living_machine_is_a_failure(pool: SeatPool, seats: FakeSeats) -> None:
    future = pool.submit(job("a"), 0)
    seats.jobs.get(timeout=20)[1].put("died")
    with pytest.raises(StageFailed, match="a failed: killed"):
        future.result(20)


def test_a_job_that_brings_machines_down_ends(pool: SeatPool, seats: FakeSeats) -> None:
    future = pool.submit(job("a"), 0)
    for _ in range(MOST_LOSSES + 1):
        seats.jobs.get(timeout=20)[1].put("lost")
    with pytest.raises(StageFailed, match=rf"node{MOST_LOSSES + 1} was lost"):
        future.result(20)


def test_a_job_that_was_ended_on_purpose_is_not_run_again(pool: SeatPool, seats: FakeSeats) -> None:
    future = pool.submit(job("a"), 0)
    ends = seats.jobs.get(timeout=20)[1]
    pool.end("a")
    ends.put("lost")
    with pytest.raises(StageFailed):
        future.result(20)


def test_no_job_waits_for_a_seat_that_never_comes(pool: SeatPool, seats: FakeSeats) -> None:
    seats.is_ready.clear()
    seats.lack = "no machine has 8 GPUs"
    with pytest.raises(StageFailed, match="a failed: no machine has 8 GPUs"):
        pool.submit(job("a"), 0).result(20)


def test_a_seat_that_is_only_busy_is_waited_for(pool: SeatPool, seats: FakeSeats) -> None:
    seats.is_ready.clear()
    future = pool.submit(job("a"), 0)
    with pytest.raises(TimeoutError):  # longer than the pool's patience
        future.result(0.6)
    seats.is_ready.set()
    seats.jobs.get(timeout=20)[1].put("done")
    assert future.result(20).key == "a"


def test_a_cluster_that_grows_takes_more_jobs(pool: SeatPool, seats: FakeSeats) -> None:
    first, second = pool.submit(job("a"), 0), pool.submit(job("b"), 0)
    one = seats.jobs.get(timeout=20)[1]
    assert seats.jobs.empty()
    seats.room = 2
    third = pool.submit(job("c"), 0)
    two = seats.jobs.get(timeout=20)[1]
    one.put("done")
    two.put("done")
    seats.jobs.get(timeout=20)[1].put("done")
    assert {future.result(20).key for future in (first, second, third)} == {"a", "b", "c"}


NODE = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * 2**30}, "Labels": {"zone": "a"}}


def test_how_many_seats_a_node_has_room_for() -> None:
    assert SeatKind(1.0).fits(NODE) == 8
    assert SeatKind(1.0, gpus=1.0).fits(NODE) == 2
    assert SeatKind(1.0, memory_gb=20.0).fits(NODE) == 3
    assert SeatKind(1.0, labels=(("zone", "a"),)).fits(NODE) == 8
    assert SeatKind(1.0, labels=(("zone", "b"),)).fits(NODE) == 0
    assert SeatKind(16.0).fits(NODE) == 0
    assert SeatKind(1.0).fits({**NODE, "Alive": False}) == 0


def test_what_a_stage_takes() -> None:
    compute = ComputeConfig(
        engine="ray", device="cuda", threads_per_worker=2, seats={"ppo": SeatConfig(cpus=4, labels={"zone": "a"})}
    )
    assert needs(compute, "pretrain") == SeatKind(2.0, gpus=1.0)
    assert needs(compute, "grpo") == SeatKind(2.0, gpus=1.0)
    assert needs(compute, "tokenize") == SeatKind(2.0)
    assert needs(compute, "ppo") == SeatKind(4.0, labels=(("zone", "a"),))
    assert str(needs(compute, "ppo")) == "4 CPUs, the label zone=a"


@pytest.mark.parametrize(
    ("address", "message"), [("here", "takes host:port"), ("127.0.0.1:9", "no Ray cluster answers there")]
)
def test_an_address_without_a_cluster_is_told_at_once(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.engine.ray_seats.importlib.util.find_spec", lambda name: object())
    with pytest.raises(ConfigError, match=message):
        check_ray(ComputeConfig(engine="ray", address=address))


def test_without_ray_installed_the_message_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.engine.ray_seats.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "\.\[ray\]"'):
        check_ray(ComputeConfig(engine="ray"))


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set compute\.engine=ray"):
        ComputeConfig(address="10.0.0.1:6379")
    with pytest.raises(ValueError, match="workers = 0"):
        ComputeConfig(engine="ray", workers=0)
