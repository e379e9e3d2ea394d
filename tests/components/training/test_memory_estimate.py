"""Memory of a training from its shapes, against the tensors of one."""

from __future__ import annotations

import itertools

import pytest
import torch

from components.model import loss
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.native import kernels
from components.training import memory_estimate
from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig, TrainConfig
from components.training.guard import Guard
from components.training.language_model import LMBatch, train
from components.training.lora import add_lora
from components.training.memory_estimate import Training, adapter_params, training_memory
from components.training.optimizers import Optimizer
from components.training.state import state_tensors

MODEL = ModelConfig(512, 64, 3, 4, 2, context_length=64)
ADAMW, MUON = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-3), OptimizerConfig(muon_lr=0.01)
SNAPSHOTS, NONE = NonFiniteConfig(snapshot_every=1), NonFiniteConfig(max_rollbacks=0)


def batch_at(step: int) -> LMBatch:
    rows = torch.randint(0, 512, (4, 65), generator=torch.Generator().manual_seed(step))
    return LMBatch(rows[:, :-1], rows[:, 1:])


@pytest.mark.parametrize(("optimizer", "lora"), [(ADAMW, None), (MUON, None), (ADAMW, LoRAConfig(rank=4))])
def test_weights_optimizer_and_snapshot_are_the_tensors_of_a_training(
    optimizer: OptimizerConfig, lora: LoRAConfig | None
) -> None:
    network = Transformer(MODEL, 0)
    if lora:
        add_lora(network, lora, 0)
    learned, guard = Optimizer(network, optimizer), Guard(SNAPSHOTS)
    config = TrainConfig(2, 4, 64, optimizer=optimizer, non_finite=SNAPSHOTS)
    list(itertools.islice(train(network, learned, config, batch_at, guard=guard), 2))
    found = training_memory(Training(MODEL, 4, 64, optimizer, non_finite=SNAPSHOTS, lora=lora))
    weights = sum(param.nbytes for param in network.parameters())
    trained = sum(param.nbytes for param in network.parameters() if param.requires_grad)
    state = sum(tensor.nbytes for tensor in state_tensors(network, learned).values())
    assert found.weights == weights
    assert found.optimizer == pytest.approx(state - trained, rel=0.01)  # beside moments there are counts of steps
    assert found.snapshot == pytest.approx(sum(t.nbytes for t in guard.snapshot.values()), rel=0.01)
    assert training_memory(Training(MODEL, 4, 64, optimizer, non_finite=NONE)).snapshot == 0


@pytest.mark.parametrize("targets", [("attention.qkv",), ("attention.out", "mlp.gate_up", "mlp.down")])
def test_adapters_are_counted_by_their_shapes(targets: tuple[str, ...]) -> None:
    lora, network = LoRAConfig(rank=3, targets=targets), Transformer(MODEL, 0)
    add_lora(network, lora, 0)
    assert adapter_params(MODEL, lora) == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_checkpointing_keeps_one_layer_and_the_input_of_each() -> None:
    plain, saved = (training_memory(Training(MODEL, 4, 64, ADAMW, checkpointing=x)).activations for x in (False, True))
    each = plain / MODEL.num_layers
    assert saved == each + MODEL.num_layers * 4 * 64 * 4 * MODEL.d_model < plain


def test_its_limits_are_those_of_the_code_that_it_speaks_of() -> None:
    """It needs no torch, so it cannot take them from there."""
    assert memory_estimate.LOGITS_BYTES == loss.LOGITS_BYTES
    assert memory_estimate.SCORES_LIMIT == kernels.SCORES_LIMIT
