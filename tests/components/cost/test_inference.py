from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cost.hardware import Hardware, find_hardware
from components.cost.inference import (
    ServedModel,
    Serving,
    TokenPrices,
    decode_step_seconds,
    decode_tokens_per_second,
    largest_batch,
    measured_prices,
    modelled_prices,
    prefill_seconds,
    usd_per_million_tokens,
)

# Llama 3 8B: 32 layers, 32 heads of 128, 8 of keys and values, 8.03B parameters.
LLAMA = ServedModel(8.03e9, 8.03e9, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128)
H100 = Serving(find_hardware("h100-sxm"), compute_efficiency=1.0, bandwidth_efficiency=1.0)
TOY = Hardware("toy", "gpu", 1e12, 1e10, 1e9, 100.0, "test", "2026-01-01")


def test_cache_bytes_by_hand() -> None:
    # 2 · 32 · 8 · 128 · 2 bytes = 128 KiB a token.
    assert LLAMA.cache_bytes(1) == 131072
    assert LLAMA.cache_bytes(8192) == pytest.approx(2**30)


def test_one_sequence_is_bound_by_reading_the_weights() -> None:
    # 16.06 GB at 3.35 TB/s is 4.794 ms, plus 128 KiB · 1,000 of cache.
    assert decode_step_seconds(LLAMA, H100, 1, 0) == pytest.approx(16.06e9 / 3.35e12)
    assert decode_step_seconds(LLAMA, H100, 1, 1000) == pytest.approx((16.06e9 + 131072e3) / 3.35e12)


def test_a_huge_batch_is_bound_by_compute() -> None:
    model = replace(LLAMA, kv_bytes=1e-9)
    assert decode_step_seconds(model, H100, 4096, 0) == pytest.approx(2 * 8.03e9 * 4096 / 989.4e12)
    # Attention by hand: 4 · 32 · 32 · 128 · 1,000 FLOPs a sequence.
    with_context = decode_step_seconds(model, H100, 4096, 1000)
    assert with_context == pytest.approx((2 * 8.03e9 + 4 * 32 * 32 * 128 * 1000) * 4096 / 989.4e12)


def test_experts_touched_by_a_batch() -> None:
    # Mixtral 8x7B: 46.7B in all, 45.1B of them experts, 2 of 8 a token.
    moe = ServedModel(46.7e9, 12.9e9, 32, 32, 8, 128, expert_params=45.1e9, num_experts=8, top_k_experts=2)
    assert moe.touched_bytes(1) == pytest.approx(2 * (1.6e9 + 45.1e9 / 4))
    assert moe.touched_bytes(4) == pytest.approx(2 * (1.6e9 + 45.1e9 * (1 - 0.75**4)))
    assert moe.touched_bytes(1000) == pytest.approx(2 * 46.7e9)
    # Alone, its decode costs as its active parameters; in a batch of 16, nearly as all of them.
    dense = ServedModel(46.7e9, 46.7e9, 32, 32, 8, 128)
    assert decode_step_seconds(moe, H100, 1, 0) < 0.3 * decode_step_seconds(dense, H100, 1, 0)
    assert decode_step_seconds(moe, H100, 16, 0) > 0.98 * decode_step_seconds(dense, H100, 16, 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 512), st.integers(0, 100_000))
def test_batching_never_slows_the_whole(batch: int, context: int) -> None:
    one = decode_tokens_per_second(LLAMA, H100, batch, context)
    two = decode_tokens_per_second(LLAMA, H100, batch + 1, context)
    assert two >= one * (1 - 1e-12)
    assert decode_step_seconds(LLAMA, H100, batch + 1, context) >= decode_step_seconds(LLAMA, H100, batch, context)


def test_prefill_by_hand() -> None:
    flops = 2 * 8.03e9 * 2048 + 2 * 32 * 32 * 128 * 2048**2
    assert prefill_seconds(LLAMA, H100, 2048) == pytest.approx(flops / 989.4e12)
    assert prefill_seconds(LLAMA, H100, 1) == pytest.approx(16.06e9 / 3.35e12)  # one token: reading the weights
    two = replace(H100, num_devices=2)
    assert prefill_seconds(LLAMA, two, 2048) == pytest.approx(flops / 989.4e12 / 2)


def test_what_fits_in_memory() -> None:
    # 80 GB less a tenth, less 16.06 GB of weights, in sequences of 1 GiB.
    assert largest_batch(LLAMA, H100, 8192) == int((72e9 - 16.06e9) // 2**30)
    big = replace(LLAMA, total_params=70e9, active_params=70e9)
    with pytest.raises(ValueError, match="use 2 devices"):
        largest_batch(big, H100, 8192)


def test_dollars_a_million_tokens() -> None:
    assert usd_per_million_tokens(1000.0, 3.6) == pytest.approx(1.0)
    prices = measured_prices(10_000.0, 500.0, 3.6)
    assert (prices.input, prices.output) == pytest.approx((0.1, 2.0))
    assert prices.request(1000, 200) == pytest.approx(1e-4 + 4e-4)
    with pytest.raises(ValueError, match="tokens_per_second"):
        usd_per_million_tokens(0.0, 1.0)


def test_modelled_prices_by_hand() -> None:
    # 1e6 parameters of 2 bytes at 1e10 bytes/s: a decode step of one sequence takes 0.2 ms and its cache nearly none.
    model = ServedModel(1e6, 1e6, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=1)
    serving = Serving(TOY, num_devices=2, compute_efficiency=1.0, bandwidth_efficiency=1.0)
    prices = modelled_prices(model, serving, usd_per_hour=3.6, batch=1, input_tokens=0.5e3, output_tokens=2)
    step = (2e6 + 2 * 501 * 2) / 2e10
    assert prices.output == pytest.approx(0.002 * step * 1e6)
    assert prices.input == pytest.approx(0.002 * (2e6 * 500 + 2 * 500**2) / 2e12 / 500 * 1e6)
    assert isinstance(prices, TokenPrices)


def test_impossible_models_are_refused() -> None:
    with pytest.raises(ValueError, match="active_params"):
        replace(LLAMA, active_params=9e9)
    with pytest.raises(ValueError, match="top_k_experts"):
        replace(LLAMA, num_experts=4, top_k_experts=5)
    with pytest.raises(ValueError, match="bandwidth_efficiency"):
        Serving(TOY, bandwidth_efficiency=70)
