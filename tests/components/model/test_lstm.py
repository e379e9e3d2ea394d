from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.model.config import (
    LSTMConfig,
    ModelConfig,
    MoEConfig,
    count_params,
    equal_lstm,
    forward_flops_per_token,
    products_in_a_row,
    training_flops_per_token,
)
from components.model.lstm import RecurrentModel
from components.training.config import OptimizerConfig, TrainConfig
from components.training.language_model import LMBatch, train
from components.training.optimizers import Optimizer
from components.training.state import load_state_tensors, state_tensors

SMALL = LSTMConfig(vocab_size=23, d_model=12, num_layers=2, hidden=10, context_length=16)


def tokens(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 23, (rows, length), generator=torch.Generator().manual_seed(seed))


def by_hand(model: RecurrentModel, row: Tensor) -> Tensor:
    """Logits [T, V] of one row in float64, gate by gate (Gers et al. 2000, eq. 1-6; no peepholes)."""
    w = {name: value.double() for name, value in model.state_dict().items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean() + model.cfg.norm_eps).sqrt() * weight

    streams = [w["embedding.weight"][token] for token in row]
    for layer in range(model.cfg.num_layers):
        part = {
            name.removeprefix(f"blocks.{layer}."): v for name, v in w.items() if name.startswith(f"blocks.{layer}.")
        }
        h = c = torch.zeros(model.cfg.hidden, dtype=torch.float64)
        for t, x in enumerate(streams):
            z = part["lstm.weight_ih_l0"] @ norm(x, part["norm.weight"]) + part["lstm.bias_ih_l0"]
            i, f, g, o = (z + part["lstm.weight_hh_l0"] @ h + part["lstm.bias_hh_l0"]).chunk(4)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            streams[t] = x + part["down.weight"] @ h
    return torch.stack([w["embedding.weight"] @ norm(x, w["norm.weight"]) for x in streams])


def test_logits_equal_the_cell_written_out_in_float64() -> None:
    model = RecurrentModel(SMALL, 1)
    with torch.no_grad():  # also the biases, which start at 0 and 1
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    row = tokens(1, 9)[0]
    expected = by_hand(model, row)
    torch.testing.assert_close(model.double()(row[None])[0], expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(model.float()(row[None])[0], expected.float(), atol=2e-5, rtol=1e-4)


def test_gradients_of_the_fused_kernel_equal_those_in_float64() -> None:
    grads = []
    for dtype in (torch.float32, torch.float64):
        model = RecurrentModel(SMALL, 2).to(dtype)
        model(tokens(4, 11)).square().mean().backward()
        grads.append({name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == dict(RecurrentModel(SMALL).named_parameters()).keys()
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], atol=1e-6, rtol=1e-4)


def test_a_token_does_not_see_the_future() -> None:
    model, first = RecurrentModel(SMALL, 3), tokens(2, 12)
    second = first.clone()
    second[:, 7:] = tokens(2, 5, 9)
    torch.testing.assert_close(model(first)[:, :7], model(second)[:, :7])


def test_packed_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="one document a row"):
        RecurrentModel(SMALL).hidden(tokens(1, 4), documents_BT=torch.zeros(1, 4))


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 50), st.booleans())
@settings(max_examples=20, deadline=None)
def test_counts_are_those_of_the_built_model(d: int, layers: int, hidden: int, tied: bool) -> None:
    cfg = LSTMConfig(19, d, layers, hidden, tie_embeddings=tied)
    model = RecurrentModel(cfg)
    counts = count_params(cfg)
    assert counts.total == counts.active == sum(p.numel() for p in model.parameters())
    assert counts.non_embedding == counts.total - counts.embedding == counts.total - 19 * d * (1 if tied else 2)


def test_flops_by_hand() -> None:
    """A block of d=3, h=2: four gates of 2 from 3 + 2 inputs, and 3 from 2; logits of 7 from 3."""
    cfg = LSTMConfig(7, 3, 2, 2)
    assert forward_flops_per_token(cfg, 10) == 2 * (2 * (4 * 2 * 5 + 2 * 3) + 3 * 7)
    assert forward_flops_per_token(cfg, 10) == forward_flops_per_token(cfg, 1000)
    assert training_flops_per_token(cfg, 10) == 3 * forward_flops_per_token(cfg, 10)


@pytest.mark.filterwarnings("ignore:TF32")
def test_flops_are_what_torch_counts() -> None:
    """torch's counter sees the products of an LSTM that is not fused into one kernel."""
    from torch.utils.flop_counter import FlopCounterMode

    model = RecurrentModel(SMALL)
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        model(tokens(2, 8))
    assert counter.get_total_flops() == 16 * forward_flops_per_token(SMALL, 8)


@pytest.mark.parametrize("width", [32, 48, 64, 128])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_equal_lstm_has_within_2_percent_the_parameters(width: int, layers: int) -> None:
    cfg = ModelConfig(vocab_size=512, d_model=width, num_layers=3, num_heads=2)
    ours, theirs = count_params(equal_lstm(cfg, layers)), count_params(cfg)
    assert ours.total == pytest.approx(theirs.total, rel=0.02)
    assert ours.embedding == theirs.embedding


def test_what_cannot_be_equal_is_refused() -> None:
    with pytest.raises(ValueError, match="change the number of layers"):
        equal_lstm(ModelConfig(vocab_size=8, d_model=8, num_heads=1, num_layers=1), 12)


def test_only_the_recurrence_waits_for_every_position() -> None:
    cfg = ModelConfig(num_layers=3)
    assert [products_in_a_row(cfg, context) for context in (1, 512)] == [19, 19]
    assert [products_in_a_row(LSTMConfig(num_layers=2), context) for context in (1, 512)] == [5, 516]
    assert products_in_a_row(ModelConfig(num_layers=3, moe=MoEConfig(first_dense=1)), 512) == 21


def batch(step: int) -> LMBatch:
    """Each token follows from the one before."""
    rows = tokens(16, 1, step)
    while rows.shape[1] < 17:
        rows = torch.cat([rows, (rows[:, -1:] * 5 + 3) % 23], 1)
    return LMBatch(rows[:, :-1], rows[:, 1:])


def test_the_loop_of_the_transformer_trains_it_and_resumes_bit_for_bit() -> None:
    cfg = TrainConfig(60, 16, 16, optimizer=OptimizerConfig(adamw_lr=0.02))
    straight = RecurrentModel(SMALL)
    optimizer = Optimizer(straight, cfg.optimizer)
    losses = []
    for record in train(straight, optimizer, cfg, batch):
        losses.append(record.loss)
        if record.step == 20:
            state = {name: value.clone() for name, value in state_tensors(straight, optimizer).items()}
    assert losses[0] == pytest.approx(math.log(23), rel=0.1)
    assert losses[-1] < 0.6 * losses[0]
    resumed = RecurrentModel(SMALL, seed=1)
    optimizer = Optimizer(resumed, cfg.optimizer)
    load_state_tensors(resumed, optimizer, state)
    list(train(resumed, optimizer, cfg, batch, start_step=20))
    ours, theirs = straight.state_dict(), resumed.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_products_in_bfloat16_train_it_too_on_any_cpu() -> None:
    cfg = TrainConfig(3, 16, 16, precision="bfloat16", optimizer=OptimizerConfig(adamw_lr=0.02))
    model, plain = RecurrentModel(SMALL), RecurrentModel(SMALL)
    losses = [record.loss for record in train(model, Optimizer(model, cfg.optimizer), cfg, batch)]
    cfg = TrainConfig(3, 16, 16, optimizer=OptimizerConfig(adamw_lr=0.02))
    expected = [record.loss for record in train(plain, Optimizer(plain, cfg.optimizer), cfg, batch)]
    assert losses == pytest.approx(expected, rel=0.02) and losses != expected
