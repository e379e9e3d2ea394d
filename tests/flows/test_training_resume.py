"""kill -9 at any moment: the training stage that is started again gives the same bits as one left alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from toy_training import CASES, EVERY, live, make_world

from components.training.config import LoRAConfig
from storage.artifacts import Artifact, Store


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """The process that attempts are forked from: it has torch in memory, so that an attempt costs no import."""
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:  # it preloads with the path of its start, not with ours
        patch.setenv("PYTHONPATH", f"{here}{os.pathsep}{here.parents[1]}")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["toy_training"])
        forkserver.ensure_running()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Artifact]]:
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


def attempt(case: str, folder: Path, world: tuple[Path, dict[str, Artifact]]) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    place, made = world
    handles = {name: artifact.to_json() for name, artifact in made.items()}
    process = context.Process(target=live, args=(case, str(folder), str(place), handles))
    process.start()
    return process


def steps_saved(folder: Path) -> int:
    return max((int(file.stem.removeprefix("step-")) for file in (folder / "state").glob("step-*.json")), default=0)


def undisturbed_and_killed(
    case: str, folder: Path, world: tuple[Path, dict[str, Artifact]], kills: int
) -> tuple[Path, Path]:
    """The folders of a run left alone and of one killed `kills` times, each time at least a step further on."""
    alone, killed = folder / "alone", folder / "killed"
    first = attempt(case, alone, world)
    first.join(120)
    assert first.exitcode == 0
    rng = random.Random(case)
    deaths = 0
    while deaths < kills:
        process = attempt(case, killed, world)
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
    last = attempt(case, killed, world)
    last.join(120)
    assert last.exitcode == 0
    return alone, killed


def told(folder: Path) -> Any:
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CASES)
def test_a_killed_stage_ends_with_the_same_bits(
    case: str, tmp_path: Path, world: tuple[Path, dict[str, Artifact]]
) -> None:
    alone, killed = undisturbed_and_killed(case, tmp_path, world, kills=1)
    assert (alone / "out/model.safetensors").read_bytes() == (killed / "out/model.safetensors").read_bytes()
    # What it reports is the same too: each metric of each step once, and the same facts.
    assert told(alone) == told(killed)


def test_the_toy_cases_do_what_they_are_there_for(tmp_path: Path, world: tuple[Path, dict[str, Artifact]]) -> None:
    facts = {}
    for case in ("fine-tuning, adapters that overfit", "divergence", "fine-tuning, replay, noise"):
        process = attempt(case, tmp_path / case, world)
        process.join(120)
        facts[case] = told(tmp_path / case)["facts"]
    overfit = facts["fine-tuning, adapters that overfit"]
    assert overfit["num_steps"] < 24  # it stopped early, and the best look is kept
    assert overfit["overfitting"] > 0
    assert overfit["best_step"] < overfit["last_step"]
    # The adapters went into their matrices; everything else is the base's, bit for bit, under the same names.
    place, made = world
    base = load_file(Store(place / "artifacts").path(made["base"]) / "model.safetensors")
    tuned = load_file(tmp_path / "fine-tuning, adapters that overfit/out/model.safetensors")
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert base.keys() == tuned.keys()
    assert changed == {f"blocks.0.{name}.weight" for name in LoRAConfig().targets}
    assert facts["divergence"]["rollbacks"] == 1
    assert facts["divergence"]["skipped_steps"] == 3
    assert facts["fine-tuning, replay, noise"]["skipped_steps"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY)
def test_every_optimizer_schedule_and_accumulation_survives_kills(
    case: str, tmp_path: Path, world: tuple[Path, dict[str, Artifact]]
) -> None:
    alone, killed = undisturbed_and_killed(case, tmp_path, world, kills=4)
    assert (alone / "out/model.safetensors").read_bytes() == (killed / "out/model.safetensors").read_bytes()
    assert told(alone) == told(killed)
