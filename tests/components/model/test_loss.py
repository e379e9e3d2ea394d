"""The loss in chunks against the whole one, in float64: values and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from components.inference.engine import token_log_probs
from components.model import loss
from components.model.config import LSTMConfig, ModelConfig, MoEConfig
from components.model.loss import CrossEntropy, Unembedding, chunked_cross_entropy, chunked_log_probs
from components.model.lstm import LanguageModel, RecurrentModel
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.rlhf.rollouts import token_stats
from components.training.validation import target_losses

IGNORE = -100
V, D = 37, 8


@pytest.fixture
def three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three rows, for any vocabulary below 64."""
    monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 3 * 4 * V})


def inputs(n: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=g, dtype=torch.float64).to(dtype).requires_grad_()
    targets = torch.randint(0, V, (n,), generator=g)
    targets[torch.rand(n, generator=g) < 0.3] = IGNORE
    return x, weight, targets, torch.rand(n, generator=g, dtype=torch.float64)


@pytest.mark.usefixtures("three_rows")
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 11),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1.0, 0.25]),
    cap=st.sampled_from([0.0, 5.0]),
    weighted=st.booleans(),
)
def test_sums_and_gradients_are_those_of_the_whole(n: int, seed: int, scale: float, cap: float, weighted: bool) -> None:
    x, weight, targets, weights = inputs(n, seed)
    z = scale * x @ weight.T
    logits = cap * torch.tanh(z / cap) if cap else z
    given = weights if weighted else None
    expected = CrossEntropy()(logits, targets, IGNORE, given)
    found = chunked_cross_entropy(x, Unembedding(weight, scale, cap), targets, IGNORE, given)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
    one = torch.autograd.grad(expected[0] + 0.3 * expected[1], (x, weight))
    other = torch.autograd.grad(found[0] + 0.3 * found[1], (x, weight))
    for a, b in zip(other, one, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("three_rows")
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("cap", [0.0, 4.0])
def test_log_probs_and_entropy_are_those_of_a_softmax(temperature: float, cap: float) -> None:
    x, weight, targets, upstream = inputs(8, 3)
    targets = targets.clamp_min(0)
    z = x @ weight.T
    expected_NV = ((cap * torch.tanh(z / cap) if cap else z) / temperature).log_softmax(-1)
    expected = expected_NV[torch.arange(8), targets]
    found, entropy = chunked_log_probs(x, Unembedding(weight, 1.0, cap, temperature), targets, entropy=True)
    assert torch.allclose(found, expected, rtol=1e-12)
    assert torch.allclose(entropy, -(expected_NV.exp() * expected_NV).sum(-1), rtol=1e-12)
    assert not entropy.requires_grad
    one = torch.autograd.grad((expected * upstream).sum(), (x, weight))
    other = torch.autograd.grad((found * upstream).sum(), (x, weight))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(other, one, strict=True))


def test_float32_is_within_a_millionth_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 3 * 4 * V})
    x, weight, targets, _ = inputs(64, 5)
    narrow, narrow_weight = (t.detach().float().requires_grad_() for t in (x, weight))
    expected = CrossEntropy()(x @ weight.T, targets, IGNORE)[0]
    found = chunked_cross_entropy(narrow, Unembedding(narrow_weight), targets, IGNORE)[0]
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    for a, b in zip(
        torch.autograd.grad(found, (narrow, narrow_weight)), torch.autograd.grad(expected, (x, weight)), strict=True
    ):
        assert float((a - b).abs().max()) < 1e-6 * max(1.0, float(b.abs().max()))


MODELS = [
    ModelConfig(V, D, 1, 2, context_length=12),
    ModelConfig(V, D, 1, 2, context_length=12, tie_embeddings=False, logit_softcap=5.0),
    ModelConfig(V, D, 1, 2, context_length=12, logit_divisor=2.0, moe=MoEConfig(4, 1, 8)),
    LSTMConfig(V, D, 1, 8, 12),
]


@pytest.mark.parametrize("cfg", MODELS)
@pytest.mark.parametrize("fused", [False, True])
def test_a_model_trains_alike_with_chunks_and_without(
    cfg: ModelConfig | LSTMConfig, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: LanguageModel = RecurrentModel(cfg) if isinstance(cfg, LSTMConfig) else Transformer(cfg)
    if fused:
        fuse(model)
    g = torch.Generator().manual_seed(0)
    tokens, targets = (torch.randint(0, V, (3, 12), generator=g) for _ in range(2))
    targets[0, :5] = IGNORE

    def run() -> tuple[Tensor, dict[str, Tensor]]:
        model.zero_grad()
        found, z = model.cross_entropy(model.hidden(tokens).x_BTD, targets, IGNORE, None)
        (found + 0.1 * z).backward()
        return found.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    whole, gradients = run()
    monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 4 * 4 * V})
    chunked, others = run()
    assert float(chunked) == pytest.approx(float(whole), rel=1e-6)
    assert others.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert torch.allclose(others[name], gradient, rtol=1e-4, atol=2e-5), name


def test_log_probs_of_answers_and_held_out_losses_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """`token_stats` is what DPO, PPO, GRPO and the judge read: gradients, temperature and entropy too."""
    model = Transformer(ModelConfig(V, D, 1, 2, context_length=12, logit_softcap=5.0)).double()
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, V, (3, 13), generator=g)
    mask = torch.rand(3, 12, generator=g) < 0.7

    def run() -> tuple[Tensor, ...]:
        model.zero_grad()
        stats = token_stats(model, tokens, mask, 0.7, entropy=True)
        (stats.log_probs_BA.square().sum() + token_log_probs(model, tokens).sum()).backward()
        losses = target_losses(model, tokens[:, :-1], tokens[:, 1:])
        gradients = (p.grad.clone() for p in model.parameters() if p.grad is not None)
        return stats.log_probs_BA.detach(), stats.entropy_BA, losses, *gradients

    whole = run()
    monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 4 * 4 * V})
    chunked = run()
    assert len(whole) == len(chunked) == 3 + len(list(model.parameters()))
    for a, b in zip(chunked, whole, strict=True):
        assert torch.allclose(a.double(), b.double(), rtol=1e-6, atol=1e-6)


def test_frozen_weights_get_no_gradient_and_the_others_do(three_rows: None) -> None:
    x, weight, targets, _ = inputs(7, 1)
    chunked_cross_entropy(x, Unembedding(weight.detach()), targets, IGNORE)[0].backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_rows_without_a_target_get_no_gradient(three_rows: None) -> None:
    x, weight, _, _ = inputs(7, 1)
    targets = torch.full((7,), IGNORE)
    found, z = chunked_cross_entropy(x, Unembedding(weight), targets, IGNORE)
    (found + z).backward()
    assert float(found.detach()) == float(z.detach()) == 0
    assert x.grad is not None and not x.grad.any()


def test_a_target_that_is_no_token_is_refused(three_rows: None) -> None:
    x, weight, targets, _ = inputs(7, 1)
    targets[3] = V
    with pytest.raises(IndexError, match=f"from 0 to {V - 1}"):
        chunked_cross_entropy(x, Unembedding(weight), targets, IGNORE)


@pytest.mark.parametrize("autocast", [False, True])
def test_no_tensor_as_large_as_the_logits_is_made(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch's allocator was asked for at once stays at a few chunks, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    vocab, rows, d = 1000, 256, 16
    monkeypatch.setattr(loss, "LOGITS_BYTES", {"cpu": 16 * 4 * vocab})
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple | list) else [out]:
                largest = max(largest, one.numel() if isinstance(one, Tensor) else 0)
            return out

    model = Transformer(replace(MODELS[0], vocab_size=vocab, d_model=d, context_length=rows))  # type: ignore[arg-type]
    tokens = torch.randint(0, vocab, (1, rows + 1), generator=torch.Generator().manual_seed(0))
    with Watch(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found, _ = model.cross_entropy(model.hidden(tokens[:, :-1]).x_BTD, tokens[:, 1:], IGNORE, None)
        found.backward()
    assert largest < rows * vocab / 3  # the attention's scores are 2 · 256 · 256, the weights 16,000
    with torch.no_grad():
        expected = F.cross_entropy(model(tokens[:, :-1])[0], tokens[0, 1:], reduction="sum")
    assert float(found) == pytest.approx(float(expected), rel=2e-2 if autocast else 1e-5)


def test_a_compiler_takes_it(three_rows: None) -> None:
    x, weight, targets, _ = inputs(8, 2, torch.float32)

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return chunked_cross_entropy(x, Unembedding(weight), targets, IGNORE)[0]

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True, dynamic=False)
    one, other = run(x, weight), compiled(x, weight)
    assert torch.allclose(one, other)
    expected, found = (torch.autograd.grad(value, (x, weight)) for value in (one, other))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, found, strict=True))
