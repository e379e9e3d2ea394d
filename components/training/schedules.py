"""Learning-rate schedules as pure functions of the step: each gives the factor on the peak rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ScheduleConfig:
    """shape: linear or cosine decay after the warm-up, wsd (warm-up, stable, linear decay over the last
    `decay_fraction` of the steps), or constant. floor: the factor at the end."""

    shape: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    warmup_steps: int = 20
    decay_fraction: float = 0.3
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}: give a number of at least 0")
        if not 0 < self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction is {self.decay_fraction}: give a number above 0 and at most 1")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor is {self.floor}: give a number from 0 to 1")


def lr_factor(cfg: ScheduleConfig, step: int, num_steps: int) -> float:
    """Factor on the peak learning rate at `step` (0-based) of `num_steps`."""
    warmup = min(1.0, (step + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
    if step < cfg.warmup_steps:
        return warmup
    if cfg.shape == "constant":
        return 1.0
    if cfg.shape == "wsd":
        decay_steps = max(1, round(cfg.decay_fraction * num_steps))
        left = (num_steps - step) / decay_steps
        return cfg.floor + (1 - cfg.floor) * min(1.0, left)
    done = (step - cfg.warmup_steps) / max(1, num_steps - cfg.warmup_steps)
    if cfg.shape == "linear":
        return cfg.floor + (1 - cfg.floor) * (1 - done)
    return cfg.floor + (1 - cfg.floor) * 0.5 * (1 + math.cos(math.pi * done))
