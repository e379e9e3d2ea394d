"""How far each position turns the pairs of a head (Su et al. 2021), and how that is stretched for longer contexts.

Shape suffixes: T positions, C head dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from components.model.config import ModelConfig, RopeScaling


def rotary_frequencies(cfg: ModelConfig) -> Tensor:
    """Radians a position of each rotated pair, [C/2] float64."""
    half = cfg.per_head // 2
    plain = cfg.rope_theta ** (-torch.arange(half, dtype=torch.float64) / half)
    scaling = cfg.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind == "yarn":
        return torch.lerp(plain / scaling.factor, plain, _kept_by_yarn(cfg, scaling))
    turns = scaling.original_context_length * plain / (2 * math.pi)  # over the context that was trained on
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return torch.lerp(plain / scaling.factor, plain, kept.clamp(0, 1))


def _kept_by_yarn(cfg: ModelConfig, scaling: RopeScaling) -> Tensor:
    """How much of its own frequency each pair keeps, [C/2]: a ramp over the number of the pair, from 1 down to 0,
    between the whole pairs next to those that turn `beta_fast` and `beta_slow` times."""
    half = cfg.per_head // 2

    def pair(turns: float) -> float:  # the inverse of theta^(-pair / half) · context / 2π
        return half * math.log(scaling.original_context_length / (2 * math.pi * turns)) / math.log(cfg.rope_theta)

    first, last = max(math.floor(pair(scaling.beta_fast)), 0), min(math.ceil(pair(scaling.beta_slow)), 2 * half - 1)
    ramp = (torch.arange(half, dtype=torch.float64) - first) / (last - first or 1e-3)
    return 1 - ramp.clamp(0, 1)


def rotary_tables(cfg: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, [T, 1, C/2] float32; for YaRN times the length that it gives to queries and
    keys."""
    angles = torch.outer(torch.arange(cfg.context_length, dtype=torch.float64), rotary_frequencies(cfg)).unsqueeze(1)
    scaling, length = cfg.rope_scaling, 1.0
    if scaling is not None and scaling.kind == "yarn":
        length = scaling.attention_factor or 0.1 * math.log(scaling.factor) + 1
    return (length * angles.cos()).float(), (length * angles.sin()).float()


def rotate(x_BTHC: Tensor, cos_TC: Tensor, sin_TC: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, eq. 34) with the two halves of a head as the rotated pairs."""
    first, second = x_BTHC.chunk(2, -1)
    return torch.cat([first * cos_TC - second * sin_TC, second * cos_TC + first * sin_TC], -1)
