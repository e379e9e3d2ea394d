from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.engine import autotune
from flows.settings import ComputeConfig


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
    return tmp_path / "lifespan"


def test_the_faster_way_is_taken_told_and_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(autotune, "measure", lambda options, width: measured.append(width) or [900.0, 500.0])
    said: list[str] = []
    first = autotune.settled(ComputeConfig(), 256, said.append)
    again = autotune.settled(ComputeConfig(), 256, said.append)
    assert (first.workers, first.threads_per_worker) == (again.workers, again.threads_per_worker) == (1, 2)
    assert measured == [256]
    assert said[-1] == "1 worker x 2 threads (tokens/s: 1x2 900, 2x1 500)"
    assert [json.loads(file.read_text()) for file in cache.iterdir()] == [[900.0, 500.0]]
    monkeypatch.setattr(autotune, "measure", lambda options, width: [500.0, 900.0])
    small = autotune.settled(ComputeConfig(), 64, said.append)  # another width is another question
    assert (small.workers, small.threads_per_worker) == (2, 1)


def test_what_the_user_set_stays() -> None:
    compute = ComputeConfig(workers=0, threads_per_worker=3)
    assert autotune.settled(compute, 64, lambda _: pytest.fail("nothing to tell")) is compute


def test_where_nothing_can_be_timed_workers_of_one_thread_are_taken(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    chosen = autotune.settled(ComputeConfig(), 64, lambda _: None)
    assert (chosen.workers, chosen.threads_per_worker) == (2, 1)


@pytest.mark.slow
def test_real_processes_are_timed_and_gone() -> None:
    rates = autotune.measure([(1, 1), (2, 1)], 16)
    assert len(rates) == 2
    assert min(rates) > 0
