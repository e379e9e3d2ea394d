"""Counts against the built model and the totals that public models state (Hugging Face safetensors metadata)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from components.model.config import (
    ModelConfig,
    MoEConfig,
    config_from_dict,
    count_params,
    forward_flops_per_token,
    training_flops_per_token,
)
from components.model.transformer import Transformer


def llama(vocab: int, d: int, ff: int, layers: int, heads: int, kv: int, head_dim: int, tied: bool) -> ModelConfig:
    return ModelConfig(vocab, d, layers, heads, kv, head_dim, ff, 2048, qk_norm=False, tie_embeddings=tied)


@pytest.mark.parametrize(
    ("config", "stated"),
    [
        (llama(32000, 4096, 11008, 32, 32, 32, 128, False), 6_738_415_616),  # Llama 2 7B
        (llama(32000, 8192, 28672, 80, 64, 8, 128, False), 68_976_648_192),  # Llama 2 70B
        (llama(128256, 4096, 14336, 32, 32, 8, 128, False), 8_030_261_248),  # Llama 3 8B
        (llama(128256, 2048, 8192, 16, 32, 8, 64, True), 1_235_814_400),  # Llama 3.2 1B
        (llama(49152, 576, 1536, 30, 9, 3, 64, True), 134_515_008),  # SmolLM2 135M
    ],
)
def test_dense_totals_are_those_of_public_models(config: ModelConfig, stated: int) -> None:
    counts = count_params(config)
    assert counts.total == counts.active == stated
    assert counts.total == counts.non_embedding + counts.embedding


def test_expert_totals_are_those_of_public_models() -> None:
    mixtral = ModelConfig(
        32000, 4096, 32, 32, 8, 128, 0, 2048, qk_norm=False, tie_embeddings=False,
        moe=MoEConfig(8, 2, 14336, normalize_top_k=True),
    )  # fmt: skip
    assert count_params(mixtral).total == 46_702_792_704
    assert count_params(mixtral).active == pytest.approx(12.9e9, rel=0.002)  # as its authors round it
    qwen3 = ModelConfig(
        151936, 2048, 48, 32, 4, 128, 0, 2048, qk_norm=True, tie_embeddings=False,
        moe=MoEConfig(128, 8, 768, normalize_top_k=True),
    )  # fmt: skip
    assert count_params(qwen3).total == 30_532_122_624
    assert count_params(qwen3).active == 3_353_032_704


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(),
        ModelConfig(num_kv_heads=1, tie_embeddings=False, qk_norm=False, attention_bias=True),
        ModelConfig(moe=MoEConfig(4, 2, 32, shared_d_ff=48, shared_gate=True, first_dense=1)),
    ],
)
def test_the_built_model_has_as_many_parameters_as_counted(config: ModelConfig) -> None:
    assert sum(p.numel() for p in Transformer(config).parameters()) == count_params(config).total


def test_flops_by_hand() -> None:
    # d=4, one head of 4, ff 16, vocabulary 10, context 3: attention sees (3+1)/2 = 2 keys on average.
    config = ModelConfig(10, 4, 1, 1, 1, 4, 16, 8)
    projections = 2 * (4 * 4 * 4)
    attention = 2 * 2 * 4 * 2
    feed_forward = 2 * 3 * 4 * 16
    logits = 2 * 4 * 10
    assert forward_flops_per_token(config, 3) == projections + attention + feed_forward + logits
    assert training_flops_per_token(config, 3) == 3 * forward_flops_per_token(config, 3)


@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(96, 32, 2, 4, 2, d_ff=48, context_length=24),
        ModelConfig(96, 32, 2, 4, 1, head_dim=16, tie_embeddings=False, attention_bias=True, qk_norm=False),
        ModelConfig(96, 32, 3, 4, moe=MoEConfig(6, 3, 24, shared_d_ff=16, shared_gate=True, first_dense=1)),
        ModelConfig(96, 32, 2, 4, sliding_window=8),
    ],
)
def test_flops_are_what_torch_counts(config: ModelConfig) -> None:
    """Of the plain formula, which runs in float64, with attention over the full matrix; and twice that backward."""
    model = Transformer(config).double()
    tokens = torch.randint(0, 96, (2, 24), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as forward, sdpa_kernel(SDPBackend.MATH):
        loss = model(tokens).sum()
    assert forward.get_total_flops() == 48 * forward_flops_per_token(config, 24, causal=False)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


def test_a_window_of_keys_by_hand() -> None:
    """Six positions that see at most three keys: 1 + 2 + 3 + 3 + 3 + 3 = 15, over full attention's 21."""
    full, windowed = (ModelConfig(sliding_window=w) for w in (0, 3))
    per_key = 2 * 2 * full.num_heads * full.per_head * full.num_layers
    saved = forward_flops_per_token(full, 6) - forward_flops_per_token(windowed, 6)
    assert saved == pytest.approx(per_key * (21 - 15) / 6)


def test_only_chosen_experts_cost_flops() -> None:
    one, two = (ModelConfig(moe=MoEConfig(8, k, 64)) for k in (1, 2))
    extra = forward_flops_per_token(two, 16) - forward_flops_per_token(one, 16)
    assert extra == one.num_layers * 2 * 3 * one.d_model * 64


def test_a_gate_without_an_expert_and_an_unknown_stretch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"moe\.shared_gate is true: there is no shared expert"):
        MoEConfig(4, 2, 32, shared_gate=True)  # the gate would get no gradient, and the optimizer none to step by
    with pytest.raises(ValueError, match=r"rope_scaling\.kind is 'dynamic'"):
        config_from_dict({"rope_scaling": {"kind": "dynamic"}})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"d_model": 65}, "num_heads"),
        ({"num_kv_heads": 3}, "num_kv_heads"),
        ({"num_layers": 0}, "num_layers"),
        ({"head_dim": 7}, "head_dim"),
        ({"head_dim": -2}, "head_dim"),
        ({"d_ff": -4}, "d_ff"),
    ],
)
def test_a_config_that_cannot_be_built_says_which_field(settings: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ModelConfig(**settings)
