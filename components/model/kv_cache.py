"""Keys and values of earlier positions, which later ones attend to.

Shape suffixes: B batch, S slots of a sequence, K key and value heads, C head dimension, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from components.model.config import ModelConfig


@dataclass
class KVCache:
    """Keys and values of `B` sequences in static slots; `lengths_B` says how many positions of each are filled."""

    keys_LBKSC: list[Tensor]
    values_LBKSC: list[Tensor]
    lengths_B: Tensor

    @classmethod
    def empty(
        cls,
        cfg: ModelConfig,
        batch: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
    ) -> KVCache:
        """Slots for `batch` sequences of at most `capacity` tokens."""
        shape = (batch, cfg.kv_heads, capacity, cfg.per_head)
        return cls(
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.num_layers)],
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(cfg.num_layers)],
            torch.zeros(batch, dtype=torch.long, device=device),
        )

    def select(self, rows: Tensor, length: int | None = None) -> KVCache:
        """The cache of these rows only, in this order (rows may repeat); of the first `length` slots (None: all)."""
        return KVCache(
            [k[:, :, :length].index_select(0, rows) for k in self.keys_LBKSC],
            [v[:, :, :length].index_select(0, rows) for v in self.values_LBKSC],
            self.lengths_B.index_select(0, rows),
        )
