from __future__ import annotations

import copy

import pytest
import torch

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.training.config import LoRAConfig, OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.lora import LoRALinear, add_lora, merge_lora
from components.training.optimizers import Optimizer
from components.training.state import load_state_tensors, state_tensors

MODEL = ModelConfig(vocab_size=40, d_model=32, num_layers=2, num_heads=2, context_length=12)
LORA = LoRAConfig(rank=2, targets=("attention.qkv", "mlp.down"))
CONFIG = TrainConfig(num_steps=6, batch_size=4, context_length=12, optimizer=OptimizerConfig(adamw_lr=0.02))
TOKENS = torch.randint(0, 40, (4, 13), generator=torch.Generator().manual_seed(0))


def batch_at(step: int) -> LMBatch:
    return LMBatch(TOKENS[:, :-1], TOKENS[:, 1:])


def test_at_first_it_is_the_model_and_merged_it_is_the_adapted_one() -> None:
    model = Transformer(MODEL, 0)
    plain = copy.deepcopy(model)
    names = add_lora(model, LORA, seed=1)
    assert names == [f"blocks.{i}.{part}" for i in range(2) for part in ("attention.qkv", "mlp.down")]
    assert torch.equal(model(TOKENS[:, :-1]), plain(TOKENS[:, :-1]))

    losses = [record.loss for record in train(model, Optimizer(model, CONFIG.optimizer), CONFIG, batch_at)]
    assert losses[-1] < losses[0] - 0.05
    model.eval()
    adapted = model(TOKENS[:, :-1]).detach()
    assert not torch.allclose(adapted, plain(TOKENS[:, :-1]), atol=1e-2)
    a, b = (
        model.blocks[0].attention.qkv.lora_a.detach().double(),
        model.blocks[0].attention.qkv.lora_b.detach().double(),
    )
    merge_lora(model)
    torch.testing.assert_close(model(TOKENS[:, :-1]), adapted, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, LoRALinear) for module in model.modules())
    assert model.state_dict().keys() == plain.state_dict().keys()
    # W + alpha / rank · B A, and nothing else has moved.
    moved = plain.blocks[0].attention.qkv.weight.double() + 16.0 / 2 * b @ a
    torch.testing.assert_close(model.blocks[0].attention.qkv.weight.double(), moved, atol=1e-6, rtol=0)
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, plain.state_dict()[n])}
    assert changed == {f"{name}.weight" for name in names}
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_state_holds_the_adapters_alone_and_resumes() -> None:
    model = Transformer(MODEL, 0)
    add_lora(model, LORA, seed=1)
    optimizer = Optimizer(model, CONFIG.optimizer)
    steps = train(model, optimizer, CONFIG, batch_at)
    for _ in range(3):
        next(steps)
    saved = {name: value.clone() for name, value in state_tensors(model, optimizer).items()}
    assert {name.rsplit(".", 1)[1] for name in saved if name.startswith("model.")} == {"lora_a", "lora_b"}
    size = sum(value.numel() for value in saved.values())
    assert size < 0.5 * sum(parameter.numel() for parameter in model.parameters())
    list(steps)

    again = Transformer(MODEL, 0)  # the base comes from its artifact
    add_lora(again, LORA, seed=2)
    resumed = Optimizer(again, CONFIG.optimizer)
    load_state_tensors(again, resumed, saved)
    list(train(again, resumed, CONFIG, batch_at, start_step=3))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())

    with pytest.raises(RuntimeError, match="other tensors than the model trains"):
        load_state_tensors(Transformer(MODEL, 0), resumed, saved)


def test_a_target_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(
        ValueError, match=r"ends with 'q_proj'; there are blocks\.attention\.out, blocks\.attention\.qkv"
    ):
        add_lora(Transformer(MODEL, 0), LoRAConfig(targets=("q_proj",)), seed=0)
