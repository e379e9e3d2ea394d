from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.kv_cache import KVCache
from components.model.moe import MixtureOfExperts, load_balancing_loss, router_z_loss
from components.model.rotary import rotary_frequencies, rotate
from components.model.transformer import Transformer, attend, causal_mask

VARIANTS = [
    ModelConfig(vocab_size=61, context_length=48),
    ModelConfig(vocab_size=61, num_heads=4, num_kv_heads=2, tie_embeddings=False, qk_norm=False, context_length=48),
    ModelConfig(vocab_size=61, context_length=48, moe=MoEConfig(4, 2, 32, shared_d_ff=16, normalize_top_k=True)),
    ModelConfig(
        vocab_size=61,
        num_heads=4,
        num_kv_heads=2,
        context_length=48,
        sliding_window=7,
        attention_softcap=2.0,
        logit_softcap=3.0,
        rope_scaling=RopeScaling("linear", 2.0),
    ),
]


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 61, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", VARIANTS)
def test_the_cache_gives_the_logits_of_a_whole_pass(config: ModelConfig) -> None:
    model, tokens_BT = Transformer(config, 3).eval(), tokens(3, 20)
    with torch.no_grad():
        whole = model(tokens_BT)
        cache = KVCache.empty(config, 3, 24)
        parts = [model(tokens_BT[:, :12], cache=cache)]
        cache.lengths_B += 12
        for t in range(12, 20):
            parts.append(model(tokens_BT[:, t : t + 1], cache=cache))
            cache.lengths_B += 1
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-5, rtol=1e-4)


def test_cached_rows_of_unequal_length_do_not_see_their_padding() -> None:
    config = VARIANTS[0]
    model = Transformer(config, 1).eval()
    short, long = tokens(1, 5, 1), tokens(1, 9, 2)
    padded = torch.zeros(2, 9, dtype=torch.long)
    padded[0, :5], padded[1] = short[0], long[0]
    cache = KVCache.empty(config, 2, 12)
    with torch.no_grad():
        model(padded, cache=cache)
        cache.lengths_B = torch.tensor([5, 9])
        following = torch.tensor([[7], [8]])
        step = model(following, cache=cache)[:, 0]
        alone = [
            model(torch.cat([row, token[None]], 1))[0, -1] for row, token in zip((short, long), following, strict=True)
        ]
    torch.testing.assert_close(step, torch.stack(alone), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("config", VARIANTS)
def test_a_token_does_not_see_the_future(config: ModelConfig) -> None:
    model, first = Transformer(config, 2).eval(), tokens(2, 16)
    second = first.clone()
    second[:, 10:] = tokens(2, 6, seed=9)
    torch.testing.assert_close(model(first)[:, :10], model(second)[:, :10], atol=1e-5, rtol=1e-4)


def test_packed_documents_give_the_logits_that_they_have_alone() -> None:
    model = Transformer(VARIANTS[0], 4).eval()
    one, two = tokens(1, 7, 1), tokens(1, 9, 2)
    packed = torch.cat([one, two], 1)
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None]
    documents = torch.tensor([[1] * 7 + [2] * 9])
    together = model(packed, positions, documents)
    torch.testing.assert_close(together[:, :7], model(one), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together[:, 7:], model(two), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(packed)[:, 7:], model(two), atol=1e-2)


def test_rotation_turns_each_pair_by_position_times_frequency() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(1, 1, 1, 4)
    angle = torch.tensor([0.3, 0.7])
    cos, sin = angle.cos().view(1, 1, 2), angle.sin().view(1, 1, 2)
    # As complex numbers: (1 + 3i)·e^{0.3i} and (2 + 4i)·e^{0.7i}.
    turned = torch.complex(x[..., :2], x[..., 2:]) * torch.polar(torch.ones(2), angle)
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat([turned.real, turned.imag], -1))


def test_attention_depends_on_relative_positions_alone() -> None:
    model, row = Transformer(VARIANTS[0], 5).eval(), tokens(1, 8)
    shifted = model(row, torch.arange(30, 38)[None])
    torch.testing.assert_close(model(row), shifted, atol=2e-5, rtol=1e-4)


def test_windowed_and_capped_attention_equals_a_loop_in_float64() -> None:
    q, k, v = (torch.randn(1, heads, 9, 4, dtype=torch.float64) for heads in (4, 2, 2))
    out = attend(q, k, v, causal_mask(9, 3), 1.5).view(1, 9, 4, 4).transpose(1, 2)
    for head in range(4):
        for t in range(9):
            seen = slice(max(0, t - 2), t + 1)
            scores = 1.5 * torch.tanh(k[0, head // 2, seen] @ q[0, head, t] / 2 / 1.5)
            torch.testing.assert_close(out[0, head, t], scores.softmax(0) @ v[0, head // 2, seen])


def test_llama3_scaling_by_hand() -> None:
    """Wavelengths 2π·10000^(i/2): the shortest is kept, the longest divided by 8, that between blended."""
    cfg = ModelConfig(num_heads=1, head_dim=8, rope_scaling=RopeScaling("llama3", 8.0, 1.0, 4.0, 1000))
    turns = [1000 / (2 * math.pi * 10_000 ** (i / 4)) for i in range(4)]  # 159, 15.9, 1.59, 0.159
    kept = (turns[2] - 1) / 3
    expected = [1.0, 0.1, 0.01 * (kept + (1 - kept) / 8), 0.001 / 8]
    torch.testing.assert_close(rotary_frequencies(cfg), torch.tensor(expected, dtype=torch.float64))


def test_yarn_by_hand() -> None:
    """Over 1000 positions the pairs turn 159, 15.9, 1.59 and 0.159 times. The ramp begins at the whole pair below
    log(1000 / (2π · 32)) / log(10) = 0.7 and ends at that above log(1000 / 2π) / log(10) = 2.2."""
    cfg = ModelConfig(num_heads=1, head_dim=8, rope_scaling=RopeScaling("yarn", 4.0, original_context_length=1000))
    expected = [1.0, 0.1 * (2 + 1 / 4) / 3, 0.01 * (1 + 2 / 4) / 3, 0.001 / 4]
    torch.testing.assert_close(rotary_frequencies(cfg), torch.tensor(expected, dtype=torch.float64))
    length = 0.1 * math.log(4) + 1
    model = Transformer(cfg)
    torch.testing.assert_close(model.cos[0], torch.full((1, 4), length))
    torch.testing.assert_close(model.sin[3, 0, 0].item(), length * math.sin(3.0))


def test_softmax_after_top_k_weighs_the_chosen_alone() -> None:
    """Over all logits then normalized, or over the chosen alone: the same weights."""
    torch.manual_seed(0)
    after, normalized = (
        MixtureOfExperts(16, MoEConfig(4, 2, 8, normalize_top_k=n, softmax_after_top_k=a))
        for n, a in ((False, True), (True, False))
    )
    with torch.no_grad():
        for weight in after.parameters():
            weight.normal_()
    normalized.load_state_dict(after.state_dict())
    x = torch.randn(2, 5, 16)
    torch.testing.assert_close(after(x)[0], normalized(x)[0])


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="context_length is 48"):
        Transformer(VARIANTS[0])(tokens(1, 49))


@pytest.mark.parametrize("normalize", [False, True])
def test_experts_equal_a_loop_over_tokens_in_float64(normalize: bool) -> None:
    config = MoEConfig(5, 2, 24, normalize_top_k=normalize)
    layer = MixtureOfExperts(16, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.normal_(0, 0.3, generator=generator)
    x = torch.randn(3, 11, 16, generator=generator, requires_grad=True)
    mixed, stats = layer(x)
    mixed.square().sum().backward()
    x64 = x.detach().double().requires_grad_(True)
    rows = []
    for row in x64.view(-1, 16):
        probs = (layer.router.weight.double() @ row).softmax(0)
        weight, chosen = probs.topk(2)
        if normalize:
            weight = weight / weight.sum()
        total = torch.zeros(16, dtype=torch.float64)
        for w, e in zip(weight, chosen.tolist(), strict=True):
            gate, up = (layer.gate_up[e].double() @ row).chunk(2)
            total = total + w * (layer.down[e].double() @ (F.silu(gate) * up))
        rows.append(total)
    reference = torch.stack(rows).view(3, 11, 16)
    reference.square().sum().backward()
    torch.testing.assert_close(mixed.double(), reference, atol=1e-5, rtol=1e-5)
    assert x.grad is not None
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-4, rtol=1e-4)
    assert stats.load_E.sum() == pytest.approx(1.0)


def test_balancing_and_z_loss_by_hand() -> None:
    even = torch.full((4, 2), 0.5)
    assert load_balancing_loss(even, torch.tensor([0.5, 0.5])) == pytest.approx(1.0)
    collapsed = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    assert load_balancing_loss(collapsed, torch.tensor([1.0, 0.0])) == pytest.approx(2.0)
    assert router_z_loss(torch.zeros(3, 4)) == pytest.approx(torch.tensor(4.0).log().item() ** 2)


def test_one_seed_gives_one_model() -> None:
    one, same, other = (Transformer(VARIANTS[0], seed).state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
