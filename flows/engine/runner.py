"""Drives a graph: looks up what is sealed, hands the rest to the pool as soon as its inputs are there.

The runner starts at once and needs no server. Prefect's tasks (`flows/runs/prefect_view.py`) join it as soon as Prefect
is up, and show each stage as it is; its 8 to 25 s of start-up so cost the run nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from flows.engine.agenda import Agenda
from flows.engine.graph import Graph, Node, artifacts_in
from flows.engine.plan import reasons_to_run
from flows.engine.progress import Board, clock
from flows.engine.waste import KILLED, Waste
from flows.engine.wire import Job, input_keys
from flows.engine.work import now
from flows.engine.workers import Interrupted, Pool, StageFailed, StageWaits, open_pool
from flows.settings import ComputeConfig
from storage.artifacts import Artifact
from storage.durable import DiskFull, LockTimeout
from storage.fingerprint import plain
from storage.home import Home
from storage.leases import Lease, LeaseLost

ATTEMPTS = 3  # a damaged input is rebuilt, what is transient is waited for, then the stage tried again
FIRST_PAUSE = 1.0  # seconds before the second attempt; four times as many before the third
MOST_AT_ONCE = 2048  # stages under way or in the pool's queue; each takes a thread
LOST_INPUT = ("DamagedArtifact", "MissingArtifact")


class Skipped(RuntimeError):
    """A stage could not run because one that it needs failed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a stage."""

    artifact: Artifact
    status: Literal["ran", "cached"]
    reason: str
    seconds: float
    node: str = ""  # of the cluster, where it ran


@dataclass(frozen=True)
class Moment:
    """When something began, by a clock that people read and by one that never jumps."""

    date: datetime = field(default_factory=now)
    tick: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Seconds since."""
        return time.monotonic() - self.tick


class Runner:
    """One execution of a graph in a home.

    Independent stages run side by side; a failed one takes only its dependants with it. Each stage key is made by one
    run at a time: a second run in the same home waits, then finds it sealed.
    """

    def __init__(
        self,
        graph: Graph,
        home: Home,
        run_id: str,
        compute: ComputeConfig,
        board: Board,
        name: str,
    ) -> None:
        self.graph, self.home, self.run_id, self.compute, self.board = graph, home, run_id, compute, board
        self.name = name
        self.outcomes: dict[str, Future[Outcome]] = {label: Future() for label in graph.nodes}
        self.finished = threading.Event()
        self._cancelled = threading.Event()
        self._why_cancelled = ""
        self._disk_full = threading.Event()
        self._made: dict[str, Artifact] = {}
        self._began: dict[str, Moment] = {}
        self.waste = Waste(home, run_id, compute)
        board.under_way = self.waste.under_way
        self._nodes: dict[str, str] = {}
        self._pool: Pool | None = None
        self._lock = threading.Lock()
        self._rebuilding = threading.RLock()  # an input's own inputs may be damaged too
        self._priorities = graph.priorities()
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        board.expect([(node.label, node.stage.group) for node in graph.nodes.values()])

    def start(self) -> None:
        """Begin in the background."""
        threading.Thread(target=self._drive, name="runner", daemon=True).start()

    def wait(self, label: str, timeout: float | None = None) -> Outcome:
        """Wait for a stage.

        Raises:
            StageFailed, Skipped, Interrupted, TimeoutError
        """
        return self.outcomes[label].result(timeout)

    def cancel(self, why: str = "the run was interrupted") -> None:
        """Stop: workers end within seconds; what is sealed stays, what saved a state resumes next time."""
        self._why_cancelled = why
        self._cancelled.set()
        with self._lock:
            pool = self._pool
        if pool:
            pool.close()
        for label in self.outcomes:
            self._lost(label, "interrupted", why)  # unless its own thread was faster
            self._fail(label, Interrupted(), "interrupted")
        self.finished.set()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    def failures(self) -> dict[str, BaseException]:
        """The stages that failed themselves, without those that were only skipped."""
        ended = {label: future.exception() for label, future in self.outcomes.items() if future.done()}
        ours = (Skipped, Interrupted, StageWaits)
        return {label: e for label, e in ended.items() if e and not isinstance(e, ours)}

    def waiting(self) -> dict[str, str]:
        """The stages that wait for people, and what for."""
        ended = {label: future.exception() for label, future in self.outcomes.items() if future.done()}
        return {label: str(e) for label, e in ended.items() if isinstance(e, StageWaits)}

    # --- driving ----------------------------------------------------------------------------------------------------

    def _drive(self) -> None:
        try:
            self._serve_cached()
            missing = [label for label, future in self.outcomes.items() if not future.done()]
            if missing:
                self._run(missing)
        except BaseException as error:
            for label in self.outcomes:
                self._fail(label, error, "failed")
        finally:
            with self._lock:
                pool, self._pool = self._pool, None
            if pool:
                pool.close()
            self.finished.set()

    def _serve_cached(self) -> None:
        rows = []
        for node in self.graph.nodes.values():
            if artifact := self.home.store.find(node.key):
                outcome = Outcome(artifact, "cached", "sealed by an earlier run", 0.0)
                self._began[node.label] = Moment()
                rows.append(self._row(node, outcome))
                self._succeed(node, outcome)
        if rows:
            self.home.tables.write("stages", f"{self.run_id}-cached", rows)

    def _run(self, missing: list[str]) -> None:
        why = reasons_to_run(self.graph, self.home)
        self.waste.remember([self.graph.nodes[label].key for label in missing])
        compute = self.compute = self.compute.counted()
        pool = open_pool(compute, self.home, self.run_id, self._hear, modules_of(self.graph, missing))
        with self._lock:
            self._pool = pool
        if self._cancelled.is_set():
            return
        needs = {label: self.graph.nodes[label].needs for label in missing}
        agenda, running, ended = Agenda(needs, self._priorities), 0, ""
        while (agenda or running) and not self._cancelled.is_set():
            if self._disk_full.is_set():
                for label in agenda.clear():
                    self._fail(label, Skipped("the disk is full"), "skipped")
            ready: list[str] = []
            while running + len(ready) < MOST_AT_ONCE and (begins := agenda.next()) is not None:
                if why_not := self._why_not(begins):
                    self._fail(begins, Skipped(why_not), "skipped")
                    agenda.settle(begins)
                else:
                    ready.append(begins)
            pool.expect(ready)
            if ended:
                pool.settled(ended)
            for label in ready:
                arguments = (self.graph.nodes[label], "; ".join(why.get(label, [])))
                threading.Thread(target=self._attempt, args=arguments, daemon=True).start()
            running += len(ready)
            if running:
                ended = self._ended.get()
                agenda.settle(ended)
                running -= 1

    def _why_not(self, label: str) -> str:
        """What stands in the way of a stage whose inputs have ended; empty: nothing."""
        broken = [need for need in self.graph.nodes[label].needs if self.outcomes[need].exception()]
        if not broken:
            return ""
        waits = isinstance(self.outcomes[broken[0]].exception(), StageWaits)
        return f"{label} needs {broken[0]}, which {'waits for people' if waits else 'failed'}"

    def _attempt(self, node: Node, reason: str) -> None:
        self._began[node.label] = Moment()
        try:
            outcome = self._make(node, reason)
            # The row first: who sees the outcome may read the tables next.
            self._write_row(node, outcome)
            self._succeed(node, outcome)
        except Interrupted as error:
            self._lost(node.label, "interrupted", self._why_cancelled)
            self._fail(node.label, error, "interrupted")
        except StageWaits as error:
            self._lost(node.label, "waiting", str(error))
            self._write_row(node, None, status="waiting", reason=str(error))
            self._fail(node.label, error, "held")
        except Exception as error:
            if isinstance(error, DiskFull):
                self._stop_on_full_disk()
            with contextlib.suppress(Exception):  # the disk may be full; the stage's own error is what counts
                self._write_row(node, None, status="failed", reason=str(error))
            self._fail(node.label, error, "failed")
        finally:
            self._ended.put(node.label)

    def _stop_on_full_disk(self) -> None:
        """No stage can be sealed any more, so none goes on; one error is enough."""
        self._disk_full.set()
        if self._pool:
            self._pool.close()

    def _make(self, node: Node, reason: str) -> Outcome:
        """Wait for our turn with this key, look once more, execute; again when another machine took the turn over."""
        while True:
            try:
                return self._make_once(node, reason)
            except LeaseLost as error:
                self.board.set(node.label, "waiting", str(error))

    def _make_once(self, node: Node, reason: str) -> Outcome:
        with self._turn(node) as lease:
            if artifact := self.home.store.find(node.key):
                return Outcome(artifact, "cached", "sealed by another run meanwhile", 0.0)
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    artifact = self._execute(node, lease)
                    self.waste.made(node, artifact.facts["usage"])
                    where = self._nodes.get(node.label, "")
                    return Outcome(artifact, "ran", reason, self._began[node.label].seconds(), where)
                except StageFailed as failure:
                    if failure.error["type"] == DiskFull.__name__:
                        self._stop_on_full_disk()
                    self._lost(node.label, "killed" if failure.error["type"] in KILLED else "failed", str(failure))
                    if failure.error["type"] == LeaseLost.__name__:
                        raise LeaseLost(failure.error["message"]) from failure
                    if attempt == ATTEMPTS or not self._worth_another(node, failure, attempt):
                        raise
        raise AssertionError("unreachable")

    def _worth_another(self, node: Node, failure: StageFailed, attempt: int) -> bool:
        """After a back-off if the failure is transient, or once the input that it lacked is rebuilt; else False."""
        if failure.error.get("transient"):
            pause = FIRST_PAUSE * 4 ** (attempt - 1)
            self.board.set(node.label, "waiting", f"{failure}; attempt {attempt + 1} of {ATTEMPTS} in {pause:g} s")
            return not self._cancelled.wait(pause)
        return failure.error["type"] in LOST_INPUT and self._rebuild(node)

    def _execute(self, node: Node, lease: Lease | None) -> Artifact:
        for handle in artifacts_in(node.bound.inputs):
            if handle.key not in self._made:  # an artifact from outside this graph
                found = self.home.store.find(handle.key)
                if found is None:
                    raise LookupError(f"{node.label} needs artifact {handle.key[:12]}, which this home does not hold")
                self._made[handle.key] = found
        if not self._pool:
            raise Interrupted()
        job = node.job(self.run_id, self.home, self.compute, self._made)
        job = replace(job, fence=lease.token if lease else 0)
        future = self._pool.submit(job, self._priorities[node.label])
        while not future.done():
            futures.wait([future], timeout=1.0)
            if lease and lease.lost.is_set() and not future.done():
                self._pool.end(node.label)
                raise LeaseLost(f"{node.label}: the store was out of reach for long; another machine may make it now")
            row, limit = self.board.rows[node.label], self.compute.stage_timeout_seconds
            if limit and row.state == "running" and row.seconds(time.monotonic()) > limit and not future.done():
                self._pool.end(node.label)
                what = f"it ran longer than compute.stage_timeout_seconds = {limit:g}"
                raise StageFailed(node.label, {"type": "TimedOut", "message": what, "clean": True})
        return future.result()

    def _rebuild(self, node: Node) -> bool:
        """Make again the inputs of a stage that were found damaged; False when none is missing."""
        rebuilt = False
        with self._rebuilding:
            for need in node.needs:
                producer = self.graph.nodes[need]
                if self.home.store.find(producer.key) is None:
                    self._began[need] = Moment()
                    self.waste.remember([producer.key])
                    outcome = self._make(producer, "its artifact was damaged or removed")
                    self._write_row(producer, outcome)
                    self._made[producer.key] = outcome.artifact
                    self.board.set(need, "done", "rebuilt")
                    rebuilt = True
        return rebuilt

    @contextlib.contextmanager
    def _turn(self, node: Node) -> Iterator[Lease | None]:
        """Hold the key's lock between processes and machines; wait for it in short bits, so that Ctrl-C works."""
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    lease = stack.enter_context(self.home.turn(f"stage-{node.key}", timeout=0.5))
                    break
                except LockTimeout:
                    if self._cancelled.is_set():
                        raise Interrupted() from None
                    if self._pool:
                        self._pool.settled(node.label)  # another run makes it: no worker should wait for us
            yield lease

    # --- telling ----------------------------------------------------------------------------------------------------

    def _hear(self, job: Job, event: dict[str, Any]) -> None:
        if event["event"] == "started":
            self._began[job.label] = Moment()  # what came before was waiting for a worker
            self.waste.began(self.graph.nodes[job.label])
            if node := event.get("node"):
                self._nodes[job.label] = node
            self.board.set(job.label, "running", f"on {node}" if node else "")
        if "spent" in event:
            self.waste.told(job.label, event["spent"])
        if event["event"] == "lost":
            self.board.set(job.label, "waiting", f"{event['why']}; it goes next")
        elif event["event"] == "progress":
            self.board.progress(job.label, event["done"], event["total"], event["info"])

    def _succeed(self, node: Node, outcome: Outcome) -> None:
        self._made[node.key] = outcome.artifact
        with self._lock:
            if self.outcomes[node.label].done():
                return
            self.board.set(node.label, "cached" if outcome.status == "cached" else "done")
            self.outcomes[node.label].set_result(outcome)

    def _fail(self, label: str, error: BaseException, state: str) -> None:
        with self._lock:
            if self.outcomes[label].done():
                return
            self.board.set(label, state, "" if state == "interrupted" else str(error))
            self.outcomes[label].set_exception(error)

    def _lost(self, label: str, outcome: str, reason: str) -> None:
        with contextlib.suppress(Exception):  # the disk may be full; the stage's own error is what counts
            self.waste.lost(label, outcome, reason)

    def _write_row(self, node: Node, outcome: Outcome | None, **ended: str) -> None:
        part = f"{self.run_id}-{hashlib.sha256(node.label.encode()).hexdigest()[:16]}"
        self.home.tables.write("stages", part, [self._row(node, outcome, **ended)])

    def _row(self, node: Node, outcome: Outcome | None, *, status: str = "", reason: str = "") -> dict[str, Any]:
        began = self._began[node.label]
        return {
            "run_id": self.run_id,
            "stage": node.stage.name,
            "label": node.label,
            "key": node.key,
            "kind": node.stage.produces,
            "group": node.stage.group,
            "status": outcome.status if outcome else status,
            "reason": outcome.reason if outcome else reason,
            "started_at": began.date,
            "ended_at": now(),
            "seconds": outcome.seconds if outcome else began.seconds(),
            "facts_json": dict(outcome.artifact.facts) if outcome else None,
            "config_json": plain(node.bound.settings),
            "inputs_json": input_keys(node.bound.inputs),
        }


def modules_of(graph: Graph, labels: Iterable[str]) -> list[str]:
    """Modules that these stages are in and use, as far as they are ours, each once."""
    found: dict[str, None] = {}
    for label in labels:
        node = graph.nodes[label]
        found |= dict.fromkeys([node.stage.fn.__module__])
        found |= dict.fromkeys(name for name in node.bound.identity.code if ":" not in name)
    return list(found)


def summary(runner: Runner) -> str:
    """`4 ran, 12 cached in 0:42`."""
    counts = runner.board.counts()
    words = {"done": "ran", "running": "running"}
    parts = [f"{n} {words.get(state, state)}" for state, n in counts.items() if n]
    return f"{', '.join(parts) or 'nothing to do'} in {clock(time.monotonic() - runner.board.began)}"
