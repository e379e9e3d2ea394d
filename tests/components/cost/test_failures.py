"""What failures cost: against a simulation of single failures."""

from __future__ import annotations

import numpy as np
import pytest

from components.cost.failures import DEVICE_HOURS_PER_FAILURE, Failures, checkpoint_seconds


def simulated_share(failures: Failures, interval: float, segments: int, seed: int) -> float:
    """Train `segments` intervals, each followed by a checkpoint; a failure throws back to the last one, and may strike
    while the training starts again."""
    draw = np.random.default_rng(seed)
    clock, strikes = 0.0, draw.exponential(failures.mean_seconds_between)
    for _ in range(segments):
        end = clock + interval + failures.checkpoint_seconds
        while strikes < end:
            clock = strikes
            strikes = clock + draw.exponential(failures.mean_seconds_between)
            while strikes < clock + failures.restart_seconds:
                clock = strikes
                strikes = clock + draw.exponential(failures.mean_seconds_between)
            clock += failures.restart_seconds
            end = clock + interval + failures.checkpoint_seconds
        clock = end
    return segments * interval / clock


@pytest.mark.parametrize(("devices", "saving"), [(512, 40.0), (16_384, 60.0), (100_000, 120.0)])
def test_the_useful_share_is_that_of_a_simulation(devices: int, saving: float) -> None:
    failures = Failures(devices, saving)
    every = failures.best_interval
    for interval in (every / 3, every, every * 3):
        shares = [simulated_share(failures, interval, 4_000, seed) for seed in range(4)]
        error = 4 * np.std(shares) / 2 + 0.002
        assert failures.useful_share(interval) == pytest.approx(np.mean(shares), abs=error)


@pytest.mark.parametrize("devices", [8, 512, 16_384, 200_000])
def test_no_other_interval_loses_less(devices: int) -> None:
    failures = Failures(devices, 45.0)
    best = failures.useful_share(failures.best_interval)
    grid = failures.best_interval * np.geomspace(0.2, 5, 41)
    assert best >= max(failures.useful_share(float(one)) for one in grid) - 2e-4


def test_published_failures_and_spot() -> None:
    llama = Failures(16_384, 60.0)
    assert llama.expected_failures(54 * 24) == pytest.approx(419)
    assert abs(DEVICE_HOURS_PER_FAILURE - 50_677) < 5
    spot = Failures(64, 60.0, preemptions_per_device_hour=0.01)
    assert spot.mean_seconds_between == pytest.approx(3600 / (64 * (0.01 + 1 / DEVICE_HOURS_PER_FAILURE)))
    assert spot.useful_share(600.0) < Failures(64, 60.0).useful_share(600.0)
    assert Failures(10**9, 3600.0).useful_share(3600.0) == pytest.approx(0)
    assert checkpoint_seconds(7e10, 2e10) == pytest.approx(42)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Failures(0, 1.0), "num_devices is 0"),
        (lambda: Failures(1, -1.0), "checkpoint_seconds is -1"),
        (lambda: Failures(1, 1.0, device_hours=0.0), "device_hours is 0"),
        (lambda: Failures(1, 1.0).useful_share(0.0), "the interval is 0"),
        (lambda: checkpoint_seconds(1.0, 0.0), "a rate of 0 bytes per second"),
    ],
)
def test_what_cannot_be_is_said(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()  # type: ignore[operator]
