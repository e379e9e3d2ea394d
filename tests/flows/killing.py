"""Stages that are killed on purpose: attempts as forked processes, and a run beside one that is killed repeatedly."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from storage.artifacts import Artifact

Live = Callable[
    [str, str, str, dict[str, str]], None
]  # case, folder of the attempt, folder of the world, its artifacts
World = tuple[Path, dict[str, Artifact]]


def start_server() -> None:
    """Start the process that attempts are forked from: it has torch in memory, so that an attempt costs no import."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:  # it preloads with the path of its start, not with ours
        patch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parents[1]}")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["toy_training", "toy_alignment"])
        forkserver.ensure_running()


def attempt(live: Live, case: str, folder: Path, world: World) -> BaseProcess:
    """Start one attempt at a case in `folder`."""
    context = multiprocessing.get_context("forkserver")
    place, made = world
    handles = {name: artifact.to_json() for name, artifact in made.items()}
    process = context.Process(target=live, args=(case, str(folder), str(place), handles))
    process.start()
    return process


def steps_saved(folder: Path) -> int:
    """Steps of the newest state of an attempt."""
    return max((int(file.stem.removeprefix("step-")) for file in (folder / "state").glob("step-*.json")), default=0)


def undisturbed_and_killed(live: Live, case: str, folder: Path, world: World, kills: int) -> tuple[Path, Path]:
    """The folders of a run left alone and of one killed `kills` times, each time at least a step further on."""
    alone, killed = folder / "alone", folder / "killed"
    first = attempt(live, case, alone, world)
    first.join(120)
    assert first.exitcode == 0
    rng = random.Random(case)
    deaths = 0
    while deaths < kills:
        process = attempt(live, case, killed, world)
        reached = steps_saved(killed) + rng.randint(1, 6)
        while process.is_alive() and steps_saved(killed) < reached:
            process.join(0.002)
        process.join(rng.random() * 0.02)  # anywhere in a step, or in the writing of a state
        process.kill()
        process.join(60)
        if process.exitcode == 0:
            break  # it was faster
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
        shutil.rmtree(killed / "out")
    assert deaths
    last = attempt(live, case, killed, world)
    last.join(120)
    assert last.exitcode == 0
    return alone, killed


def told(folder: Path) -> Any:
    """What a stage reported when it ended."""
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))
