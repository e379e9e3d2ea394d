from __future__ import annotations

import math

import numpy as np
import pytest

from components.cost.uncertainty import Factor, propagate


def test_a_product_of_lognormals_has_the_quantiles_that_theory_gives() -> None:
    a, b = Factor("a", 0.5, 1, 2), Factor("b", 1 / 3, 1, 3)
    found = propagate(lambda x: 10 * x["a"] * x["b"], [a, b])
    spread = math.exp(math.hypot(math.log(2), math.log(3)))  # logs are normal, so their variances add
    assert (found.low, found.middle, found.high) == pytest.approx((10 / spread, 10, 10 * spread), rel=0.02)


def test_quasi_random_draws_beat_plain_ones_of_the_same_number() -> None:
    a, b = Factor("a", 0.5, 1, 2), Factor("b", 0.5, 1, 2)
    exact = math.exp(math.hypot(math.log(2), math.log(2)))
    errors = [abs(propagate(lambda x: x["a"] * x["b"], [a, b], 512, seed).high / exact - 1) for seed in range(10)]
    plain = []
    for seed in range(10):
        u = np.random.default_rng(seed).random((2, 512))
        plain.append(abs(np.quantile(a.at(u[0]) * b.at(u[1]), 0.95) / exact - 1))
    assert np.mean(errors) < 0.5 * np.mean(plain)


def test_the_tornado_ranks_by_what_moves_the_result() -> None:
    factors = [Factor("little", 0.9, 1, 1.1), Factor("much", 0.5, 1, 2, "said so"), Factor("none", 0.1, 1, 10)]
    found = propagate(lambda x: x["little"] * x["much"] + 0 * x["none"], factors)
    assert [bar.name for bar in found.tornado] == ["much", "little", "none"]
    assert (found.tornado[0].at_low, found.tornado[0].at_high) == pytest.approx((0.5, 2))
    assert found.tornado[0].why == "said so"


def test_samples_and_uneven_sides() -> None:
    assert Factor("s", samples=(3.0, 1.0, 2.0)).at(np.array([0.0, 0.5, 0.99])).tolist() == [1.0, 2.0, 3.0]
    uneven = Factor("u", 0.9, 1.0, 4.0)
    assert uneven.at(np.array([0.05, 0.5, 0.95])) == pytest.approx([0.9, 1.0, 4.0])


def test_impossible_factors_are_refused() -> None:
    with pytest.raises(ValueError, match="0 < low <= middle <= high"):
        Factor("x", 2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match="power of two"):
        propagate(lambda x: x["a"], [Factor("a")], draws=1000)
