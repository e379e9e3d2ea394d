"""The feed-forward layer of a decoder.

Shape suffixes: B batch, T positions, D model width, F hidden width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SwiGLU(nn.Module):
    """silu(gate) · up of rows [gate | up] (Shazeer 2020): [..., 2F] to [..., F]."""

    def forward(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.swiglu = SwiGLU()
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.swiglu(self.gate_up(x_BTD)))
