"""`lifespan replicate`: one life per seed, side by side, each a run of its own that is cached and resumes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.runs.registry import running
from storage.home import Home

LOOK_SECONDS = 2.0


@dataclass(frozen=True)
class Life:
    """A life that ended: exit code as of `lifespan run`, and the log with all that it printed."""

    seed: int
    code: int
    log: Path


def replicate(
    home: Home,
    profile: str,
    overrides: Sequence[str],
    seeds: Sequence[int],
    say: Callable[[str], object],
    *,
    at_once: int = 1,
) -> list[Life]:
    """Run a life per seed, `at_once` of them side by side, and wait; stages that do not depend on the seed are made
    once. An interrupt ends all of them, and the next call goes on from there.

    Args:
        say: told a line whenever a life begins, gets further, or ends.
    """
    waiting, lives = list(seeds), []
    processes: dict[int, subprocess.Popen[bytes]] = {}
    told: dict[int, str] = {}
    try:
        while waiting or processes:
            while waiting and len(processes) < at_once:
                seed = waiting.pop(0)
                processes[seed] = _start(home, profile, overrides, seed)
                say(f"seed {seed}: begins")
            time.sleep(LOOK_SECONDS / 10)
            boards = {board["pid"]: board for board in running(home).values()}
            for seed, process in list(processes.items()):
                if (code := process.poll()) is not None:
                    del processes[seed]
                    lives.append(Life(seed, code, _log(home, profile, seed)))
                    say(f"seed {seed}: {'ended' if code == 0 else f'ended with exit code {code}; see {lives[-1].log}'}")
                elif (state := _state(boards.get(process.pid))) and state != told.get(seed):
                    told[seed] = state
                    say(f"seed {seed}: {state}")
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.wait()
    return sorted(lives, key=lambda life: life.seed)


def _log(home: Home, profile: str, seed: int) -> Path:
    return home.local / "logs" / f"replicate-{Path(profile).stem}-seed-{seed}.log"


def _start(home: Home, profile: str, overrides: Sequence[str], seed: int) -> subprocess.Popen[bytes]:
    log = _log(home, profile, seed)
    log.parent.mkdir(parents=True, exist_ok=True)
    settings = [part for override in [*overrides, f"seed={seed}"] for part in ("--set", override)]
    environment = {**os.environ, "LIFESPAN_HOME": home.root, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.commands.cli", "run", profile, *settings],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
        )


def _state(board: Mapping[str, object] | None) -> str:
    """How many stages are done, in quarters: a line per stage would be too many."""
    stages = board["stages"] if board else []
    if not isinstance(stages, list) or not stages:
        return ""
    done = sum(stage["state"] in ("ran", "cached", "done") for stage in stages)
    quarter = 4 * done // len(stages)
    return f"{quarter * 25}% of {len(stages)} stages" if 0 < quarter < 4 else ""
