from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cost.entries import CatalogueError
from components.cost.hardware import Hardware, find_hardware
from components.cost.serving_model import (
    CONSTANTS,
    Replica,
    ServedModel,
    decode_tokens_per_second,
    decode_work,
    fitting_replica,
    largest_batch,
    prefill_tokens_per_second,
    serving_constants,
    step_seconds,
    training_share,
    usual_shape,
)

# Llama 3 8B: 32 layers, 32 heads of 128, 8 of keys and values, 8.03B parameters.
LLAMA = ServedModel(8.03e9, 8.03e9, num_layers=32, num_heads=32, num_kv_heads=8, head_dim=128)
MIXTRAL = ServedModel(46.7e9, 12.9e9, 32, 32, 8, 128, expert_params=45.1e9, num_experts=8, top_k_experts=2)
H100 = Replica(find_hardware("h100-sxm"))
# All shares reached, everything hidden, nothing apart: a plain roofline.
ROOFLINE = replace(
    serving_constants(), weights=1, cache=1, compute=1, prefill_compute=1, moe=1, quantised=1, overlap=0,
    layer_seconds=0, sequence_seconds=0, hop_seconds=0, framework_cache=1,
)  # fmt: skip


def roofline(model: ServedModel, batch: float, context: float, on: Replica = H100) -> float:
    return float(step_seconds(decode_work(model, on, batch, context), ROOFLINE))


def test_cache_bytes_by_hand() -> None:
    # 2 · 32 · 8 · 128 · 2 bytes = 128 KiB a token.
    assert LLAMA.cache_bytes(1) == 131072
    assert LLAMA.cache_bytes(8192) == pytest.approx(2**30)


def test_one_sequence_is_bound_by_reading_the_weights() -> None:
    # 16.06 GB at 3.35 TB/s is 4.794 ms, plus 128 KiB · 1,000 of cache.
    assert roofline(LLAMA, 1, 0) == pytest.approx(16.06e9 / 3.35e12)
    assert roofline(LLAMA, 1, 1000) == pytest.approx((16.06e9 + 131072e3) / 3.35e12)


def test_a_huge_batch_is_bound_by_compute_at_the_peak_of_its_precision() -> None:
    model = replace(LLAMA, kv_bytes=1e-9)
    assert roofline(model, 4096, 0) == pytest.approx(2 * 8.03e9 * 4096 / 989.4e12)
    assert roofline(replace(model, precision="fp8"), 4096, 0) == pytest.approx(2 * 8.03e9 * 4096 / 1978.9e12)
    # Attention by hand: 4 · 32 · 32 · 128 · 1,000 FLOPs a sequence.
    with_context = roofline(model, 4096, 1000)
    assert with_context == pytest.approx((2 * 8.03e9 + 4 * 32 * 32 * 128 * 1000) * 4096 / 989.4e12)


def test_a_step_by_hand_with_all_its_parts() -> None:
    """Reading 16.06 GB of weights and 64 caches of 500 tokens, with the constants of the catalogue."""
    k = serving_constants()
    reading = 16.06e9 / 3.35e12 / k.weights + 64 * 131072 * 500 / 3.35e12 / k.cache
    computing = (2 * 8.03e9 + 4 * 32 * 4096 * 500) * 64 / 989.4e12 / k.compute
    by_hand = reading + k.overlap * computing + 32 * k.layer_seconds + 64 * k.sequence_seconds
    assert reading > computing
    assert float(step_seconds(decode_work(LLAMA, H100, 64, 500), k)) == pytest.approx(by_hand)
    loop = float(step_seconds(decode_work(LLAMA, H100, 64, 500, "loop"), k))
    assert loop == pytest.approx(by_hand - 64 * k.sequence_seconds)
    # A prompt token for each generated one: twice the matrix products, the same attention.
    mixed = float(step_seconds(decode_work(LLAMA, H100, 64, 500, "loop", prompt_per_token=1.0), k))
    assert mixed - loop == pytest.approx(k.overlap * 2 * 8.03e9 * 64 / 989.4e12 / k.compute)


def test_experts_touched_by_a_batch() -> None:
    # Mixtral 8x7B: 46.7B in all, 45.1B of them experts, 2 of 8 a token.
    assert MIXTRAL.touched_bytes(1) == pytest.approx(2 * (1.6e9 + 45.1e9 / 4))
    assert MIXTRAL.touched_bytes(4) == pytest.approx(2 * (1.6e9 + 45.1e9 * (1 - 0.75**4)))
    assert MIXTRAL.touched_bytes(1000) == pytest.approx(2 * 46.7e9)
    # Alone, its decode costs as its active parameters; in a batch of 16, nearly as all of them.
    dense = ServedModel(46.7e9, 46.7e9, 32, 32, 8, 128)
    assert roofline(MIXTRAL, 1, 0) < 0.3 * roofline(dense, 1, 0)
    assert roofline(MIXTRAL, 16, 0) > 0.98 * roofline(dense, 16, 0)


def test_several_devices_share_the_work_and_pay_for_talking() -> None:
    four = Replica(H100.hardware, 4)
    # Two sums over devices a layer of 2 bytes x 4,096: 2 · 3/4 of them each way, at half of 900 GB/s.
    ring = 32 * 2 * (2 * 3 / 4 * 2 * 4096) / 450e9
    assert roofline(LLAMA, 1, 0, four) == pytest.approx(16.06e9 / 3.35e12 / 4 + ring)
    k = serving_constants()
    alone, split = (float(step_seconds(decode_work(LLAMA, on, 1, 0), k)) for on in (H100, four))
    assert alone / 4 < split < alone
    with pytest.raises(ValueError, match="knows no interconnect"):
        Replica(find_hardware("cpu-core"), 2)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 512), st.integers(0, 100_000), st.sampled_from([LLAMA, MIXTRAL]))
def test_batching_never_slows_the_whole_and_a_longer_context_never_speeds_it(
    batch: int, context: int, model: ServedModel
) -> None:
    one, two = (decode_tokens_per_second(model, H100, n, context) for n in (batch, batch + 1))
    assert two.value >= one.value * (1 - 1e-9)
    assert batch / one.value <= (batch + 1) / two.value * (1 + 1e-9)
    assert decode_tokens_per_second(model, H100, batch, context + 100).value <= one.value


def test_prefill_by_hand() -> None:
    def rate(tokens: float, on: Replica = H100) -> float:
        return prefill_tokens_per_second(LLAMA, on, tokens, constants=ROOFLINE).value

    flops = 2 * 8.03e9 * 2048 + 2 * 32 * 32 * 128 * 2048**2
    assert 2048 / rate(2048) == pytest.approx(flops / 989.4e12)
    assert 1 / rate(1) == pytest.approx(16.06e9 / 3.35e12)  # one token: reading the weights
    ring = 64 * (2 * 1 / 2 * 2 * 4096 * 2048) / 450e9
    assert 2048 / rate(2048, Replica(H100.hardware, 2)) == pytest.approx(flops / 989.4e12 / 2 + ring)


def test_what_fits_in_memory() -> None:
    # 80 GB less a tenth, less 16.06 GB of weights, in sequences of 1 GiB.
    assert largest_batch(LLAMA, H100, 8192) == int((72e9 - 16.06e9) // 2**30)
    big = replace(LLAMA, total_params=70e9, active_params=70e9)
    with pytest.raises(ValueError, match="use 2 devices"):
        largest_batch(big, H100, 8192)
    assert fitting_replica(big, H100.hardware, 8192).num_devices == 2
    assert fitting_replica(big, H100.hardware, 8192, batch=32).num_devices == 4


def test_usual_shapes_have_the_parameters_that_they_are_for() -> None:
    for n in (1e4, 1e6, 1e8, 7e9, 70e9, 400e9):
        shape = usual_shape(n)
        width = shape.num_heads * shape.head_dim
        assert n < 1e5 or 12 * shape.num_layers * width**2 == pytest.approx(n, rel=0.15)
        assert shape.num_kv_heads <= min(8, shape.num_heads)
    assert usual_shape(7e9).num_layers == pytest.approx(32, abs=8)  # Llama 2 7B
    assert usual_shape(69e9).num_layers == pytest.approx(80, abs=8)  # Llama 2 70B
    for wrong in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="num_params must be positive"):
            usual_shape(wrong)


def test_the_ranges_and_shares_of_the_catalogue_are_ranges() -> None:
    k = serving_constants()
    assert k.decode_low < 1 < k.decode_high and k.prefill_low < 1 < k.prefill_high
    h100, everyone = training_share("h100-sxm"), training_share("tpu-v6e")
    assert h100.n < everyone.n and 0 < h100.low < h100.middle < h100.high < 1


def test_a_faulty_constant_is_named(tmp_path: Path) -> None:
    file = tmp_path / "serving.toml"
    for old, new, message in (
        ("weights =", "wights =", "unknown field 'wights'"),
        ("moe = 1", "moe = -1", "moe: takes"),
    ):
        file.write_text(CONSTANTS.read_text().replace(old, new, 1))
        serving_constants.cache_clear()
        with pytest.raises(CatalogueError, match=message):
            serving_constants(file)


def test_impossible_models_are_refused() -> None:
    with pytest.raises(ValueError, match="active_params"):
        replace(LLAMA, active_params=9e9)
    with pytest.raises(ValueError, match="top_k_experts"):
        replace(LLAMA, num_experts=4, top_k_experts=5)
    with pytest.raises(ValueError, match="num_devices"):
        Replica(Hardware("toy", "gpu", 1e12, 1e10, 1e9, 100.0, "test", "2026-01-01"), 0)
