from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from components.model.specialization import mutual_information, specialization


def windows(share_SE: list[list[float]], each: int, tokens: int, seed: int = 0) -> tuple[NDArray, NDArray]:
    """`each` windows a source of `tokens` assignments drawn from the source's shares."""
    rng = np.random.default_rng(seed)
    source = np.repeat(np.arange(len(share_SE)), each)
    return np.stack([rng.multinomial(tokens, share_SE[s]) for s in source]), source


def test_mutual_information_by_hand() -> None:
    """Perfect dependence of two equal halves is one bit; independence is none; 3:1 against 1:3 is 1 - H(1/4) bits."""
    tables = np.array([[[2, 0], [0, 2]], [[1, 1], [1, 1]], [[3, 1], [1, 3]]])
    quarter = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert mutual_information(tables) / np.log(2) == pytest.approx([1.0, 0.0, 1 - quarter])
    assert mutual_information(np.zeros((2, 2))) == 0.0


def test_an_expert_a_source_is_all_that_can_be_known() -> None:
    found = specialization(*windows([[1, 0, 0], [0, 1, 0], [0, 0, 1]], 30, 50), seed=0)
    assert found.chance_bits < 0.05
    assert found.bits.value == pytest.approx(np.log2(3) - found.chance_bits)
    assert found.share.value == pytest.approx(found.bits.value / np.log2(3))
    assert found.share.n == 90
    assert found.p_value == pytest.approx(1 / 501)
    np.testing.assert_array_equal(found.by_source_SE, np.eye(3))


def test_windows_that_differ_without_regard_to_their_source_carry_nothing() -> None:
    """Every window has a taste of its own: over tokens alone that looks like information, over windows it is none."""
    plugged_in, seen = [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        counts = np.stack([rng.multinomial(100, rng.dirichlet([0.3] * 4)) for _ in range(24)])
        source = np.repeat(np.arange(3), 8)
        found = specialization(counts, source, seed, resamples=200)
        plugged_in.append(found.bits.value + found.chance_bits)
        seen += found.bits.low > 0
    assert np.mean(plugged_in) > 0.05
    assert seen <= 6  # 2.5% would be 1; a bootstrap of 8 windows a source is a little too narrow


def test_the_interval_covers_the_truth() -> None:
    shares = [[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]
    truth = float(mutual_information(np.array(shares))) / np.log(2)
    found = [specialization(*windows(shares, 40, 30, seed), seed, resamples=200).bits for seed in range(40)]
    assert sum(x.contains(truth) for x in found) >= 34
    assert np.mean([x.value for x in found]) == pytest.approx(truth, abs=0.004)


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[3, 1\]"):
        specialization(np.ones((4, 2), dtype=int), np.array([0, 0, 0, 1]), 0)
