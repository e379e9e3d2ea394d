"""The device that training computes on, and what is said of one that is not there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

from components.cost.prices import find_price
from flows import stages
from flows.config import load_config
from flows.engine.device import ON_DEVICE, check_hardware, usable
from flows.lifecycle import run_lifecycle
from flows.settings import ComputeConfig, ConfigError
from storage.home import Home


def test_a_device_that_is_there() -> None:
    assert usable("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "gpu", "cuda:99", "xla"])
def test_a_device_that_cannot_compute_is_told_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"compute.device = '{name}'.*take \"cpu\"") as told:
        usable(name)
    assert "\n" not in str(told.value)


def test_an_accelerator_is_booked_at_its_own_power_and_price(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hardware is 'cpu-core' while compute.device is 'cuda:1'.*h100-sxm"):
        check_hardware(ComputeConfig(device="cuda:1"))
    cfg = load_config("smoke", ["compute.device=cuda"])
    with pytest.raises(ConfigError, match="energy and dollars would be those of a core"):
        run_lifecycle(cfg, home=Home(tmp_path), prefect=False, mlflow=False, only=["pretrain"])
    card = ComputeConfig(device="cuda", hardware="h100-sxm")
    check_hardware(card)
    check_hardware(ComputeConfig())
    assert card.usd_per_core_hour == find_price("h100-sxm").usd_per_hour > 1


def test_stages_that_take_a_device_are_those_that_compute_there() -> None:
    """By their source: what a stage names of its device, the models that several stages share, or the judge's."""
    found = set()
    for file in Path(stages.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("stage(" in ast.unparse(d) for d in node.decorator_list):
                body = ast.unparse(node)
                if any(name in body for name in ("work.device", "open_bench(", "_by_model(")):
                    found.add(node.name)
    assert found == set(ON_DEVICE)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_training_on_a_gpu_learns_what_it_learns_on_a_cpu(tmp_path: Path) -> None:
    losses = {}
    hardware = {"cpu": "cpu-core", "cuda": "h100-sxm"}
    for device in ("cpu", "cuda"):
        where = [f"compute.device={device}", f"compute.hardware={hardware[device]}"]
        cfg = load_config("smoke", [*where, "compute.workers=0"])
        home = Home(tmp_path / device)
        result = run_lifecycle(cfg, home=home, prefect=False, mlflow=False, only=["finetune"])
        losses[device] = [result.outcomes[label].artifact.facts["loss"] for label in ("pretrain", "finetune")]
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=0.05)
