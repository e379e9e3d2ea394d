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
from components.statistics import clustered_least_squares, clustered_share_interval, wilson


def test_accuracy_by_group() -> None:
    found = accuracy_by([True, False, True, True], ["b", "a", "b", "a"], ["x", "x", "x", "y"])
    assert list(found) == ["a", "b"]
    assert found["a"] == clustered_share_interval([False, True], ["x", "y"])
    assert (found["b"].value, found["b"].low, found["b"].high, found["b"].n) == (1.0, 0.0, 1.0, 1)  # one request
    assert [confidence_group(c) for c in (None, 0.5, 0.6, 0.8, 1.0)] == [
        "not asked",
        "below 0.6",
        "0.6 to 0.75",
        "0.75 to 0.9",
        "0.9 and above",
    ]


def test_repeated_pairs_of_a_request_make_no_claim_stronger() -> None:
    """The pairs of a request copied twenty times: as many requests, as wide an interval."""
    rng = np.random.default_rng(0)
    right, requests = rng.random(90) < 0.7, [pair // 3 for pair in range(90)]
    once = accuracy_by(right.tolist(), ["a"] * 90, requests)["a"]
    often = accuracy_by(np.repeat(right, 20).tolist(), ["a"] * 1800, np.repeat(requests, 20).tolist())["a"]
    assert once.n == often.n == 30
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)
    independent = wilson(int(20 * right.sum()), 1800)
    assert often.high - often.low > 3 * (independent.high - independent.low)


def test_calibration_by_hand() -> None:
    logit = math.log(0.8 / 0.2)
    # Ten pairs at a predicted 0.8: six chosen as predicted. Ten at 0.55: five.
    margins = [logit] * 6 + [-logit] * 4 + [math.log(0.55 / 0.45)] * 5 + [-math.log(0.55 / 0.45)] * 5
    found = calibration(margins, range(20))
    assert [(b.predicted, b.chosen.value) for b in found.bins] == [
        (pytest.approx(0.55), 0.5),
        (pytest.approx(0.8), 0.6),
    ]
    assert [b.num_pairs for b in found.bins] == [10, 10]
    assert found.ece == pytest.approx(0.5 * 0.05 + 0.5 * 0.2)


def test_a_perfect_model_has_the_error_that_sampling_gives_and_a_bold_one_more() -> None:
    rng = np.random.default_rng(0)
    margins = rng.normal(0, 1.5, 3000)
    labels = np.where(rng.random(3000) < 1 / (1 + np.exp(-np.abs(margins))), 1, -1)
    honest = calibration(labels * np.abs(margins), range(3000))
    bold = calibration(labels * np.abs(margins) * 4, range(3000))
    assert honest.ece < 2.5 * honest.ece_if_perfect
    assert bold.ece > 10 * bold.ece_if_perfect
    with pytest.raises(ValueError, match="at least one margin"):
        calibration([], [])


def test_length_bias_by_hand() -> None:
    found = length_bias([2.0, 1.0, 0.0, 5.0], [1.0, 2.0, 1.0, 4.0], [10, 12, 4, 7], [5, 6, 8, 7], "wxyz")
    assert found.longer_wins == clustered_share_interval([1, 1, 0], "wxy")  # the fourth pair is of equal length
    # The first, and the rejected one of the third.
    assert found.model_prefers_longer == clustered_share_interval([1, 0, 1], "wxy")
    assert found.accuracy_longer == clustered_share_interval([1, 0], "wx")
    assert found.accuracy_shorter == clustered_share_interval([0], "y")
    scores, lengths = [2.0, 1.0, 0.0, 5.0, 1.0, 2.0, 1.0, 4.0], [10.0, 12, 4, 7, 5, 6, 8, 7]
    assert found.correlation == pytest.approx(np.corrcoef(scores, lengths)[0, 1])
    design = [[1.0, length] for length in lengths]
    assert found.slope == clustered_least_squares(design, scores, "wxyzwxyz")[1]
    none = length_bias([1.0], [0.0], [5], [5], ["x"])
    assert none.longer_wins is None and none.slope is None and math.isnan(none.correlation)


def test_best_of_four() -> None:
    groups = groups_of_four([[(0, 1.0), (1, 3.0), (2, 2.0), (3, 0.0), (4, 9.0)], [(5, 1.0)] * 4])
    assert groups == [([0, 1, 2, 3], 1, 0)]  # four of five; a group whose best is shared says nothing
    assert best_of_four([[0, 5, 1, 2], [9, 1, 1, 1]], [1, 3], "xy") == clustered_share_interval([1, 0], "xy")
    assert best_of_four([[2, 2, 0, 0], [1, 0, 0, 0]], [0, 0], "xy").value == 0.75  # a tie counts as its share
    with pytest.raises(ValueError, match="takes four"):
        best_of_four([[1, 2, 3]], [0], "x")
