"""Layouts of large trainings: by hand, and where a small run can say so, measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.cost.hardware import find_hardware
from components.cost.layouts import (
    Layout,
    Training,
    best_layouts,
    device_memory,
    layouts,
    params_on_device,
    step_time,
)
from components.cost.public_models import find_model
from components.model.config import ModelConfig, MoEConfig, count_params, training_flops_per_token
from components.model.transformer import Transformer

SMALL = ModelConfig(vocab_size=300, d_model=128, num_layers=2, num_heads=4, qk_norm=False, context_length=256)
LLAMA = Training(find_model("llama-2-7b").config, find_hardware("h100-sxm"), 1024 * 4096, 4096)


def kept_bytes(cfg: ModelConfig, tokens: int) -> int:
    """What torch keeps for the backward pass of the layers, each storage once, weights left out."""
    model = Transformer(cfg, 0)
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.hidden(torch.randint(0, cfg.vocab_size, (1, tokens)))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("changed", [{}, {"num_kv_heads": 2}, {"d_model": 256}])
def test_activations_are_what_torch_keeps(changed: dict[str, int]) -> None:
    cfg = replace(SMALL, **changed)
    layers = kept_bytes(replace(cfg, num_layers=4), 256) - kept_bytes(cfg, 256)
    alone = Training(cfg, find_hardware("h100-sxm"), 256, 256)
    predicted = device_memory(alone, Layout(1)).activations  # of two layers in bf16; float32 is kept here
    assert layers == pytest.approx(2 * predicted, rel=0.05)


def test_memory_by_hand() -> None:
    params = count_params(LLAMA.model).total
    whole = device_memory(LLAMA, Layout(64, sharding="ddp"))
    assert whole.weights + whole.gradients + whole.optimizer == 16 * params
    assert whole.gathered == 0
    shared = device_memory(LLAMA, Layout(64))
    assert shared.optimizer == pytest.approx(12 * params / 64)
    assert shared.gathered == pytest.approx(2 * 2 * params / 32)
    # 2·4096 + 3·4096 + 5·4096 of attention, 2·4096 + 4·11008 of the hidden layer: 93,184 numbers per token and layer
    assert shared.activations == 2 * 93_184 * 4096 * 32
    assert shared.logits == 8 * 2048 * 32_000
    lean = device_memory(LLAMA, Layout(64, recompute=True))
    assert lean.activations == pytest.approx(2 * 4096 * 4096 * 32 + shared.activations / 32)
    split = device_memory(LLAMA, Layout(8, tensor=2, pipeline=4, sharding="ddp"))
    assert split.optimizer == pytest.approx(12 * params / 8)
    assert split.activations == pytest.approx(shared.activations / 2)  # 8 layers of 4 micro-batches, halved
    assert split.total == pytest.approx(sum(vars(split).values()))


def test_experts_are_spread_over_the_data_group() -> None:
    cfg = replace(SMALL, moe=MoEConfig(8, 2, d_ff=64))
    routed = 3 * 128 * 64 * 8 * 2
    dense, experts = params_on_device(cfg, Layout(8, expert=4))
    assert (dense, experts) == (count_params(cfg).total - routed, routed / 4)
    with pytest.raises(ValueError, match="expert is 3: takes a divisor of data, which is 8"):
        Layout(8, expert=3)


def test_a_step_by_hand() -> None:
    alone = step_time(replace(LLAMA, batch_tokens=4096), Layout(1), share=0.5)
    flops = training_flops_per_token(LLAMA.model, 4096) * 4096
    assert alone.seconds == pytest.approx(flops / (0.5 * 989e12), rel=1e-3)
    assert alone.mfu == pytest.approx(0.5) and alone.communication == 0
    again = step_time(replace(LLAMA, batch_tokens=4096), Layout(1, recompute=True), share=0.5)
    assert again.seconds == pytest.approx(alone.seconds * 4 / 3)
    tensor = step_time(replace(LLAMA, batch_tokens=4096), Layout(1, tensor=8), share=0.5)
    sent = 4 * 2 * 7 / 8 * (2 * 4096 * 4096) * 32  # four all-reduces a layer
    assert tensor.tensor == pytest.approx(sent / (900e9 / 2 * 0.8))
    pipeline = step_time(LLAMA, Layout(8, pipeline=8, sharding="ddp"), share=0.5)
    assert pipeline.bubble == pytest.approx(pipeline.compute * 7 / 128)
    data = step_time(LLAMA, Layout(64, sharding="ddp"), share=0.5)
    assert data.data == pytest.approx(2 * 63 / 64 * 2 * count_params(LLAMA.model).total / (50e9 * 0.8))
    assert data.exposed_data == 0
    slow = step_time(replace(LLAMA, network_bytes_per_second=1e9), Layout(64, sharding="ddp"), share=0.5)
    assert slow.exposed_data == pytest.approx(50 * data.data - slow.compute * 2 / 3)


def test_the_best_layouts_fit_and_are_sorted() -> None:
    found = best_layouts(LLAMA, 64)
    assert all(one.num_devices == 64 and memory.total <= 72e9 for one, memory, _ in found)
    seconds = [step.seconds for _, _, step in found]
    assert seconds == sorted(seconds)
    everything = [
        step_time(LLAMA, one).seconds for one in layouts(LLAMA, 64) if device_memory(LLAMA, one).total <= 72e9
    ]
    assert seconds[0] == min(everything)


@pytest.mark.parametrize(
    ("devices", "batch", "said"),
    [(4, 1024, "the leanest takes .* GB a device, of 72 GB"), (7, 1024, "cannot share steps of 4.1943e.06 tokens")],
)
def test_what_cannot_be_is_said(devices: int, batch: int, said: str) -> None:
    large = replace(LLAMA, model=find_model("llama-2-70b").config, batch_tokens=batch * 4096)
    with pytest.raises(ValueError, match=said):
        best_layouts(large, devices)
