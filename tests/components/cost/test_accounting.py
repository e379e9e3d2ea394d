from __future__ import annotations

import math

import pytest

from components.cost.accounting import (
    AVERAGE_PUE,
    expected_training,
    mfu,
    spent,
    stage_cost,
    training_flops_per_token,
)
from components.cost.hardware import Hardware, find_hardware
from components.cost.prices import Price, find_price
from flows.settings import ComputeConfig

# 1 PFLOP/s, 500 W, $3.60 an hour: $0.001 a second.
DEVICE = Hardware("toy", "gpu", 1e15, 1e12, 80e9, 500.0, "test", "2026-01-01")
RENT = Price("toy", 3.6, "test", "2026-01-01", "test")


def test_spent_by_hand() -> None:
    cost = spent(tokens=2e6, flops=4e17, device_seconds=1000.0, hardware=DEVICE, price=RENT, pue=1.2)
    assert cost.usd == pytest.approx(1.0)
    assert cost.energy_joules == pytest.approx(600_000)
    assert cost.energy_kwh == pytest.approx(1 / 6)
    assert cost.mfu == pytest.approx(0.4)
    assert cost.usd_per_million_tokens == pytest.approx(0.5)


def test_nothing_spent_costs_nothing() -> None:
    cost = spent(0, 0, 0, DEVICE, RENT)
    assert cost.usd == 0 and cost.energy_joules == 0
    assert math.isnan(cost.mfu) and math.isnan(cost.usd_per_million_tokens)


def test_expected_training_by_hand() -> None:
    # 6 · 1e9 · 2e10 = 1.2e20 FLOPs at half of 1e15 FLOP/s: 240,000 s, $240.
    cost = expected_training(1e9, 2e10, DEVICE, RENT, mfu=0.5, pue=1.0)
    assert cost.flops == pytest.approx(1.2e20)
    assert cost.device_seconds == pytest.approx(240_000)
    assert cost.usd == pytest.approx(240.0)
    assert cost.mfu == pytest.approx(0.5)


def test_published_mfu() -> None:
    # Chowdhery et al. 2022, section 4.1: PaLM 540B, 238.3K tokens/s on 6,144 TPU v4 (275 TFLOP/s) is 46.2% MFU;
    # 118 layers, 48 heads of 256, 2,048 positions, 540.35B parameters.
    per_token = 6 * 540.35e9 + 12 * 118 * 48 * 256 * 2048
    tpu_v4 = Hardware("tpu-v4", "tpu", 275e12, 1.2e12, 32e9, 192.0, "PaLM", "2022-04-05")
    assert mfu(238.3e3, per_token, tpu_v4, 6144) == pytest.approx(0.462, abs=0.001)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="price is for 'toy', the hardware is 'h100-sxm'"):
        spent(1, 1, 1, find_hardware("h100-sxm"), RENT)
    with pytest.raises(ValueError, match="pue"):
        spent(1, 1, 1, DEVICE, RENT, pue=0.9)
    with pytest.raises(ValueError, match="mfu"):
        expected_training(1e9, 1e9, DEVICE, RENT, mfu=40)
    with pytest.raises(ValueError, match="flops"):
        spent(1, math.nan, 1, DEVICE, RENT)


def test_a_stage_is_accounted_as_a_plan_is() -> None:
    """One model: the same device seconds cost the same energy and dollars in the ledger and in a plan."""
    core, price = find_hardware("cpu-core"), find_price("cpu-core")
    planned = expected_training(1e6, 1e8, core, price, mfu=0.5)
    usage = {"tokens": 1e8, "flops": 6e14, "seconds": 99.0, "cpu_seconds": planned.device_seconds}
    assert stage_cost(usage, "cpu", "cpu-core", price.usd_per_hour) == planned
    assert planned.energy_joules == pytest.approx(280 / 64 * planned.device_seconds * AVERAGE_PUE)


def test_a_core_is_paid_while_it_is_busy_and_an_accelerator_while_it_is_held() -> None:
    usage = {"tokens": 1.0, "flops": 1.0, "seconds": 60.0, "cpu_seconds": 20.0}
    assert stage_cost(usage, "cpu", "cpu-core", 3.6).usd == pytest.approx(0.020)
    assert stage_cost(usage, "cuda:1", "h100-sxm", 3.6).usd == pytest.approx(0.060)


def test_a_core_costs_what_the_table_of_prices_says() -> None:
    assert ComputeConfig().usd_per_core_hour == find_price("cpu-core").usd_per_hour
    with pytest.raises(ValueError, match="did you mean 'h100-sxm'"):
        ComputeConfig(hardware="h100-smx")


def test_a_utilisation_is_by_a_named_convention() -> None:
    """MPT-1B at 65,536 tokens, 5,506 tokens a second on an H100: 26.34% as llm-foundry's table has it, by PaLM's."""
    shape = {"num_params": 1445974016.0, "num_layers": 24, "width": 16 * 128, "context_length": 65536}
    h100 = find_hardware("h100-sxm")
    shares = {name: mfu(5506.0, training_flops_per_token(name, **shape), h100) for name in ("6n", "palm", "causal")}  # type: ignore[arg-type]
    assert shares["palm"] == pytest.approx(0.2634, abs=5e-4)
    assert shares["6n"] == pytest.approx(0.048, abs=5e-4)
    assert shares["causal"] == pytest.approx((shares["6n"] + shares["palm"]) / 2)
    with pytest.raises(ValueError, match="no convention '6d': takes 6n, palm, causal"):
        training_flops_per_token("6d", **shape)  # type: ignore[arg-type]


def test_the_energy_of_a_device_whose_power_nobody_publishes_is_unknown() -> None:
    assert math.isnan(find_hardware("tpu-v5e").energy_joules(10.0, 1.2))
    assert math.isnan(
        stage_cost({"tokens": 1, "flops": 1, "seconds": 1, "cpu_seconds": 1}, "tpu", "tpu-v5e", 1).energy_joules
    )
