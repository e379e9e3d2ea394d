"""kill -9 at any moment: the training stage that is started again gives the same bits as one left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from killing import World, attempt, start_server, told, undisturbed_and_killed
from safetensors.torch import load_file
from toy_training import CASES, ENDS_IN_DIVERGENCE, EVERY, live, make_world

from components.training.config import LoRAConfig
from components.training.guard import TrainingDiverged
from components.training.lora import load_lora
from storage.artifacts import Store


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    start_server()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return folder, make_world(folder)


@pytest.mark.parametrize("case", CASES)
def test_a_killed_stage_ends_with_the_same_bits(case: str, tmp_path: Path, world: World) -> None:
    alone, killed = undisturbed_and_killed(live, case, tmp_path, world, kills=1)
    files = [{file.name: file.read_bytes() for file in (one / "out").glob("*.safetensors")} for one in (alone, killed)]
    assert files[0] == files[1] and "model.safetensors" in files[0]  # adapters, too
    # What it reports is the same too: each metric of each step once, and the same facts.
    assert told(alone) == told(killed)


def test_the_toy_cases_do_what_they_are_there_for(tmp_path: Path, world: World) -> None:
    facts = {}
    for case in ("fine-tuning, adapters that overfit", "divergence", "fine-tuning, replay, noise"):
        process = attempt(live, case, tmp_path / case, world)
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
    adapters, alphas = load_lora(tmp_path / "fine-tuning, adapters that overfit/out/adapters.safetensors")
    for name in (name.removesuffix(".lora_a") for name in adapters if name.endswith(".lora_a")):
        product = (
            alphas[name] / len(adapters[f"{name}.lora_a"]) * adapters[f"{name}.lora_b"] @ adapters[f"{name}.lora_a"]
        )
        assert torch.equal(base[f"{name}.weight"] + product, tuned[f"{name}.weight"]), name
    changed = {name for name in base if not torch.equal(base[name], tuned[name])}
    assert base.keys() == tuned.keys()
    assert changed == {f"blocks.0.{name}.weight" for name in LoRAConfig().targets}
    assert facts["divergence"]["rollbacks"] == 1
    assert facts["divergence"]["skipped_steps"] == 3
    assert facts["fine-tuning, replay, noise"]["skipped_steps"] == 0


@pytest.mark.parametrize("case", ENDS_IN_DIVERGENCE)
def test_weights_that_blow_up_at_the_end_are_no_checkpoint(case: str, tmp_path: Path, world: World) -> None:
    folder, made = world
    with pytest.raises(
        TrainingDiverged, match=r"held-out loss is nan, after 3 skipped steps, 3 of them at the end: lowe"
    ):
        live(case, str(tmp_path), str(folder), {name: artifact.to_json() for name, artifact in made.items()})
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("case", EVERY)
def test_every_optimizer_schedule_and_accumulation_survives_kills(case: str, tmp_path: Path, world: World) -> None:
    alone, killed = undisturbed_and_killed(live, case, tmp_path, world, kills=4)
    assert (alone / "out/model.safetensors").read_bytes() == (killed / "out/model.safetensors").read_bytes()
    assert told(alone) == told(killed)
