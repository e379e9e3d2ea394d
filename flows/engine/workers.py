"""A pool of seats with a priority queue: two one-thread processes beat one with two threads.

The worker of a seat imports torch once and executes job after job. When it dies (a crash, `kill -9`, the kernel's
memory killer), its job fails with the exit code or signal and the end of its log, and a new worker takes its place.
When the machine of a seat is lost, its job goes to the next seat that there is, before all others.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flows.engine.jobs import run_here
from flows.engine.seats import LocalSeat, LocalSeats, Seat, SeatDied, SeatLost, Seats
from flows.engine.wire import Job
from flows.engine.work import Waiting
from flows.engine.worker import describe_error
from flows.settings import ComputeConfig
from storage.artifacts import Artifact
from storage.home import Home

# A free worker waits this long at most for stages that are about to be queued: else a long stage of little urgency
# takes it a few ms before the next one of the critical path.
PATIENCE_SECONDS = 0.25
PATIENT_SEATS = 16  # among more, one is free for the critical path soon enough
IDLE_SECONDS = 5.0  # a seat that is not this machine's is given back after so long without a stage
MOST_LOSSES = 5  # a stage that lost so many machines may be what brings them down
Events = Callable[[Job, dict[str, Any]], None]


class StageFailed(RuntimeError):
    """A stage's function raised, or its worker died.

    Attributes:
        label: the stage's name in the run.
        error: type, message, whether the message alone is enough (`clean`), traceback.
        log: the worker's log file, if it has one.
    """

    def __init__(self, label: str, error: Mapping[str, Any], log: Path | None = None) -> None:
        kind = "" if error.get("clean") else f"{error['type']}: "
        where = f" (log: {log})" if log else ""
        super().__init__(f"{label} failed: {kind}{error['message']}{where}")
        self.label, self.error, self.log = label, dict(error), log


class StageWaits(RuntimeError):
    """A stage cannot go on before people have done something; see `flows.engine.work.Waiting`."""


def stage_error(label: str, error: Mapping[str, Any], log: Path | None = None) -> StageFailed | StageWaits:
    """What a stage's described error is to the run."""
    if error["type"] == Waiting.__name__:
        return StageWaits(f"{label} waits for people: {error['message']}")
    return StageFailed(label, error, log)


class Interrupted(RuntimeError):
    """The run was asked to stop before this stage could end."""

    def __init__(self) -> None:
        super().__init__("the run was interrupted")


class Pool(Protocol):
    """Where stages execute: worker processes or this process."""

    def submit(self, job: Job, priority: float) -> Future[Artifact]: ...

    def expect(self, labels: Sequence[str]) -> None: ...

    def settled(self, label: str) -> None: ...

    def end(self, label: str) -> None: ...

    def close(self) -> None: ...


def open_pool(compute: ComputeConfig, home: Home, run_id: str, events: Events, preload: Sequence[str]) -> Pool:
    """The pool for `compute.engine` and `compute.workers`; 0 means this process."""
    if not compute.workers:
        return InlinePool(events)
    logs, caches, threads = home.local / "logs" / run_id, home.local / "cache", compute.threads_per_worker
    if compute.engine == "ray":
        from flows.engine.ray_seats import RaySeats  # here: Ray is an option

        seats: Seats = RaySeats(compute, logs, caches, preload, shared=not home.is_remote)
        return SeatPool(seats, events, compute.grace_seconds, compute.seat_timeout_seconds)
    return WorkerPool(compute.workers, threads, logs, caches, events, preload, compute.grace_seconds)


class InlinePool:
    """Executes in the calling process, one job after another."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._turn = threading.Lock()
        self._closed = False

    def submit(self, job: Job, priority: float) -> Future[Artifact]:
        future: Future[Artifact] = Future()
        with self._turn:
            if self._closed:
                future.set_exception(Interrupted())
                return future
            try:
                future.set_result(run_here(job, lambda event: self._events(job, event)))
            except Exception as error:
                failure = stage_error(job.label, describe_error(error))
                failure.__cause__ = error
                future.set_exception(failure)
        return future

    def expect(self, labels: Sequence[str]) -> None:
        """Nothing to do: jobs run when they are submitted."""

    def settled(self, label: str) -> None:
        """Nothing to do."""

    def end(self, label: str) -> None:
        """Nothing to do: a stage in this process cannot be ended."""

    def close(self) -> None:
        self._closed = True


@dataclass
class _Lane:
    """The jobs that take seats of one sort, and what serves them."""

    kind: Hashable
    work: threading.Condition  # there is a job
    heap: list[tuple[float, int, Job, Future[Artifact]]] = field(default_factory=list)
    slots: list[threading.Thread] = field(default_factory=list)
    opening: int = 0


class SeatPool:
    """Runs jobs in seats, those with a higher priority first. `close` ends them within seconds and fails what has not
    ended with Interrupted.

    Args:
        seats: where they come from.
        events: told of each job's events (`started`, `progress`, `lost`), from the pool's threads.
        grace: seconds that a stage has to save its state when `close` ends it.
        patience: a job fails when for so many seconds no machine has what its seat takes.
    """

    def __init__(self, seats: Seats, events: Events, grace: float = 5.0, patience: float = 60.0) -> None:
        self._seats, self._events, self._grace, self._patience = seats, events, grace, patience
        self._order = itertools.count()
        self._closing = threading.Event()
        self._lanes: dict[Hashable, _Lane] = {}
        self._open: dict[int, Seat] = {}  # by the identity of the seat
        self._busy: dict[str, Seat] = {}
        self._losses: dict[str, int] = {}
        self._ended: set[str] = set()  # labels of jobs that `end` ended
        self._expected: set[str] = set()  # labels of jobs that are on their way, and of ended ones not yet seen
        self._lock = threading.RLock()
        self._news = threading.Condition(self._lock)  # nothing is expected any more
        if seats.eager:
            self._grow(None)

    def submit(self, job: Job, priority: float) -> Future[Artifact]:
        future: Future[Artifact] = Future()
        kind = self._seats.kind(job)
        with self._news:
            if self._closing.is_set():
                future.set_exception(Interrupted())
            else:
                self._put(self._lane(kind), -priority, job, future)
        self._grow(kind)
        self.settled(job.label)
        return future

    def expect(self, labels: Sequence[str]) -> None:
        """Jobs of these labels will be submitted at once: a free worker waits for them, to choose among all."""
        with self._news:
            self._expected.update(labels)

    def settled(self, label: str) -> None:
        """No job of this label is on its way now, and what its end made ready is expected."""
        with self._news:
            self._expected.discard(label)
            self._news.notify_all()

    def end(self, label: str) -> None:
        """Kill the worker that runs this job, with all that it started."""
        if seat := self._busy.get(label):
            self._ended.add(label)
            seat.kill()

    def close(self) -> None:
        """End every seat: SIGTERM to its process group, SIGKILL after the grace time."""
        self._closing.set()
        with self._news:
            self._news.notify_all()
            for lane in self._lanes.values():
                lane.work.notify_all()
            seats = list(self._open.values())
            lanes = list(self._lanes.values())
        for seat in seats:
            seat.ask()
        deadline = time.monotonic() + self._grace
        for seat in seats:
            seat.close(max(0.0, deadline - time.monotonic()))
        for lane in lanes:
            for slot in lane.slots:
                slot.join(timeout=2.0)
            self._fail_waiting(lane, Interrupted())
        self._seats.close()

    # --- jobs ---------------------------------------------------------------------------------------------------

    def _lane(self, kind: Hashable) -> _Lane:
        if kind not in self._lanes:
            self._lanes[kind] = _Lane(kind, threading.Condition(self._lock))
        return self._lanes[kind]

    def _put(self, lane: _Lane, order: float, job: Job, future: Future[Artifact]) -> None:
        heapq.heappush(lane.heap, (order, next(self._order), job, future))
        # One idle seat is enough for one job; where seats are opened on demand, whoever opens them must hear of it.
        lane.work.notify(1 if self._seats.eager else len(lane.slots))

    def _fail_waiting(self, lane: _Lane, error: Exception) -> None:
        with self._news:
            waiting, lane.heap = lane.heap, []
        for _, _, job, future in waiting:
            future.set_exception(
                StageFailed(job.label, describe_error(error)) if isinstance(error, SeatLost) else error
            )

    def _next(self, lane: _Lane) -> tuple[Job, Future[Artifact]] | None:
        """The most urgent job of the lane; None when the pool closes, or a seat that costs something is idle."""
        idle = None if self._seats.eager else IDLE_SECONDS
        with self._news:
            while True:
                if not lane.work.wait_for(lambda: bool(lane.heap) or self._closing.is_set(), idle):
                    return None
                if self._expected and len(lane.slots) <= PATIENT_SEATS:  # a better one may come
                    self._news.wait_for(lambda: not self._expected or self._closing.is_set(), PATIENCE_SECONDS)
                if self._closing.is_set():
                    return None
                if lane.heap:
                    return heapq.heappop(lane.heap)[2:]

    # --- seats --------------------------------------------------------------------------------------------------

    def _grow(self, kind: Hashable) -> None:
        """As many slots as there can be seats of this sort."""
        count = self._seats.count(kind)
        with self._news:
            lane = self._lane(kind)
            while len(lane.slots) < count and not self._closing.is_set():
                # A worker dies with the *thread* that started it, so each has a thread that outlives it.
                slot = threading.Thread(target=self._serve, args=(lane, len(lane.slots)), daemon=True)
                lane.slots.append(slot)
                slot.start()

    def _serve(self, lane: _Lane, number: int) -> None:
        """One slot: keep a seat, hand it one job at a time."""
        seat = None
        while not self._closing.is_set():
            if seat is not None and not seat.alive():  # died while idle: nobody is hurt
                self._leave(seat)
                seat = None
            seat = seat or self._seated(lane, number)
            if seat is None:
                continue
            item = self._next(lane)
            if item is None:
                if not self._closing.is_set():
                    self._leave(seat)
                    seat = None
                continue
            job, future = item
            self._busy[job.label] = seat
            try:
                artifact = self._converse(seat, job)
                self.expect([job.label])
                future.set_result(artifact)
            except (StageFailed, StageWaits) as failure:
                self.expect([job.label])  # a full disk ends the run: this seat begins nothing before that is known
                future.set_exception(failure)
            except (SeatDied, SeatLost) as end:
                if self._closing.is_set():
                    future.set_exception(Interrupted())
                    break
                log = seat.log
                self._leave(seat)
                seat = None
                if isinstance(end, SeatLost) and self._again(lane, job, future, str(end)):
                    continue
                error = end.error if isinstance(end, SeatDied) else describe_error(end)
                if self._seats.eager:  # the new one first: whoever waits for this future may look at the pool next
                    seat = self._seated(lane, number)
                future.set_exception(StageFailed(job.label, error, log))
            except Exception as error:  # never leave anyone waiting
                future.set_exception(StageFailed(job.label, describe_error(error), seat.log))
            finally:
                self._busy.pop(job.label, None)
            if not self._seats.eager:
                self._grow(lane.kind)  # the cluster may have grown
        if seat is not None:
            self._leave(seat, self._grace)

    def _again(self, lane: _Lane, job: Job, future: Future[Artifact], why: str) -> bool:
        """Put a job whose machine was lost before all others, unless it was ended on purpose or loses too many."""
        losses = self._losses[job.label] = self._losses.get(job.label, 0) + 1
        if job.label in self._ended or losses > MOST_LOSSES:
            return False
        self._events(job, {"event": "lost", "why": why})
        with self._news:
            self._put(lane, float("-inf"), job, future)
        return True

    def _seated(self, lane: _Lane, number: int) -> Seat | None:
        """A seat that is ready; None when the pool closes, or no job is left for one more."""
        if not self._seats.eager:
            with self._news:
                if not lane.work.wait_for(lambda: len(lane.heap) > lane.opening or self._closing.is_set(), 1.0):
                    return None
                lane.opening += 1
        try:
            return self._opened(lane, number)
        finally:
            if not self._seats.eager:
                with self._news:
                    lane.opening -= 1

    def _opened(self, lane: _Lane, number: int) -> Seat | None:
        began = time.monotonic()
        while not self._closing.is_set():
            seat = self._seats.open(lane.kind, number)
            with self._news:
                self._open[id(seat)] = seat
            try:
                while not seat.ready(1.0):
                    if self._closing.is_set() or not lane.heap:
                        self._leave(seat)
                        return None
                    if time.monotonic() - began > self._patience and (lack := self._seats.missing(lane.kind)):
                        self._fail_waiting(lane, SeatLost(lack))
                if not self._closing.is_set():
                    return seat
                seat.kill()
                self._leave(seat)
            except SeatLost as error:
                self._leave(seat)
                if time.monotonic() - began > self._patience:
                    self._fail_waiting(lane, error)
                self._closing.wait(1.0)
        return None

    def _leave(self, seat: Seat, seconds: float = 5.0) -> None:
        with self._news:
            self._open.pop(id(seat), None)
        seat.close(seconds if seat.alive() else 0.0)

    def _converse(self, seat: Seat, job: Job) -> Artifact:
        for event in seat.run(job):
            if event["event"] == "done":
                return Artifact.from_json(event["artifact"])
            if event["event"] == "failed":
                raise stage_error(job.label, event["error"], seat.log)
            self._events(job, {**event, "node": seat.node} if seat.node else event)
        raise SeatLost(f"{seat.node or 'the worker'} fell silent")


class WorkerPool(SeatPool):
    """`size` worker processes of this machine, started at once in the background; arguments as of `LocalSeats`."""

    def __init__(
        self,
        size: int,
        threads: int,
        logs: Path,
        caches: Path,
        events: Events,
        preload: Sequence[str] = (),
        grace: float = 5.0,
    ) -> None:
        super().__init__(LocalSeats(size, threads, logs, caches, preload), events, grace)

    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        with self._news:
            seats = list(self._open.values())
        return [seat.pid for seat in seats if isinstance(seat, LocalSeat) and seat.alive()]
