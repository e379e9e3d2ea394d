"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a block keeps what goes into it, and computes the rest
once more when its gradient is due. Memory for activations is then that of one block, for a third more computing."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.model.kv_cache import KVCache
from components.model.moe import RouterStats
from components.model.transformer import Block, Hidden, Transformer
from components.native.fuse import FusedTransformer, fuse


def checkpoint_blocks(model: nn.Module) -> None:
    """Let every transformer in a model do so, in place; weights, their names and what comes of them stay as they are,
    gradients up to rounding. Only the classes change, as in `fuse`, which is done first.

    Raises ValueError for a model without a transformer.
    """
    fuse(model)
    found = [part for part in model.modules() if isinstance(part, Transformer)]
    if not found:
        raise ValueError(f"gradient_checkpointing: a {type(model).__name__} has no blocks to compute again")
    for part in found:
        if isinstance(part, FusedTransformer):
            part.__class__ = CheckpointedFusedTransformer
        for block in part.blocks:
            block.__class__ = CheckpointedBlock


class CheckpointedBlock(Block):
    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        real_BT: Tensor | None,
    ) -> tuple[Tensor, RouterStats | None]:
        if cache is not None:
            return super().forward(x_BTD, rotation, mask, cache, real_BT)
        # There is no dropout, and so no state of random numbers to keep. Without gradients it is a plain call.
        done: Any = checkpoint(
            super().forward, x_BTD, rotation, mask, None, real_BT, use_reentrant=False, preserve_rng_state=False
        )
        return done


class CheckpointedFusedTransformer(FusedTransformer):
    """Block by block. `FusedTransformer` joins the end of one with the start of the next; also a pass without gradients
    does not, so that it gives the same numbers as one with them."""

    def through_blocks(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        real_BT: Tensor | None,
    ) -> Hidden:
        if cache is not None:
            return super().through_blocks(x_BTD, rotation, mask, cache, real_BT)
        return Transformer.through_blocks(self, x_BTD, rotation, mask, cache, real_BT)
