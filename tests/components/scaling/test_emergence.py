from __future__ import annotations

import math

import numpy as np
import pytest

from components.scaling.emergence import EmergenceRow, analyse_emergence, emergence_score, largest_jump


def rows(log_probs: list[float], length: int, n: int = 4000, seed: int = 0) -> list[EmergenceRow]:
    """Models whose tokens are right independently with probability exp(log_prob), all of them computed."""
    rng = np.random.default_rng(seed)
    return [
        EmergenceRow(
            10.0 ** (3 + i),
            (rng.random((n, length)) < math.exp(lp)).all(axis=1).astype(int).tolist(),
            [[lp] * length] * n,
            [[True] * length] * n,
            seed,
        )
        for i, lp in enumerate(log_probs)
    ]


def test_emergence_score_by_hand() -> None:
    # Steps 1, 1, 8: squares 1, 1, 64, median 1, range 10.
    assert emergence_score([0, 1, 2, 10]) == pytest.approx(10.0)
    assert emergence_score([10, 2, 1, 0]) == pytest.approx(-10.0)  # falls with size
    # Steps 0, 2, 6, 0: squares 0, 0, 4, 36, median 2.
    assert emergence_score([0, 0, 2, 8, 8]) == pytest.approx(8 / math.sqrt(2))


def test_score_is_undefined_not_infinite_when_most_steps_are_zero() -> None:
    assert emergence_score([0.0, 0.0, 0.0, 0.0, 1.0]) is None
    assert emergence_score([0.3, 0.1 + 0.2, 0.3, 0.9]) is None  # equal but for rounding
    assert emergence_score([0.0, 1.0]) is None


def test_jump_by_hand() -> None:
    jump = largest_jump([1, 2, 4, 8], [0.0, 0.1, 0.9, 1.0])
    assert (jump.below, jump.above) == (2, 4)
    assert jump.size == pytest.approx(0.8) and jump.share == pytest.approx(0.8)
    assert largest_jump([1, 2], [0.5, 0.5]).share == 0.0


SMOOTH = [-1.2, -0.8, -0.4, -0.03]


def test_smooth_tokens_foretell_a_sharp_exact_match() -> None:
    report = analyse_emergence(rows(SMOOTH, 8), resamples=200)
    for point, log_prob in zip(report.points, SMOOTH, strict=True):
        assert point.sampled.value == pytest.approx(math.exp(8 * log_prob))
        assert point.expected.value == pytest.approx(math.exp(8 * log_prob))
        assert point.log_prob.value == pytest.approx(log_prob)
        assert point.accuracy.low <= point.expected.value <= point.accuracy.high
    assert report.expected_error < 1e-9
    assert report.sharp_jump.share > 0.9 > 0.5 > report.smooth_jump.share
    assert (report.sharp_jump.below, report.sharp_jump.above) == (1e5, 1e6)
    assert report.rise.low > 0.7 and report.rise.contains(report.sharp_jump.size)
    assert report.sharp_score is not None and report.smooth_score is not None and report.sharper is not None
    assert report.sharp_score.value > 5 * report.smooth_score.value
    assert report.sharper.low > 0 and report.sharp_score.low < report.sharp_score.value < report.sharp_score.high
    assert report.warnings == ("one training a size: the intervals are over items alone",)


def test_tokens_that_jump_as_well_leave_nothing_to_the_metric() -> None:
    """The log-probability of what is computed jumps with exact match; copied tokens would have hidden it."""
    computed, copied = [-2.0, -1.9, -1.85, -0.05, -0.01], [-0.4, -0.2, -0.1, -0.02, -0.01]
    trained = []
    for i, (hard, easy) in enumerate(zip(computed, copied, strict=True)):
        right = int(1000 * math.exp(4 * hard + 12 * easy))
        exact = [1] * right + [0] * (1000 - right)
        tokens = [[hard] * 4 + [easy] * 12] * 1000
        trained.append(EmergenceRow(10.0 ** (3 + i), exact, tokens, [[True] * 4 + [False] * 12] * 1000))
    report = analyse_emergence(trained, resamples=200)
    assert [p.log_prob.value for p in report.points] == pytest.approx(computed)
    assert [p.copied_log_prob for p in report.points] == pytest.approx(copied)
    assert report.smooth_jump.below == report.sharp_jump.below == 1e5
    assert report.smooth_jump.share > 0.85
    assert report.sharper is None or report.sharper.low <= 0


def test_sampled_answers_are_held_against_what_samples_would_do_and_not_against_greedy_ones() -> None:
    # Greedy answers are always right here, and yet a sample of four tokens at p = 1/2 is right in one of 16 cases.
    trained = [
        EmergenceRow(10.0**i, [1] * 50, [[math.log(p)] * 4] * 50, [[True] * 4] * 50) for i, p in ((1, 0.1), (2, 0.5))
    ]
    report = analyse_emergence(trained, resamples=20)
    assert report.points[1].accuracy.value == 1.0
    assert report.points[1].sampled.value == report.points[1].expected.value == pytest.approx(1 / 16)
    assert report.expected_error == pytest.approx(0.0, abs=1e-12)


def test_trainings_of_a_size_are_averaged_and_widen_its_interval() -> None:
    n = 400

    def trained(size: float, right: float, seed: int) -> EmergenceRow:
        exact = [1] * round(n * right) + [0] * (n - round(n * right))
        return EmergenceRow(size, exact, [[-0.1]] * n, [[True]] * n, seed)

    luck = (0.1, 0.5, 0.9)
    report = analyse_emergence(
        [trained(size, share, seed) for size in (1e3, 1e4, 1e5) for seed, share in enumerate(luck)], resamples=300
    )
    assert report.trainings == 3 and report.points[0].trainings == 3
    for point in report.points:
        assert point.accuracies == luck
        assert point.accuracy.value == pytest.approx(0.5)
        # Student's t of 0.1, 0.5 and 0.9 reaches ±0.99, so to both ends; the items of one training alone ±0.05.
        assert point.accuracy.low < 0.05 and point.accuracy.high > 0.95
    assert not any("one training" in warning for warning in report.warnings)
    with pytest.raises(ValueError, match="given twice with one seed"):
        analyse_emergence([trained(1e3, 0.5, 0), trained(1e3, 0.6, 0), trained(1e4, 0.6, 0)])


def test_lengths_enter_item_by_item() -> None:
    row = EmergenceRow(1e3, [0, 1], [[-0.1], [-0.3, -0.3, -0.3]], [[True], [True, True, False]])
    report = analyse_emergence([EmergenceRow(1e4, [1, 1], row.token_log_probs, row.computed), row], resamples=20)
    # Pooled: one nat over four tokens, 0.7 of it over the three computed ones; answers of 1 and 3 tokens.
    assert [p.num_params for p in report.points] == [1e3, 1e4]
    assert report.points[0].log_prob.value == pytest.approx(-0.7 / 3)
    assert report.points[0].copied_log_prob == pytest.approx(-0.3)
    assert report.points[0].expected.value == pytest.approx((math.exp(-0.25) + math.exp(-0.75)) / 2)
    assert report.points[0].sampled.value == pytest.approx((math.exp(-0.1) + math.exp(-0.9)) / 2)


def test_an_undefined_score_is_no_verdict() -> None:
    flat = analyse_emergence(rows([-1.0, -1.0, -1.0], 10, n=100), resamples=20)
    assert any("no jump" in w for w in flat.warnings)
    assert flat.smooth_score is None and flat.sharper is None
    # Four sizes of six at 0: three of the five steps are 0.
    sunk = analyse_emergence(rows([-9.0, -8.0, -7.0, -6.0, -0.5, -0.4], 4, n=200), resamples=20)
    assert sunk.sharp_score is None and sunk.sharper is None
    assert any("exact match is undefined" in w for w in sunk.warnings)


def test_bad_rows_are_named() -> None:
    with pytest.raises(ValueError, match="one of each an item"):
        EmergenceRow(1e3, [1, 0], [[-0.1]], [[True]])
    with pytest.raises(ValueError, match="item 1 has a log-probability"):
        EmergenceRow(1e3, [1, 0], [[-0.1], [math.nan]], [[True], [True]])
    with pytest.raises(ValueError, match="item 0 has 1 tokens and 2 marks"):
        EmergenceRow(1e3, [1], [[-0.1]], [[True, False]])
    with pytest.raises(ValueError, match="nothing can emerge"):
        EmergenceRow(1e3, [1], [[-0.1]], [[False]])
    with pytest.raises(ValueError, match="the same items"):
        analyse_emergence([EmergenceRow(n, [1] * k, [[-0.1]] * k, [[True]] * k) for n, k in ((1e3, 1), (1e4, 2))])
