from __future__ import annotations

import pytest

from components.cost.hardware import find_hardware
from components.cost.inference import estimate_serving, measured_prices, usd_per_million_tokens


def test_dollars_a_million_tokens() -> None:
    assert usd_per_million_tokens(1000.0, 3.6) == pytest.approx(1.0)
    prices = measured_prices(10_000.0, 500.0, 3.6)
    assert (prices.input, prices.output) == pytest.approx((0.1, 2.0))
    assert prices.request(1000, 200) == pytest.approx(1e-4 + 4e-4)
    with pytest.raises(ValueError, match="tokens_per_second"):
        usd_per_million_tokens(0.0, 1.0)


def test_an_estimate_takes_the_devices_that_hold_it_and_prices_all_of_them() -> None:
    h100 = find_hardware("h100-sxm")
    small, big = (estimate_serving(n, h100, 300, 200) for n in (7e9, 70e9))
    assert (small.on.num_devices, small.batch, big.on.num_devices) == (1, 32, 2)  # 140 GB in two of 80, less a tenth
    prices = big.prices(3.6)
    assert prices.output == pytest.approx(2 * 0.001 / big.decode.value * 1e6)
    assert prices.input == pytest.approx(2 * 0.001 / big.prefill.value * 1e6)
    assert big.decode.low < big.decode.value < big.decode.high
    # Long answers leave room for fewer at a time.
    assert estimate_serving(30e9, h100, 30_000, 1000).batch < 32


def test_a_tiny_model_is_not_served_at_a_share_of_the_peak() -> None:
    """A server's own work per layer and sequence bounds a model of 15,000 parameters, not the device's arithmetic."""
    h100 = find_hardware("h100-sxm")
    tiny = estimate_serving(15e3, h100, 10, 20)
    assert tiny.decode.value < 32 / 83e-6  # one layer's overhead alone
    at_five_percent = 0.05 * h100.peak_flops / (2 * 15e3)
    assert at_five_percent / tiny.decode.value > 1000
