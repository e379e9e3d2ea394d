"""What the measurement of forgetting returns; its numbers are rows of the table `forgetting`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForgettingResult:
    """first: label of the checkpoint that all are compared with."""

    first: str
    num_checkpoints: int
