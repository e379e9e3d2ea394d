"""The small case of the benchmark for GPUs, so that it runs when there is one."""

from __future__ import annotations

import re
import sys

import pytest
import torch

from tests.benchmarks import gpu_speed


def test_every_measurement_of_the_small_case_gives_a_rate(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)  # its import alone takes longer than all of this
    scale = gpu_speed.small()
    told = list(gpu_speed.lines(scale, torch.device("cpu"), 1e12))
    assert [line.split(":")[0].split(" (")[0] for line in told] == [
        "train tiny",
        "train 4 experts",
        "generate, batch 1",
        "generate, batch 4",
    ]
    rates = [re.search(r"ours ([0-9,]+) tokens/s", line) for line in told]
    assert all(rate and int(rate[1].replace(",", "")) > 0 for rate in rates)
    assert "does not run" not in capsys.readouterr().out


def test_a_step_of_the_benchmark_trains_the_model_that_it_counts() -> None:
    cfg = gpu_speed.small().dense["tiny"]
    step = gpu_speed.our_step(cfg, gpu_speed.batch_of(cfg, 2, torch.device("cpu")), torch.device("cpu"))
    first, second = step(), step()
    assert second.loss < first.loss  # the same batch again
    assert second.tokens == 2 * cfg.context_length
