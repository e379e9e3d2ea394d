"""What a token takes to serve: by hand, and that the interval is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from components.cost.serving import Round, Shape, measure, one_round, rate, typical

SHAPE = Shape(batch=4, prompt=8, output=17)


def noisy(sd: float, seed: int) -> Callable[[int], float]:
    """2 s for the prompts and the first token, 0.5 for each further one, with log-normal noise."""
    draw = np.random.default_rng(seed)
    return lambda num_tokens: (2.0 + 0.5 * (num_tokens - 1)) * math.exp(draw.normal(0.0, sd))


def test_a_round_splits_reading_from_generating() -> None:
    found = one_round(noisy(0.0, 0), SHAPE)
    assert (found.prefill, found.decode) == (pytest.approx(2 / 32), pytest.approx(0.5 / 4))
    assert found.request(8, 16) == pytest.approx(10 / 4)


def test_rounds_end_when_the_interval_is_narrow_or_time_is_up() -> None:
    quiet = measure(noisy(0.001, 1), SHAPE, (8, 16), precision=0.02, limit_seconds=1e9)
    assert len(quiet) == 3
    loud = measure(noisy(0.2, 1), SHAPE, (8, 16), precision=0.02, limit_seconds=1e9)
    x = typical([one.request(8, 16) for one in loud])
    assert len(loud) > 30 and x.high / x.value - 1 <= 0.02
    assert len(measure(noisy(0.2, 1), SHAPE, (8, 16), precision=0.001, limit_seconds=60.0)) == 5  # of about 12 s each
    assert len(measure(noisy(0.2, 1), SHAPE, (8, 16), precision=0.001, limit_seconds=0.0)) == 3


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    held = 0
    for seed in range(400):
        draw = np.random.default_rng(seed)
        held += typical(np.exp(draw.normal(0.0, 0.3, 5)).tolist()).contains(1.0)
    assert 0.92 <= held / 400 <= 0.98


def test_a_rate_is_the_inverse_and_its_ends_change_places() -> None:
    x = rate(typical([Round(0.1, 0.2).decode, 0.3]))
    assert x.low < x.value < x.high
    assert x.value == pytest.approx(1 / math.sqrt(0.06))
