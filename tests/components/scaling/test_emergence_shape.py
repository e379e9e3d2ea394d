"""The shape of a rise: simulated answers of models whose shape is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.scaling.emergence_shape import EmergenceShape, emergence_shape

SIZES = [1e3, 2e3, 4e3, 8e3, 1.6e4, 3.2e4, 6.4e4]
ITEMS = 400


def shape_of(accuracy: np.ndarray, token: np.ndarray, seed: int = 0, trainings: int = 3) -> EmergenceShape:
    rng = np.random.default_rng(seed)
    drawn = [(rng.binomial(ITEMS, p, trainings) / ITEMS).tolist() for p in accuracy]
    return emergence_shape(SIZES, drawn, token.tolist(), ITEMS)


def test_a_power_of_the_token_probability_is_told_from_a_change() -> None:
    token = -40.0 * np.array(SIZES) ** -0.5
    held = 0
    for seed in range(20):
        found = shape_of(np.exp(6.0 * token), token, seed)
        assert found.criteria["p^L"] < found.criteria["change"]
        assert "the jump is in the metric" in found.verdict
        held += found.length_low <= 6.0 <= found.length_high
    assert held >= 16  # P(fewer of 20 | 0.95) = 0.3%


def test_a_step_that_the_smooth_metric_does_not_foretell_is_a_change_with_its_interval() -> None:
    token = -np.linspace(0.5, 0.4, 7)
    accuracy = np.array([0.02, 0.02, 0.02, 0.9, 0.9, 0.9, 0.9])
    found = shape_of(accuracy, token)
    assert (found.below, found.above) == (4e3, 8e3) and (found.earliest, found.latest) == (4e3, 8e3)
    assert found.criteria["change"] == 0 and "a change between 4e+03 and 8e+03" in found.verdict
    # Where the two halves hardly differ, the place of the change is not known.
    faint = shape_of(np.array([0.30, 0.32, 0.33, 0.34, 0.35, 0.36, 0.37]), token, trainings=1)
    assert faint.latest / faint.earliest > 4


def test_a_smooth_rise_of_its_own_is_none_of_both() -> None:
    x = np.log(SIZES)
    accuracy = 1 / (1 + np.exp(-1.2 * (x - x.mean())))
    found = shape_of(accuracy, np.full(7, -0.5) + 1e-3 * np.arange(7))
    assert found.criteria["smooth"] == 0 and "rises smoothly" in found.verdict


def test_nothing_that_rises_and_what_the_items_cannot_show() -> None:
    token = -np.linspace(2.0, 1.0, 7)
    nothing = shape_of(np.full(7, 0.05), token)
    assert "nothing emerged" in nothing.verdict
    low = shape_of(np.array([1e-5, 1e-5, 1e-5, 0.02, 0.2, 0.6, 0.9]), token)
    assert (
        low.resolution == 1 / ITEMS and low.unresolved == 3 and "3 of 7 sizes solve less than 1 of 400" in low.verdict
    )


def test_trainings_that_differ_widen_what_is_said() -> None:
    token = -40.0 * np.array(SIZES) ** -0.5
    alike = [[float(p)] * 3 for p in np.exp(6.0 * token)]
    apart = [[max(0.0, p - 0.15), p, min(1.0, p + 0.15)] for p in np.exp(6.0 * token).tolist()]
    narrow, wide = (emergence_shape(SIZES, one, token.tolist(), ITEMS) for one in (alike, apart))
    assert narrow.overdispersion == 1.0 and wide.overdispersion > 5
    assert math.log(wide.length_high / wide.length_low) > math.log(narrow.length_high / narrow.length_low)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="three or more rising sizes"):
        emergence_shape([1.0, 2.0], [[0.1], [0.2]], [-1.0, -0.5], 10)
    with pytest.raises(ValueError, match="below 0"):
        emergence_shape([1.0, 2.0, 3.0], [[0.1], [0.2], [0.3]], [-1.0, 0.5, -0.2], 10)
