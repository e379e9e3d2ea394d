"""Coordinate check: with base_width set, activations and their changes keep their size as the width grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer
from components.training.schedules import ScheduleConfig
from components.training.transfer import scale_output

WIDTHS = (16, 64, 256)
ADAMW = OptimizerConfig(muon_lr=0.0, adamw_lr=0.01)
MUON = OptimizerConfig(muon_lr=0.05, adamw_lr=0.01)
ROWS = torch.randint(0, 64, (8, 17), generator=torch.Generator().manual_seed(0))


def change_of_logits(width: int, optimizer: OptimizerConfig, tied: bool = True) -> float:
    """How far (root mean square) four steps on one batch move its logits."""
    cfg = ModelConfig(64, width, 2, width // 16, context_length=16, tie_embeddings=tied)
    model = Transformer(cfg, 0)
    scale_output(model, optimizer)
    config = TrainConfig(4, 8, 16, optimizer=optimizer, schedule=ScheduleConfig("constant", 0), max_grad_norm=1e9)
    with torch.no_grad():
        before = model(ROWS[:, :-1])
    for _ in train(model, Optimizer(model, optimizer), config, lambda step: LMBatch(ROWS[:, :-1], ROWS[:, 1:])):
        pass
    with torch.no_grad():
        return float((model(ROWS[:, :-1]) - before).square().mean().sqrt())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rates", [ADAMW, MUON], ids=["adamw", "muon"])
def test_the_same_rates_move_the_logits_as_far_at_every_width(rates: OptimizerConfig, tied: bool) -> None:
    moved = [change_of_logits(width, replace(rates, base_width=16), tied) for width in WIDTHS]
    plain = [change_of_logits(width, rates, tied) for width in WIDTHS]
    assert max(moved) / min(moved) < 3
    assert plain[2] > 1.4 * plain[0]  # without it they move further the wider the model


def test_at_the_base_width_nothing_changes_for_adamw() -> None:
    assert change_of_logits(64, replace(ADAMW, base_width=64)) == change_of_logits(64, ADAMW)


def test_rates_and_decay_by_hand() -> None:
    cfg = ModelConfig(64, 64, 1, 4, context_length=16, moe=MoEConfig(4, 1, 32))
    model = Transformer(cfg, 0)
    optimizer = Optimizer(model, OptimizerConfig(muon_lr=0.0, adamw_lr=0.1, weight_decay=0.2, base_width=16))
    optimizer.step(0.5)  # no gradients: only the rates are set
    names = {id(param): name for name, param in model.named_parameters()}
    found = {
        names[id(param)]: (group["lr"], group["weight_decay"])
        for group in optimizer.adamw.param_groups
        for param in group["params"]
    }
    shrunk, plain = (0.0125, pytest.approx(0.8)), (0.05, pytest.approx(0.2))
    assert found["blocks.0.attention.qkv.weight"] == shrunk
    assert found["blocks.0.mlp.gate_up"] == shrunk
    assert found["blocks.0.mlp.router.weight"] == shrunk
    assert found["embedding.weight"] == plain
    assert found["blocks.0.mlp_norm.weight"] == (0.05, 0.0)
    assert found["norm.weight"] == (0.0125, 0.0)


def test_muon_moves_by_the_root_of_fan_out_over_fan_in() -> None:
    model = Transformer(ModelConfig(64, 32, 1, 2, d_ff=128, context_length=16), 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = Optimizer(model, OptimizerConfig(muon_lr=0.1, base_width=32))
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel()))
    optimizer.step(1.0)
    for name, rows, columns in (("mlp.down", 32, 128), ("mlp.gate_up", 256, 32), ("attention.out", 32, 32)):
        delta = model.state_dict()[f"blocks.0.{name}.weight"] - before[f"blocks.0.{name}.weight"]
        size = torch.linalg.matrix_norm(delta, 2) / (0.1 * (rows / columns) ** 0.5)
        assert 0.7 < float(size) < 1.3  # as near to 1 as five iterations come


def test_a_model_without_a_width_is_refused() -> None:
    with pytest.raises(ValueError, match="a Linear has no d_model"):
        Optimizer(torch.nn.Linear(2, 2), OptimizerConfig(base_width=16))
