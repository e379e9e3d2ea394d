"""What a guard against losses that are not finite counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GuardCounts:
    """skipped_steps: updates that were not made because loss or gradient was not finite; rollbacks: how often training
    went back to a snapshot; rate_factor: on the learning rate of the last steps."""

    skipped_steps: int
    rollbacks: int
    rate_factor: float
