"""A pool of persistent worker processes with a priority queue: two one-thread processes beat one with two threads.

A worker imports torch once and executes job after job. When one dies (a crash, `kill -9`, the kernel's memory
killer), its job fails with the exit code or signal and the end of its log, and a new worker takes its place.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol

from flows.engine.jobs import run_here
from flows.engine.wire import Job
from flows.engine.work import Waiting
from flows.engine.worker import describe_error
from flows.settings import ComputeConfig
from storage.artifacts import Artifact

LOG_TAIL_LINES = 12
# A free worker waits this long at most for stages that are about to be queued: else a long stage of little urgency
# takes it a few ms before the next one of the critical path.
PATIENCE_SECONDS = 0.25
_OWN_PATH = {path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))}  # a worker finds these itself
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


def open_pool(compute: ComputeConfig, local: Path, run_id: str, events: Events, preload: Sequence[str]) -> Pool:
    """The pool for `compute.workers`; 0 means this process."""
    if not compute.workers:
        return InlinePool(events)
    logs, threads = local / "logs" / run_id, compute.threads_per_worker
    return WorkerPool(compute.workers, threads, logs, local / "cache", events, preload, compute.grace_seconds)


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


class WorkerPool:
    """`size` worker processes, started at once in the background.

    Jobs with a higher priority go first. `close` ends the processes within seconds and fails what has not ended
    with Interrupted.

    Args:
        size: number of processes.
        threads: threads of the numerical libraries in each.
        logs: folder for `worker-N.log`.
        caches: folder for compiled kernels.
        events: told of each job's events (`started`, `progress`), from the pool's threads.
        preload: modules that a worker imports while it has no job.
        grace: seconds that a stage has to save its state when `close` ends it.
    """

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
        self._grace = grace
        self._logs, self._events, self._preload = logs, events, list(preload)
        self._environment = worker_environment(threads, caches)
        self._queue: queue.PriorityQueue[tuple[float, int, tuple[Job, Future[Artifact]] | None]] = queue.PriorityQueue()
        self._order = itertools.count()
        self._closing = threading.Event()
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._busy: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self._expected: set[str] = set()  # labels of jobs that are on their way, and of ended ones not yet seen
        self._news = threading.Condition()
        logs.mkdir(parents=True, exist_ok=True)
        # A worker dies with the *thread* that started it (PR_SET_PDEATHSIG), so each has a thread that outlives it.
        self._slots = [threading.Thread(target=self._serve, args=(n,), daemon=True) for n in range(size)]
        for slot in self._slots:
            slot.start()

    def submit(self, job: Job, priority: float) -> Future[Artifact]:
        future: Future[Artifact] = Future()
        if self._closing.is_set():
            future.set_exception(Interrupted())
        else:
            self._queue.put((-priority, next(self._order), (job, future)))
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

    def _next(self) -> tuple[Job, Future[Artifact]] | None:
        item = self._queue.get()
        with self._news:
            waited = bool(self._expected)
            self._news.wait_for(lambda: not self._expected or self._closing.is_set(), PATIENCE_SECONDS)
        if waited:  # a better one may have come
            self._queue.put(item)
            item = self._queue.get()
        return item[2]

    def pids(self) -> list[int]:
        """Process ids of the living workers."""
        with self._lock:
            return [process.pid for process in self._processes.values() if process.poll() is None]

    def end(self, label: str) -> None:
        """Kill the worker that runs this job, with all that it started."""
        if process := self._busy.get(label):
            signal_group(process, signal.SIGKILL)

    def close(self) -> None:
        """End every worker: SIGTERM to its process group, SIGKILL after the grace time."""
        self._closing.set()
        for _ in self._slots:
            self._queue.put((float("-inf"), next(self._order), None))
        with self._lock:
            processes = list(self._processes.values())
        for process in processes:
            signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + self._grace
        for process in processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                signal_group(process, signal.SIGKILL)
        for slot in self._slots:
            slot.join(timeout=2.0)
        while True:
            try:
                item = self._queue.get_nowait()[2]
            except queue.Empty:
                return
            if item:
                item[1].set_exception(Interrupted())

    def _serve(self, number: int) -> None:
        """One slot: keep a process alive, hand it one job at a time."""
        log = self._logs / f"worker-{number}.log"
        process = self._spawn(number, log)
        while True:
            item = self._next()
            if item is None or self._closing.is_set():
                if item:
                    item[1].set_exception(Interrupted())
                break
            job, future = item
            if process.poll() is not None:  # died while idle: nobody is hurt
                process = self._spawn(number, log)
            log_start = log.stat().st_size if log.exists() else 0
            self._busy[job.label] = process
            try:
                artifact = self._converse(process, job, log)
                self.expect([job.label])
                future.set_result(artifact)
            except (BrokenPipeError, EOFError):
                if self._closing.is_set():
                    future.set_exception(Interrupted())
                    break
                code = self._reap(process)
                # The new worker first: whoever waits for this future may look at the pool next.
                process = self._spawn(number, log)
                future.set_exception(StageFailed(job.label, describe_death(code, log, log_start), log))
            except (StageFailed, StageWaits) as failure:
                future.set_exception(failure)
            except Exception as error:  # never leave anyone waiting
                future.set_exception(StageFailed(job.label, describe_error(error), log))
            finally:
                del self._busy[job.label]
        self._reap(process)

    def _converse(self, process: subprocess.Popen[str], job: Job, log: Path) -> Artifact:
        assert process.stdin and process.stdout
        process.stdin.write(json.dumps({"job": job.to_json()}) + "\n")
        process.stdin.flush()
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                return Artifact.from_json(event["artifact"])
            if event["event"] == "failed":
                raise stage_error(job.label, event["error"], log)
            if event["event"] != "ready":
                self._events(job, event)
        raise EOFError

    def _spawn(self, number: int, log: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.engine.worker", str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=self._environment,
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we end it with its children
        )
        with self._lock:
            self._processes[number] = process
        if self._closing.is_set():
            signal_group(process, signal.SIGKILL)
        elif self._preload and process.stdin:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps({"preload": self._preload}) + "\n")
                process.stdin.flush()
        return process

    def _reap(self, process: subprocess.Popen[str]) -> int:
        """End the process and what it started; its exit code."""
        try:
            code = process.wait(timeout=5.0)
        except subprocess.TimeoutExpired:
            signal_group(process, signal.SIGKILL)
            code = process.wait()
        signal_group(process, signal.SIGKILL)
        for pipe in (process.stdin, process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        return code


def worker_environment(threads: int, caches: Path) -> dict[str, str]:
    """Environment of a worker: library threads, import path, caches in the home."""
    count = str(threads)
    pools = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "RAYON", "VECLIB_MAXIMUM")
    return {
        **os.environ,
        **{f"{name}_NUM_THREADS": count for name in pools},
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(str(Path(p).absolute()) for p in sys.path if p not in _OWN_PATH)),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(caches / "inductor")),
        "LIFESPAN_PARENT": str(os.getpid()),
    }


def signal_group(process: subprocess.Popen[Any], number: signal.Signals) -> None:
    """Signal a worker and all that it started; each worker leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def describe_death(code: int, log: Path, log_start: int) -> dict[str, Any]:
    """Why a worker is gone, with what it last wrote."""
    if code < 0:
        name = signal.Signals(-code).name
        how = f"its worker process was ended by {name}"
        if name == "SIGKILL":
            how += " (kill -9, or the system ran out of memory)"
    else:
        how = f"its worker process ended with exit code {code}"
    tail = []
    with contextlib.suppress(OSError), log.open(encoding="utf-8", errors="replace") as file:
        file.seek(log_start)
        tail = telling([line.rstrip() for line in file if not line.startswith("===")])
    last = "; it last wrote:\n  " + "\n  ".join(tail) if tail else ""
    killed = -code in (signal.SIGKILL, signal.SIGTERM)  # from outside, so the next attempt may fare better
    return {"type": "WorkerDied", "message": how + last, "clean": True, "traceback": "", "transient": killed}


def telling(lines: list[str]) -> list[str]:
    """The lines that tell why: around a crash report of Python (innermost frames first), else the last ones."""
    crash = next((number for number, line in enumerate(lines) if line.startswith("Fatal Python error")), None)
    if crash is None:
        return lines[-LOG_TAIL_LINES:]
    return [line for line in lines[max(0, crash - 3) : crash + LOG_TAIL_LINES - 3] if line]
