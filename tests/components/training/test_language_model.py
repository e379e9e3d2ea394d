from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.training.checkpoints import load_model, save_model
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import (
    IGNORE,
    LMBatch,
    mean_loss,
    train,
)
from components.training.optimizers import Optimizer, newton_schulz
from components.training.schedules import ScheduleConfig, lr_factor
from components.training.state import load_state_tensors, state_tensors

MODEL = ModelConfig(vocab_size=32, d_model=32, num_layers=2, num_heads=2, context_length=16)
CONFIG = TrainConfig(num_steps=12, batch_size=8, context_length=16, schedule=ScheduleConfig("wsd", warmup_steps=3))


def batch_at(step: int) -> LMBatch:
    rows = torch.randint(0, 32, (8, 17), generator=torch.Generator().manual_seed(step))
    rows[:, 1::2] = rows[:, 0::2][:, :8]  # every second token repeats the one before: something to learn
    return LMBatch(rows[:, :-1], rows[:, 1:])


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), OptimizerConfig(muon_lr=0.0, weight_decay=0.1)])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
@pytest.mark.parametrize("moe", [None, MoEConfig(4, 1, 16)])
def test_a_run_that_stops_and_resumes_is_the_same_run_bit_for_bit(
    optimizer: OptimizerConfig, schedule: str, moe: MoEConfig | None
) -> None:
    config = replace(CONFIG, optimizer=optimizer, schedule=ScheduleConfig(schedule, 3), accumulation=2)  # type: ignore[arg-type]
    model_config = replace(MODEL, moe=moe)
    whole = Transformer(model_config, 0)
    losses = [record.loss for record in train(whole, Optimizer(whole, optimizer), config, batch_at)]

    first = Transformer(model_config, 0)
    stopped = Optimizer(first, optimizer)
    for _ in itertools.islice(train(first, stopped, config, batch_at), 5):
        pass
    saved = {name: tensor.clone() for name, tensor in state_tensors(first, stopped).items()}
    resumed = Transformer(model_config, 99)
    again = Optimizer(resumed, optimizer)
    load_state_tensors(resumed, again, saved)
    rest = [record.loss for record in train(resumed, again, config, batch_at, start_step=5)]
    assert rest == losses[5:]
    assert all(torch.equal(whole.state_dict()[name], value) for name, value in resumed.state_dict().items())


def test_it_learns() -> None:
    model = Transformer(MODEL, 0)
    config = replace(CONFIG, num_steps=150)
    losses = [record.loss for record in train(model, Optimizer(model, config.optimizer), config, batch_at)]
    # Half of the tokens are repeats: a model that knows it pays ln 32 for the other half alone.
    assert losses[0] == pytest.approx(torch.tensor(32.0).log().item(), rel=0.05)
    assert sum(losses[-10:]) / 10 < 0.8 * losses[0]


@pytest.mark.parametrize("moe", [None, MoEConfig(4, 2, 16, shared_d_ff=16)])
def test_bfloat16_learns_as_float32_does_with_weights_in_float32(moe: MoEConfig | None) -> None:
    last = {}
    for precision in ("float32", "bfloat16"):
        model = Transformer(replace(MODEL, moe=moe), 0)
        config = replace(CONFIG, num_steps=40, precision=precision)  # type: ignore[arg-type]
        losses = [record.loss for record in train(model, Optimizer(model, config.optimizer), config, batch_at)]
        last[precision] = sum(losses[-5:]) / 5
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert last["bfloat16"] != last["float32"]
    assert last["bfloat16"] == pytest.approx(last["float32"], rel=0.03)


@pytest.mark.parametrize("moe", [None, MoEConfig(4, 2, 16, load_balance_coef=1.0, router_z_coef=0.1)])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_gradient_is_that_of_the_whole_batch(precision: Any, moe: MoEConfig | None) -> None:
    """Also of routers, whose load is balanced over all parts together."""
    found = []
    for accumulation in (1, 2, 8):
        model = Transformer(replace(MODEL, moe=moe), 0)
        config = replace(CONFIG, num_steps=2, accumulation=accumulation, z_loss=0.01, precision=precision)
        optimizer, gradients = Optimizer(model, config.optimizer), {}

        def keep(rate: float, model: Transformer = model, gradients: dict[str, Any] = gradients) -> None:
            gradients |= {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

        optimizer.step = keep  # type: ignore[method-assign]
        next(train(model, optimizer, config, batch_at))
        found.append(gradients)
    for name, whole in found[0].items():
        for parts in found[1:]:
            error = (parts[name] - whole).norm() / whole.norm()
            assert error < (1e-5 if precision == "float32" else 0.03), name


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    weights = []
    for accumulation in (1, 4):
        model = Transformer(MODEL, 0)
        config = replace(CONFIG, num_steps=1, accumulation=accumulation, optimizer=OptimizerConfig(muon_lr=0.0))

        def ragged(step: int) -> LMBatch:
            batch = batch_at(step)
            targets = batch.targets_BT.clone()
            targets[0, 3:] = IGNORE  # micro-batches then hold unequal numbers of targets
            return LMBatch(batch.tokens_BT, targets)

        list(train(model, Optimizer(model, config.optimizer), config, ragged))
        weights.append(model.blocks[0].mlp.down.weight.detach().clone())
    # One Adam step moves by ±lr whatever the size of the gradient, so compare loosely where it is near 0.
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-3)


def test_mean_loss_is_that_of_a_softmax_over_the_targets_alone() -> None:
    model, batch = Transformer(MODEL, 0), batch_at(0)
    targets = batch.targets_BT.clone()
    targets[:, :10] = IGNORE
    loss, count = mean_loss(model, [LMBatch(batch.tokens_BT, targets)])
    with torch.no_grad():
        log_probs = model(batch.tokens_BT).double().log_softmax(-1)
    expected = -log_probs[:, 10:].gather(-1, batch.targets_BT[:, 10:, None]).mean()
    assert count == 8 * 6
    assert loss == pytest.approx(expected.item(), rel=1e-6)


def test_newton_schulz_brings_singular_values_near_one() -> None:
    x = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(newton_schulz(x))
    assert values.min() > 0.5
    assert values.max() < 1.3
    # Singular vectors stay: U V^T of the input is close.
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    cosine = torch.cosine_similarity(newton_schulz(x).flatten(1), (u @ vh).flatten(1))
    assert cosine.min() > 0.95


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ScheduleConfig("constant", 0), [1.0, 1.0, 1.0]),
        (ScheduleConfig("linear", 2), [0.5, 1.0, 0.25]),
        (ScheduleConfig("cosine", 2), [0.5, 1.0, 0.14644661]),
        (ScheduleConfig("wsd", 2, decay_fraction=0.5), [0.5, 1.0, 0.4]),
    ],
)
def test_schedules_by_hand(config: ScheduleConfig, expected: list[float]) -> None:
    # Ten steps, looked at in the first, the third and the ninth.
    assert [lr_factor(config, step, 10) for step in (0, 2, 8)] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0"),
        ({"z_loss": -1.0}, "z_loss is -1.0"),
        ({"accumulation": 3}, "accumulation is 3"),
    ],
)
def test_settings_that_would_train_nothing_or_backwards_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        TrainConfig(batch_size=32, **settings)
    with pytest.raises(ValueError, match="beta1 is 1"):
        OptimizerConfig(beta1=1.0)
    with pytest.raises(ValueError, match="decay_fraction is 3"):
        ScheduleConfig(decay_fraction=3)


def test_a_model_comes_back_from_disk_and_a_strange_folder_is_refused(tmp_path: Path) -> None:
    model = Transformer(replace(MODEL, moe=MoEConfig(2, 1, 8)), 5).eval()
    fuse(model)  # as what is loaded is
    save_model(tmp_path, model)
    tokens_BT = batch_at(0).tokens_BT
    assert torch.equal(load_model(tmp_path)(tokens_BT), model(tokens_BT))
    (tmp_path / "config.json").write_text('{"architectures": ["Other"]}')
    with pytest.raises(ValueError, match=r"config\.json is not a model config"):
        load_model(tmp_path)
