from __future__ import annotations

import math

import numpy as np
import pytest

from components.rlhf.reward_evaluation import (
    accuracy_by,
    best_of_four,
    calibration,
    confidence_group,
    groups_of_four,
    length_bias,
)
from components.statistics import linear_slope_interval, wilson


def test_accuracy_by_group() -> None:
    found = accuracy_by([True, False, True, True], ["b", "a", "b", "a"])
    assert list(found) == ["a", "b"]
    assert found["a"] == wilson(1, 2) and found["b"] == wilson(2, 2)
    assert [confidence_group(c) for c in (None, 0.5, 0.6, 0.8, 1.0)] == [
        "not asked",
        "below 0.6",
        "0.6 to 0.75",
        "0.75 to 0.9",
        "0.9 and above",
    ]


def test_calibration_by_hand() -> None:
    logit = math.log(0.8 / 0.2)
    # Ten pairs at a predicted 0.8: six chosen as predicted. Ten at 0.55: five.
    margins = [logit] * 6 + [-logit] * 4 + [math.log(0.55 / 0.45)] * 5 + [-math.log(0.55 / 0.45)] * 5
    found = calibration(margins)
    assert [(b.predicted, b.chosen.value) for b in found.bins] == [
        (pytest.approx(0.55), 0.5),
        (pytest.approx(0.8), 0.6),
    ]
    assert found.ece == pytest.approx(0.5 * 0.05 + 0.5 * 0.2)


def test_a_perfect_model_has_the_error_that_sampling_gives_and_a_bold_one_more() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1.5, 3000)
    labels = np.where(rng.random(3000) < 1 / (1 + np.exp(-np.abs(margins))), 1, -1)
    honest = calibration(labels * np.abs(margins))
    bold = calibration(labels * np.abs(margins) * 4)
    assert honest.ece < 2.5 * honest.ece_if_perfect
    assert bold.ece > 10 * bold.ece_if_perfect
    with pytest.raises(ValueError, match="at least one margin"):
        calibration([])


def test_length_bias_by_hand() -> None:
    found = length_bias([2.0, 1.0, 0.0, 5.0], [1.0, 2.0, 1.0, 4.0], [10, 12, 4, 7], [5, 6, 8, 7])
    assert found.longer_wins == wilson(2, 3)  # the fourth pair is of equal length
    assert found.model_prefers_longer == wilson(2, 3)  # the first, and the rejected one of the third
    assert found.accuracy_longer == wilson(1, 2) and found.accuracy_shorter == wilson(0, 1)
    scores, lengths = [2.0, 1.0, 0.0, 5.0, 1.0, 2.0, 1.0, 4.0], [10.0, 12, 4, 7, 5, 6, 8, 7]
    assert found.correlation == pytest.approx(np.corrcoef(scores, lengths)[0, 1])
    assert found.slope == linear_slope_interval(lengths, scores)
    none = length_bias([1.0], [0.0], [5], [5])
    assert none.longer_wins is None and none.slope is None and math.isnan(none.correlation)


def test_best_of_four() -> None:
    groups = groups_of_four([[(0, 1.0), (1, 3.0), (2, 2.0), (3, 0.0), (4, 9.0)], [(5, 1.0)] * 4])
    assert groups == [([0, 1, 2, 3], 1)]  # four of five; a group whose best is shared says nothing
    assert best_of_four([[0, 5, 1, 2], [9, 1, 1, 1]], [1, 3]) == wilson(1, 2)
    assert best_of_four([[2, 2, 0, 0], [1, 0, 0, 0]], [0, 0]).value == 0.75  # a tie counts as its share
    with pytest.raises(ValueError, match="takes four"):
        best_of_four([[1, 2, 3]], [0])
