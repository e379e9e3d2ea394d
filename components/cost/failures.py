"""What failures cost a training: lost work, restarts, checkpoints, and the interval that costs least."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Unexpected interruptions of Llama 3's pretraining: 419 in 54 days on 16,384 H100 (Dubey et al. 2024, §3.3.4).
DEVICE_HOURS_PER_FAILURE = 16_384 * 54 * 24 / 419
CHECKPOINT_BYTES = 12.0  # per parameter: fp32 weights, momentum, variance


@dataclass(frozen=True)
class Failures:
    """How a training of many devices fails. `device_hours`: between failures of one device, each of which stops all;
    `preemptions_per_device_hour`: of spot devices; `restart_seconds`: until the first step after a failure;
    `checkpoint_seconds`: that training waits for one checkpoint."""

    num_devices: int
    checkpoint_seconds: float
    device_hours: float = DEVICE_HOURS_PER_FAILURE
    preemptions_per_device_hour: float = 0.0
    restart_seconds: float = 600.0

    def __post_init__(self) -> None:
        if self.num_devices < 1:
            raise ValueError(f"num_devices is {self.num_devices}: takes at least 1")
        for name in ("checkpoint_seconds", "restart_seconds", "preemptions_per_device_hour"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name):g}: takes a finite number of at least 0")
        if not self.device_hours > 0:
            raise ValueError(f"device_hours is {self.device_hours:g}: takes a number above 0")

    @property
    def mean_seconds_between(self) -> float:
        """Of the whole training: failures of devices are independent, and one is enough."""
        return 3600.0 / (self.num_devices * (1.0 / self.device_hours + self.preemptions_per_device_hour))

    def useful_share(self, interval: float) -> float:
        """Share of the time that ends up in the model, with a checkpoint after each `interval` seconds of training:
        interval over the expected time of it, M e^(R/M) (e^((interval + C)/M) - 1) (Daly 2006, eq. 13)."""
        if not interval > 0:
            raise ValueError(f"the interval is {interval:g}: takes seconds above 0")
        mean = self.mean_seconds_between
        exponent = (interval + self.checkpoint_seconds) / mean
        if exponent + self.restart_seconds / mean > 600:
            return 0.0
        return interval / (mean * math.exp(self.restart_seconds / mean) * math.expm1(exponent))

    @property
    def best_interval(self) -> float:
        """Seconds between checkpoints at which the least is lost: Daly's refinement of Young's sqrt(2 C M) (2006,
        eq. 37); one second at least."""
        mean, cost = self.mean_seconds_between, self.checkpoint_seconds
        if cost >= 2 * mean:
            return mean
        ratio = cost / (2 * mean)
        return max(1.0, math.sqrt(2 * cost * mean) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost)

    def expected_failures(self, hours: float) -> float:
        """Failures to expect within that many hours."""
        return 3600.0 * hours / self.mean_seconds_between


def checkpoint_seconds(num_params: float, bytes_per_second: float, blocking_share: float = 1.0) -> float:
    """Seconds that training waits while its state is written at this rate, all devices together; `blocking_share`: of
    the writing, the rest goes on in the background."""
    if not bytes_per_second > 0:
        raise ValueError(f"a rate of {bytes_per_second:g} bytes per second: takes a number above 0")
    return CHECKPOINT_BYTES * num_params / bytes_per_second * blocking_share
