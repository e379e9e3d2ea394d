"""The device that training computes on, and what is said of one that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.config import load_config
from flows.engine.device import usable
from flows.lifecycle import run_lifecycle
from flows.settings import ConfigError
from storage.home import Home


def test_a_device_that_is_there() -> None:
    assert usable("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["meta", "gpu", "cuda:99", "xla"])
def test_a_device_that_cannot_compute_is_told_in_one_line(name: str) -> None:
    with pytest.raises(ConfigError, match=f"compute.device = '{name}'.*take \"cpu\"") as told:
        usable(name)
    assert "\n" not in str(told.value)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_training_on_a_gpu_learns_what_it_learns_on_a_cpu(tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        cfg = load_config("smoke", [f"compute.device={device}", "compute.workers=0"])
        home = Home(tmp_path / device)
        result = run_lifecycle(cfg, home=home, prefect=False, mlflow=False, only=["finetune"])
        losses[device] = [result.outcomes[label].artifact.facts["loss"] for label in ("pretrain", "finetune")]
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=0.05)
