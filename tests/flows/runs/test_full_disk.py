"""A real small disk that fills up: one clear error, nothing half-written, and the next run goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from toy_life import Counting, Total, ToyConfig, count, scale, total
from toy_run import run_assembly

from flows.engine.graph import Graph
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.settings import ComputeConfig
from storage.home import Home

WORKERS = ToyConfig(compute=ComputeConfig(workers=1))


@stage(produces="checkpoint", group="pretraining")
def fill(work: Work, *, megabytes: int) -> Total:
    """Weights written by a library in Rust, which has an error type of its own."""
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(megabytes << 18)}, work.out / "model.safetensors")
    return Total(float(megabytes))


def filling_life(cfg: ToyConfig, run: Graph) -> None:
    numbers = count.submit(run, config=Counting())
    first = scale.submit(run, label="first", numbers=numbers, factor=1.0)
    big = fill.submit(run, megabytes=8)
    others = [fill.submit(run, label=f"fill{n}", megabytes=8 + n) for n in range(1, 4)]
    total.submit(run, parts=[first, big, *others])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small tmpfs takes root: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_full_disk_ends_the_run_with_one_error_and_more_space_finishes_it(small_disk: Path, console: Console) -> None:
    home = Home(small_disk / "home")
    first = run_assembly(filling_life, WORKERS, home=home, console=console, prefect=False, mlflow=False)
    assert first.status == "failed"
    (failed,) = first.failures.values()  # the others were not tried
    assert "disk is full while writing" in failed
    assert "free some space or point LIFESPAN_HOME elsewhere" in failed
    assert not list((small_disk / "home" / "artifacts" / ".tmp").iterdir())

    subprocess.run(["mount", "-o", "remount,size=128m", small_disk], check=True)
    second = run_assembly(filling_life, WORKERS, home=home, console=console, prefect=False, mlflow=False)
    assert second.status == "completed"
    assert second.outcomes["total"].artifact.facts["total"] == 3 + 8 + 9 + 10 + 11
    assert {second.outcomes[label].status for label in ("fill", "fill3")} == {"ran"}
