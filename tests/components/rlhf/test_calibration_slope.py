"""The slope of calibration: against a reference fit, and over simulated reward models of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize
from scipy.special import expit

from components.rlhf.calibration_slope import calibration_slope


def draw(seed: int, slope: float, clusters: int = 40, each: int = 5) -> tuple[np.ndarray, list[int]]:
    """Margins whose sign is right with sigmoid(slope · |margin|)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0.0, 2.0, clusters * each))
    right = rng.random(size.size) < expit(slope * size)
    return np.where(right, size, -size), [i // each for i in range(size.size)]


def test_it_is_the_maximum_of_the_likelihood() -> None:
    margins, clusters = draw(1, 0.6)
    x, right = np.abs(margins), margins > 0
    loss = lambda b: -np.sum(np.where(right, np.log(expit(b * x)), np.log(expit(-b * x))))  # noqa: E731
    found = calibration_slope(margins, clusters)
    assert found is not None and found.n == 40
    assert found.value == pytest.approx(optimize.minimize_scalar(loss).x, abs=1e-5)


@pytest.mark.parametrize("slope", [0.0, 0.3, 1.0])
def test_the_interval_holds_the_truth_as_often_as_it_says(slope: float) -> None:
    found = [calibration_slope(*draw(seed, slope)) for seed in range(300)]
    held = sum(x is not None and x.contains(slope) for x in found)
    assert 0.91 <= held / 300 <= 0.985


def test_pairs_that_stand_twice_make_no_narrower_interval() -> None:
    margins, clusters = draw(3, 0.5)
    once, twice = calibration_slope(margins, clusters), calibration_slope([*margins, *margins], clusters * 2)
    assert once is not None and twice is not None
    assert (twice.value, twice.low, twice.high) == pytest.approx((once.value, once.low, once.high))


def test_without_a_best_slope_there_is_none() -> None:
    assert calibration_slope([1.0, 2.0], ["a", "b"]) is None
    assert calibration_slope([-1.0, -2.0], ["a", "b"]) is None
    assert calibration_slope([1.0, -2.0], ["a", "a"]) is None
    with pytest.raises(ValueError, match="one label per margin"):
        calibration_slope([1.0], [])
