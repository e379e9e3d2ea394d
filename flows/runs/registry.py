"""Which runs live: each holds a lock, shows its board to other processes once a second, and has its rows in `runs`."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from flows.engine.progress import Board
from flows.engine.waste import book
from flows.engine.wire import travelling
from flows.engine.work import now
from flows.settings import Settings
from storage.durable import LockTimeout
from storage.home import Home

STOP_SECONDS = 20.0  # that a run has to end in before it is killed


@contextlib.contextmanager
def registered(home: Home, run_id: str, board: Board, cfg: Settings, profile: str) -> Iterator[None]:
    """Tell other processes of this run: a lock while it lives, its board once a second, its row in `runs`."""
    close_dead_runs(home)
    folder = home.local / "running" / run_id
    fresh = folder / ".board.json"
    stop = threading.Event()

    def publish() -> None:
        while True:
            with contextlib.suppress(OSError):  # a full disk must not end the run here
                fresh.write_text(json.dumps({"pid": os.getpid(), **board.snapshot()}), encoding="utf-8")
                fresh.replace(folder / "board.json")  # in one step for readers; after a power cut nobody wants it
            if stop.wait(1.0):
                return

    with home.lock(f"run-{run_id}"):
        folder.mkdir(parents=True)  # under the lock: a folder without one is a dead run's, which others clear away
        write_event(home, run_id, "started", "running", cfg, profile)
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        try:
            yield
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            write_event(home, run_id, "ended", status, cfg, profile)
            raise
        finally:
            stop.set()
            thread.join(timeout=2.0)
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()


def is_alive(home: Home, run_id: str) -> bool:
    """True while the run's process holds its lock."""
    try:
        with home.lock(f"run-{run_id}", timeout=0):
            return False
    except LockTimeout:
        return True


def running(home: Home) -> dict[str, dict[str, Any]]:
    """The boards of the runs that go on now, by run id."""
    boards = {}
    for folder in sorted((home.local / "running").glob("*")):
        if is_alive(home, folder.name):
            with contextlib.suppress(OSError, ValueError):
                boards[folder.name] = json.loads((folder / "board.json").read_bytes())
    return boards


def close_dead_runs(home: Home) -> list[str]:
    """Runs that were killed: write that they were interrupted, forget their boards."""
    dead = []
    for folder in sorted((home.local / "running").glob("*")):
        if not is_alive(home, folder.name):
            row = {"run_id": folder.name, "event": "ended", "status": "interrupted", "time": _after_all(home)}
            home.tables.write("runs", f"{folder.name}-ended", [row])
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # killed before its first board
                for attempt in json.loads((folder / "board.json").read_bytes())["under_way"]:
                    book(home, attempt, "killed", "its run was killed")
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
            dead.append(folder.name)
    return dead


def _after_all(home: Home) -> datetime:
    """Now, or just after the last event of any run: the newest run stays the newest when the clock is set back."""
    times = home.tables.read("runs", ["time"]).column("time").to_pylist()
    return max([now(), *(time + timedelta(microseconds=1) for time in times)])


def write_event(home: Home, run_id: str, event: str, status: str, cfg: Settings, profile: str) -> None:
    row = {
        "run_id": run_id,
        "event": event,
        "status": status,
        "name": cfg.name,
        "profile": profile,
        "time": _after_all(home),
        "config_json": travelling(cfg),
        "host_json": {
            "system": platform.platform(terse=True),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
        },
    }
    home.tables.write("runs", f"{run_id}-{event}", [row])


def end_flow_runs(home: Home) -> list[str]:
    """End the runs of this home that a worker of Prefect started (Linux). A worker that ends takes them along; one that
    is killed leaves them to go on."""
    left = {}
    for run_id, board in running(home).items():
        with contextlib.suppress(OSError, LookupError):
            if b"prefect.engine" in Path(f"/proc/{board['pid']}/cmdline").read_bytes().split(b"\0"):
                os.kill(board["pid"], signal.SIGTERM)
                left[run_id] = board["pid"]
    deadline = time.monotonic() + STOP_SECONDS
    for run_id, pid in left.items():
        while is_alive(home, run_id) and time.monotonic() < deadline:
            time.sleep(0.1)
        if is_alive(home, run_id):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return list(left)
