"""What a scaling law is fitted to: one measured loss of one model after some tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from components.model.config import ParamConvention

FloatArray = NDArray[np.float64]
PointConvention = ParamConvention | Literal["flops_per_token"]
CONVENTIONS: tuple[PointConvention, ...] = (*get_args(ParamConvention), "flops_per_token")


@dataclass(frozen=True)
class ScalingPoint:
    """`num_params` N as `convention` counts it; `tokens` D seen in training, with repeats; `loss` in nats per token.

    Exponents shift with the convention, and laws fitted to different ones must not be compared: Kaplan et al. (2020)
    leave out embeddings, Hoffmann et al. (2022) count all; a mixture of experts computes with its active parameters;
    DeepSeek-AI (2024) put training FLOPs per token in place of parameters.
    `run`: the training run that the point is read from. Points of one run share its luck, so intervals resample
    whole runs.
    """

    num_params: float
    tokens: float
    loss: float
    run: str
    convention: PointConvention = "non_embedding"

    @property
    def flops(self) -> float:
        """Training FLOPs by the 6ND approximation."""
        return 6.0 * self.num_params * self.tokens


@dataclass(frozen=True)
class PointArrays:
    """Checked columns of a list of points; each of shape (n,)."""

    num_params: FloatArray
    tokens: FloatArray
    loss: FloatArray
    runs: tuple[str, ...]
    convention: PointConvention


def point_arrays(points: Sequence[ScalingPoint], at_least: int, law: str) -> PointArrays:
    """Columns of `points`. Raises ValueError naming the row for a value that is not finite and positive, for mixed
    conventions of N, and for fewer than `at_least` points."""
    for row, point in enumerate(points):
        for name in ("num_params", "tokens", "loss"):
            value = getattr(point, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(
                    f"row {row} (run {point.run!r}): {name} is {value}; a scaling point must be finite and positive. "
                    "Leave out the points of a run that diverged"
                )
        if point.convention not in CONVENTIONS:
            raise ValueError(f"row {row}: convention is {point.convention!r}; one of {CONVENTIONS} is needed")
        if point.convention != points[0].convention:
            raise ValueError(
                f"row {row} (run {point.run!r}) counts N as {point.convention}, row 0 as {points[0].convention}: "
                "a law needs one convention"
            )
    if len(points) < at_least:
        raise ValueError(
            f"{law} needs at least {at_least} points, got {len(points)}: train more sizes or read more checkpoints"
        )
    return PointArrays(
        np.array([p.num_params for p in points], dtype=np.float64),
        np.array([p.tokens for p in points], dtype=np.float64),
        np.array([p.loss for p in points], dtype=np.float64),
        tuple(p.run for p in points),
        points[0].convention,
    )
