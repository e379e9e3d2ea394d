from __future__ import annotations

import math

import numpy as np
import pytest

from components.scaling.emergence import EmergenceRow, analyse_emergence, emergence_score, largest_jump


def rows(log_probs: list[float], length: int, n: int = 4000) -> list[EmergenceRow]:
    """Models whose tokens are right independently with probability exp(log_prob)."""
    rng = np.random.default_rng(0)
    return [
        EmergenceRow(
            10.0 ** (3 + i),
            (rng.random((n, length)) < math.exp(lp)).all(axis=1).astype(int).tolist(),
            [[lp] * length] * n,
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


def test_smooth_tokens_foretell_a_sharp_exact_match() -> None:
    report = analyse_emergence(rows([-1.2, -0.8, -0.4, -0.03], 8), resamples=50)
    for point, log_prob in zip(report.points, [-1.2, -0.8, -0.4, -0.03], strict=True):
        assert point.expected.value == pytest.approx(math.exp(8 * log_prob))
        assert point.log_prob.value == pytest.approx(log_prob)
        assert point.accuracy.low <= point.expected.value <= point.accuracy.high
    assert report.expected_error < 0.01
    assert report.sharp_jump.share > 0.9 > 0.5 > report.smooth_jump.share
    assert (report.sharp_jump.below, report.sharp_jump.above) == (1e5, 1e6)
    assert report.sharp_score is not None and report.smooth_score is not None
    assert report.sharp_score > 5 * report.smooth_score
    assert report.warnings == ()


def test_lengths_enter_item_by_item() -> None:
    row = EmergenceRow(1e3, [0, 1], [[-0.1], [-0.3, -0.3, -0.3]])
    report = analyse_emergence([EmergenceRow(1e4, [1, 1], row.token_log_probs), row], resamples=20)
    # Pooled: one nat over four tokens; answers of 1 and 3 tokens.
    assert [p.num_params for p in report.points] == [1e3, 1e4]
    assert report.points[0].log_prob.value == pytest.approx(-0.25)
    assert report.points[0].expected.value == pytest.approx((math.exp(-0.25) + math.exp(-0.75)) / 2)


def test_no_jump_is_said() -> None:
    report = analyse_emergence(rows([-1.0, -1.0, -1.0], 10, n=100), resamples=20)
    assert any("no jump" in w for w in report.warnings)
    assert report.smooth_score is None


def test_bad_rows_are_named() -> None:
    with pytest.raises(ValueError, match="one of each an item"):
        EmergenceRow(1e3, [1, 0], [[-0.1]])
    with pytest.raises(ValueError, match="item 1 has a log-probability"):
        EmergenceRow(1e3, [1, 0], [[-0.1], [math.nan]])
    with pytest.raises(ValueError, match="given twice"):
        analyse_emergence([EmergenceRow(1e3, [1], [[-0.1]])] * 2)
