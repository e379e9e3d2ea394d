"""Settings of the adaptive controller; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AdaptiveConfig:
    """The thresholds that the controller's tuning tries (`adaptive.Policy` says what they mean); above 1 stands for
    "never". num_folds: the items are tuned on all folds but one and evaluated on that one. tolerance: accuracy that the
    default policy may lose on its tuning items for fewer tokens."""

    direct_confidences: tuple[float, ...] = (0.9, 2.0)
    worked_confidences: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95, 2.0)
    vote_confidences: tuple[float, ...] = (0.8, 0.9, 0.97)
    max_votes: tuple[int, ...] = (4, 8, 16)
    num_folds: int = 2
    tolerance: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("direct_confidences", "worked_confidences", "vote_confidences", "max_votes"):
            if not getattr(self, name):
                raise ValueError(f"adaptive.{name} is empty: give at least one value to try")
        if self.num_folds < 2:
            raise ValueError(f"adaptive.num_folds is {self.num_folds}: tuning and evaluation need at least 2")
