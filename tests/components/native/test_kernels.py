"""The fused kernels against the same model in float64, which takes the plain formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from components.model.config import ModelConfig, MoEConfig
from components.model.feed_forward import SwiGLU
from components.model.loss import CrossEntropy
from components.model.rotary import rotate
from components.model.transformer import Transformer, attend, causal_mask
from components.native import kernels, layers, library
from components.native.compiler import disabled
from components.native.fuse import FusedCrossEntropy, FusedSwiGLU, fuse
from components.training.language_model import IGNORE, LMBatch, summed_loss

# Odd sizes on purpose: none is a multiple of a vector's length.
CONFIGS = [
    ModelConfig(vocab_size=61, d_model=36, num_layers=2, num_heads=3, head_dim=10, d_ff=21, context_length=300),
    ModelConfig(vocab_size=64, d_model=64, num_layers=1, num_heads=4, num_kv_heads=2, qk_norm=False, context_length=64),
    ModelConfig(vocab_size=61, num_layers=2, sliding_window=5, tie_embeddings=False, context_length=64),
    ModelConfig(vocab_size=61, num_layers=1, attention_softcap=2.0, attention_bias=True, context_length=64),
    ModelConfig(vocab_size=61, num_layers=2, context_length=64, moe=MoEConfig(4, 2, 24, shared_d_ff=20)),
]


@pytest.fixture(params=[1, 2], ids="threads={}".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def batch_of(length: int, packed: bool, weighted: bool) -> LMBatch:
    generator = torch.Generator().manual_seed(length)
    rows = torch.randint(0, 61, (3, length + 1), generator=generator)
    targets = rows[:, 1:].masked_fill(torch.rand(3, length, generator=generator) < 0.2, IGNORE)
    positions = documents = weights = None
    if packed:  # two documents a row, the border in another place each time
        border = torch.tensor([[3], [length // 2], [length - 2]])
        place = torch.arange(length).expand(3, -1)
        documents, positions = (place >= border).long(), torch.where(place >= border, place - border, place)
    if weighted:
        weights = torch.rand(3, length, generator=generator) * 2
    return LMBatch(rows[:, :-1], targets, positions, documents, weights)


def gradients(model: Transformer, batch: LMBatch) -> dict[str, torch.Tensor]:
    """Of a mix of cross-entropy, z-loss and the routers' loss; with the three sums themselves."""
    fuse(model)
    model.train()
    cross_entropy, z, auxiliary = summed_loss(model, batch)
    (cross_entropy + 0.1 * z + auxiliary).backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    return {"cross_entropy": cross_entropy.detach(), "z": z.detach(), **found}


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize(("length", "packed", "weighted"), [(37, False, False), (29, True, True)])
def test_loss_and_gradients_are_those_of_float64(
    config: ModelConfig, length: int, packed: bool, weighted: bool, threads: int
) -> None:
    batch = batch_of(length, packed, weighted)
    assert library.library() is not None or disabled(), "the kernels did not compile"
    fast, plain = Transformer(config, 1), Transformer(config, 1).double()
    with torch.no_grad():
        for one, two in zip(fast.parameters(), plain.parameters(), strict=True):
            one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel())) * 0.1)
            two.copy_(one)
    found, right = gradients(fast, batch), gradients(plain, batch)
    assert found.keys() == right.keys()
    for name, value in right.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name].double() / scale, value / scale, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.skipif(library.library() is None, reason="there are no compiled kernels to test")
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (7, 17, 5), (200, 33, 300), (13, 64, 513)])
def test_products_of_any_layout_are_those_of_float64(m: int, n: int, k: int, threads: int) -> None:
    for a in (torch.randn(m, k), torch.randn(k, m).T):
        for b in (torch.randn(k, n), torch.randn(n, k).T):
            right = (a.double() @ b.double()).float()
            torch.testing.assert_close(kernels.product(a, b), right, atol=1e-4, rtol=1e-4)


def agree(layer: Callable[..., tuple[torch.Tensor, ...]], inputs: list[torch.Tensor]) -> None:
    """The two outputs of a layer and the gradients of its inputs are those of float64."""
    results = []
    for dtype in (torch.float32, torch.float64):
        given = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        outputs = layer(*given)
        back = [torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(dtype) for y in outputs]
        results.append([*outputs, *torch.autograd.grad(outputs, given, back)])
    for one, two in zip(*results, strict=True):
        scale = max(1.0, two.abs().max().item())
        torch.testing.assert_close(one.double() / scale, two / scale, atol=3e-6, rtol=1e-4)


def plain_add_norm(
    x: torch.Tensor, delta: torch.Tensor | None, norm: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    total = x if delta is None else x + delta
    return total, F.rms_norm(total, norm.shape, norm, 1e-6)


def drawn(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(map(sum, sizes)))
    return [torch.randn(size, generator=generator) for size in sizes]


@pytest.mark.skipif(library.library() is None, reason="there are no compiled kernels to test")
@pytest.mark.parametrize(("rows", "d", "hidden"), [(1, 1, 1), (7, 5, 3), (261, 34, 19), (530, 48, 300)])
@pytest.mark.parametrize("added", [True, False])
def test_the_feed_forward_layer_is_that_of_float64(rows: int, d: int, hidden: int, added: bool, threads: int) -> None:
    def layer(x: torch.Tensor, norm: torch.Tensor, *weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
        (wide, narrow), delta = weights[:2], weights[2] if added else None
        if x.dtype == torch.float32:
            return layers.feed_forward(x, delta, norm, wide, narrow, 1e-6)
        total, y = plain_add_norm(x, delta, norm)
        return total, F.linear(SwiGLU()(F.linear(y, wide)), narrow)

    agree(layer, drawn((rows, d), (d,), (2 * hidden, d), (d, hidden), *[(rows, d)] * added))


@pytest.mark.skipif(library.library() is None, reason="there are no compiled kernels to test")
@pytest.mark.parametrize(("b", "t", "heads", "c"), [(1, 1, (1, 1), 2), (5, 100, (2, 1), 10), (3, 256, (3, 3), 16)])
@pytest.mark.parametrize(("added", "normed", "masked"), [(True, True, False), (False, False, True)])
def test_the_attention_layer_is_that_of_float64(
    b: int, t: int, heads: tuple[int, int], c: int, added: bool, normed: bool, masked: bool, threads: int
) -> None:
    angles = torch.arange(t, dtype=torch.float64)[:, None, None] / torch.arange(1, c // 2 + 1)
    mask = causal_mask(t, 9) if masked else None
    d, width, joined = 18, (heads[0] + 2 * heads[1]) * c, heads[0] * c

    def layer(x: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rotation = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        norm, wide, narrow = given[:3]
        norms = (given[3], given[4]) if normed else (None, None)
        delta = given[-1] if added else None
        if x.dtype == torch.float32:
            return layers.attention(x, delta, (norm, wide, narrow), norms, rotation, mask, heads, 1e-6)
        total, y = plain_add_norm(x, delta, norm)
        q, k, v = F.linear(y, wide).view(b, t, -1, c).split((heads[0], heads[1], heads[1]), 2)
        if normed:
            q, k = (F.rms_norm(one, (c,), weight, 1e-6) for one, weight in zip((q, k), norms, strict=True))
        q, k, v = (one.transpose(1, 2) for one in (rotate(q, *rotation), rotate(k, *rotation), v))
        return total, F.linear(attend(q, k, v, mask, 0.0), narrow)

    agree(layer, drawn((b, t, d), (d,), (width, d), (d, joined), *[(c,)] * (2 * normed), *[(b, t, d)] * added))


@pytest.mark.skipif(library.library() is None, reason="there are no compiled kernels to test")
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("packed", [True, False])
def test_a_model_trains_alike_whichever_library_multiplies(
    config: ModelConfig, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "OWN_ROWS", 1)
    batch = batch_of(37, packed, weighted=packed)
    right = gradients(Transformer(config, 2).double(), batch)
    for own in (library.OwnProducts(), library.OwnProducts(True, True, True, True), library.OwnProducts(inputs=True)):
        monkeypatch.setattr(library, "own_products", lambda own=own: own)
        found = gradients(Transformer(config, 2), batch)
        assert found.keys() == right.keys()
        for name, value in right.items():
            scale = max(1.0, value.abs().max().item())
            torch.testing.assert_close(found[name].double() / scale, value / scale, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.skipif(library.library() is None, reason="there are no compiled kernels to test")
def test_which_library_multiplies_is_measured_once_and_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handle, place = library.library(), tmp_path / "kernels-0.so"
    monkeypatch.setattr(library, "library", lambda: SimpleNamespace(_name=str(place)))
    speeds = {"forward": (3.0, 2.0), "inputs": (2.0, 2.0), "weights": (9.0, 2.0), "layers": (1.0, 2.0)}
    monkeypatch.setattr(library, "product_speeds", lambda handle: speeds)
    decide = library.own_products.__wrapped__  # without what this process remembers
    assert decide() == library.OwnProducts(True, False, True, False)
    monkeypatch.setattr(library, "product_speeds", lambda handle: pytest.fail("measured again"))
    assert decide() == library.OwnProducts(True, False, True, False)
    monkeypatch.undo()
    real = library.product_speeds(handle, repeats=1)
    assert real.keys() == speeds.keys()
    assert min(min(pair) for pair in real.values()) > 0


@pytest.mark.parametrize("call", ["link", "write"])
def test_a_choice_that_cannot_be_kept_is_torch_everywhere(
    call: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Measured in every process it could differ between a run and the one that resumes it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library, "library", lambda: SimpleNamespace(_name=str(tmp_path / "kernels-0.so")))
    monkeypatch.setattr(library, "product_speeds", lambda handle: {"forward": (3.0, 2.0)})
    monkeypatch.setattr(*((library.os, "link", refuse) if call == "link" else (Path, "write_text", refuse)))
    assert library.own_products.__wrapped__() == library.OwnProducts()
    assert not list(tmp_path.iterdir())


def test_contexts_past_the_limit_of_kept_scores_give_the_same() -> None:
    config, length = CONFIGS[0], kernels.SCORES_LIMIT + 3
    found = gradients(Transformer(config, 2), batch_of(length, False, False))
    right = gradients(Transformer(config, 2).double(), batch_of(length, False, False))
    for name, value in right.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(found[name].double() / scale, value / scale, atol=1e-5, rtol=1e-4, msg=name)


def test_one_step_gives_the_same_bits_every_time(threads: int) -> None:
    once, again = (gradients(Transformer(CONFIGS[0], 2), batch_of(37, True, False)) for _ in range(2))
    assert all(torch.equal(once[name], again[name]) for name in once)


def test_what_is_not_finite_reaches_the_loss() -> None:
    for value in (float("nan"), float("inf")):
        for name in ("blocks.0.attention.qkv.weight", "blocks.0.mlp.gate_up.weight", "embedding.weight"):
            model = Transformer(CONFIGS[0], 2)
            with torch.no_grad():
                dict(model.named_parameters())[name][0, 0] = value
            assert not gradients(model, batch_of(37, False, False))["cross_entropy"].isfinite()


def test_large_scores_and_logits_do_not_overflow() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0], [-1e4, -1e4, -1e4]])
    targets = torch.tensor([1, 2])
    for loss_of, swiglu in ((CrossEntropy(), SwiGLU()), (FusedCrossEntropy(), FusedSwiGLU())):
        loss, _ = loss_of(logits, targets, IGNORE)
        assert float(loss) == pytest.approx(600 + torch.tensor(3.0).log().item())
        gate = torch.tensor([[200.0, -200.0, 1.0, 1.0]], requires_grad=True)
        out = swiglu(gate)
        out.sum().backward()
        torch.testing.assert_close(out, torch.tensor([[200.0, 0.0]]))
        torch.testing.assert_close(gate.grad, torch.tensor([[1.0, 0.0, 200.0, 0.0]]))


@pytest.mark.parametrize("loss", [CrossEntropy(), FusedCrossEntropy()], ids=["plain", "fused"])
def test_a_target_that_is_not_a_token_id_is_refused(loss: CrossEntropy) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        loss(torch.zeros(2, 5), torch.tensor([1, 5]), IGNORE)
