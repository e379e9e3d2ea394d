"""A seat: one place where one stage runs at a time, in a worker process of its own (`flows.engine.worker`).

`LocalSeat` is a process of this machine. `flows.engine.ray_seats` has the same on the nodes of a Ray cluster: there an
actor holds a `LocalSeat`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from flows.engine.wire import Job

LOG_TAIL_LINES = 12
_OWN_PATH = {path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))}  # a worker finds these itself


class SeatDied(RuntimeError):
    """The worker process of a seat ended under its stage, while its machine lives: the stage failed.

    Attributes:
        error: how, as `flows.engine.worker.describe_error` tells errors.
    """

    def __init__(self, error: Mapping[str, Any]) -> None:
        super().__init__(str(error["message"]))
        self.error = dict(error)


class SeatLost(RuntimeError):
    """The machine of a seat is gone or cannot be reached: no fault of the stage, which goes to another seat."""


class Seat(Protocol):
    """One place where a stage runs."""

    node: str  # name of the machine; empty for this one
    log: Path | None  # the worker's log, on that machine

    def ready(self, seconds: float) -> bool:
        """Wait so long at most; whether the seat can take a stage now. Raises SeatLost when it never will."""

    def alive(self) -> bool:
        """Whether it can take another stage, as far as is known."""

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        """The job's events; the last one is `done` or `failed`. Raises SeatDied, SeatLost."""

    def ask(self) -> None:
        """Ask the stage to save its state and end, as SIGTERM does."""

    def kill(self) -> None:
        """End the stage at once, with all that it started."""

    def close(self, seconds: float) -> None:
        """Wait so long for the end that was asked for, then kill; and give back what the seat held."""


class Seats(Protocol):
    """Where seats come from.

    Attributes:
        eager: seats are opened before there are stages for them, and kept.
    """

    eager: bool

    def kind(self, job: Job) -> Hashable:
        """Which sort of seat the job takes."""

    def count(self, kind: Hashable) -> int:
        """How many seats of this sort there can be side by side now."""

    def missing(self, kind: Hashable) -> str:
        """What no machine has of what this sort of seat takes; empty where one could hold it."""

    def open(self, kind: Hashable, number: int) -> Seat:
        """A new seat; it may not be ready yet."""

    def close(self) -> None:
        """No seat is needed any more."""


class LocalSeats:
    """`size` worker processes of this machine.

    Args:
        size: number of processes.
        threads: threads of the numerical libraries in each.
        logs: folder for `worker-N.log`.
        caches: folder for compiled kernels.
        preload: modules that a worker imports while it has no job.
    """

    eager = True

    def __init__(self, size: int, threads: int, logs: Path, caches: Path, preload: Sequence[str] = ()) -> None:
        self._size, self._logs, self._preload = size, logs, list(preload)
        self._environment = worker_environment(threads, caches)
        logs.mkdir(parents=True, exist_ok=True)

    def kind(self, job: Job) -> Hashable:
        return None

    def count(self, kind: Hashable) -> int:
        return self._size

    def missing(self, kind: Hashable) -> str:
        return ""

    def open(self, kind: Hashable, number: int) -> LocalSeat:
        return LocalSeat(self._logs / f"worker-{number}.log", self._environment, self._preload)

    def close(self) -> None:
        """Nothing to do: each seat has its own process."""


class LocalSeat:
    """A worker process. It dies with the *thread* that started it (PR_SET_PDEATHSIG), which has to outlive it."""

    node = ""

    def __init__(self, log: Path, environment: Mapping[str, str], preload: Sequence[str] = ()) -> None:
        self.log: Path | None = log
        self._log = log
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.engine.worker", str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=dict(environment),
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we end it with its children
        )
        if preload:
            with contextlib.suppress(BrokenPipeError):
                self._send({"preload": list(preload)})

    @property
    def pid(self) -> int:
        return self.process.pid

    def ready(self, seconds: float) -> bool:
        return True

    def alive(self) -> bool:
        return self.process.poll() is None

    def run(self, job: Job) -> Iterator[dict[str, Any]]:
        log_start = self._log.stat().st_size if self._log.exists() else 0
        try:
            self._send({"job": job.to_json()})
            assert self.process.stdout
            for line in self.process.stdout:
                event = json.loads(line)
                if event["event"] == "ready":
                    continue
                yield event
                if event["event"] in ("done", "failed"):
                    return
            raise EOFError
        except (BrokenPipeError, EOFError):
            raise SeatDied(describe_death(self._reap(5.0), self._log, log_start)) from None

    def ask(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def close(self, seconds: float) -> None:
        self._reap(seconds)

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def _signal(self, number: signal.Signals) -> None:
        """Signal the worker and all that it started; it leads a process group of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _reap(self, seconds: float) -> int:
        """Wait for the end, else make it; the exit code."""
        deadline = time.monotonic() + seconds
        try:
            code = self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        self.kill()  # what it started
        for pipe in (self.process.stdin, self.process.stdout):
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
        "PYTHONPATH": import_path(),
        "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(caches / "inductor")),
        "LIFESPAN_PARENT": str(os.getpid()),
    }


def import_path() -> str:
    """PYTHONPATH with which another process finds the modules that this one finds."""
    return os.pathsep.join(dict.fromkeys(str(Path(p).absolute()) for p in sys.path if p not in _OWN_PATH))


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
