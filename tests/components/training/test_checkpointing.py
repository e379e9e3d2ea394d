"""Gradient checkpointing: the same loss and gradient, and far fewer activations kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from components.model.config import ModelConfig, MoEConfig
from components.model.lstm import LSTMConfig, RecurrentModel
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.training.checkpointing import checkpoint_blocks
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, summed_loss, train
from components.training.optimizers import Optimizer

MODEL = ModelConfig(vocab_size=40, d_model=32, num_layers=4, num_heads=2, context_length=24)
TOKENS = torch.randint(0, 40, (4, 25), generator=torch.Generator().manual_seed(0))
BATCH = LMBatch(TOKENS[:, :-1], TOKENS[:, 1:])
KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "experts": {"moe": MoEConfig(num_experts=4, top_k_experts=2, d_ff=16, load_balance_coef=0.1)},
    "norms behind, which the kernels do not take": {"norm_placement": "after"},
}


def loss_of(model: Transformer) -> tuple[float, list[torch.Tensor], int]:
    """Loss, gradients, and the bytes that the forward pass keeps for them, weights aside."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def note(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        cross_entropy, _, auxiliary = summed_loss(model, BATCH)
    (cross_entropy + auxiliary).backward()
    return float(cross_entropy.detach()), [p.grad for p in model.parameters() if p.grad is not None], sum(kept.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_the_same_and_a_block_keeps_its_input_alone(kind: str) -> None:
    cfg = dataclasses.replace(MODEL, **KINDS[kind])
    plain, checked = (Transformer(cfg, 1).train() for _ in range(2))
    fuse(plain)
    checkpoint_blocks(checked)
    loss, gradients, size = loss_of(plain)
    again, same, less = loss_of(checked)
    assert again == pytest.approx(loss, rel=1e-6)
    assert len(same) == len(gradients) == len(list(plain.parameters()))
    for a, b in zip(same, gradients, strict=True):
        assert float((a - b).norm()) <= 3e-6 * float(b.norm())
    assert less < 0.4 * size
    assert checked.state_dict().keys() == plain.state_dict().keys()


def test_a_training_takes_it_as_a_setting_and_accumulates() -> None:
    config = TrainConfig(num_steps=3, batch_size=4, context_length=24, optimizer=OptimizerConfig(muon_lr=0.0))
    losses = []
    for gradient_checkpointing in (False, True):
        changed = dataclasses.replace(config, gradient_checkpointing=gradient_checkpointing, accumulation=2)
        model = Transformer(MODEL, 0)
        records = train(model, Optimizer(model, changed.optimizer), changed, lambda step: BATCH)
        losses.append([record.loss for record in records])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5) and losses[0][2] < losses[0][0]


def test_a_model_without_blocks_is_told() -> None:
    with pytest.raises(ValueError, match="gradient_checkpointing: a RecurrentModel has no blocks"):
        checkpoint_blocks(RecurrentModel(LSTMConfig(vocab_size=40, d_model=16, num_layers=1, context_length=24)))
