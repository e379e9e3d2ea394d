"""Lives side by side, one per seed: as many at once as asked for, logs kept, a failure told and not hidden."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from flows.runs import replicate
from storage.home import Home


def fake(script: str, started: list[int]) -> object:
    def start(home: Home, profile: str, overrides: Sequence[str], seed: int) -> subprocess.Popen[bytes]:
        started.append(seed)
        return subprocess.Popen([sys.executable, "-c", script.format(seed=seed)])

    return start


def test_each_seed_runs_once_and_a_failed_one_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    monkeypatch.setattr(replicate, "_start", fake("import sys; sys.exit({seed} == 1)", started))
    lines: list[str] = []
    lives = replicate.replicate(home, "smoke", [], [0, 1, 2], lines.append, at_once=2)
    assert started == [0, 1, 2]
    assert [(life.seed, life.code) for life in lives] == [(0, 0), (1, 1), (2, 0)]
    assert any("seed 1: ended with exit code 1; see" in line and "replicate-smoke-seed-1.log" in line for line in lines)


def test_an_interrupt_ends_every_life(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []

    def start(home: Home, profile: str, overrides: Sequence[str], seed: int) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return processes[-1]

    def interrupt(line: str) -> None:
        if len(processes) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(replicate, "_start", start)
    with pytest.raises(KeyboardInterrupt):
        replicate.replicate(home, "smoke", [], [0, 1, 2], interrupt, at_once=2)
    assert [process.poll() is not None for process in processes] == [True, True]
