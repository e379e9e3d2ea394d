"""The batches of supervised fine-tuning: packed conversations, replayed pretraining text, and noise on the embeddings.

Each is a pure function of (seed, step). Shapes: B rows, T positions, D model width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from components.data.batches import batch_at
from components.data.conversations import PackedConversations, SftBatch, sft_batch_at
from components.data.shards import TokenShards
from components.training.config import FinetuneConfig
from components.training.language_model import IGNORE, LMBatch


def conversation_batch(drawn: SftBatch) -> LMBatch:
    """Loss on what the assistant says alone; each conversation sees itself alone."""
    targets_BT = drawn.targets_BT.masked_fill(~drawn.loss_mask_BT, IGNORE)
    return LMBatch(drawn.inputs_BT, targets_BT, drawn.positions_BT, drawn.document_ids_BT)


def held_out_batches(packed: PackedConversations, batch_size: int, max_rows: int | None = None) -> list[LMBatch]:
    """Rows in a fixed random order, all or the first `max_rows`, each once; the last batch may be smaller."""
    count = packed.num_rows if max_rows is None else min(max_rows, packed.num_rows)
    rows = [conversation_batch(sft_batch_at(packed, row, 1, 0)) for row in range(count)]
    return [_stacked(rows[first : first + batch_size]) for first in range(0, count, batch_size)]


@dataclass(frozen=True)
class FinetuneBatches:
    """`at(step)`: the last `config.replay_rows` rows are windows of the shards' training text, mixed by `weights`; the
    rest are packed conversations, with NEFTune's noise where `config.neftune_alpha` is set."""

    config: FinetuneConfig
    packed: PackedConversations
    shards: TokenShards | None
    weights: Mapping[str, float]
    d_model: int
    seed: int

    def at(self, step: int) -> LMBatch:
        """The batch of a 0-based step."""
        config, replayed = self.config, self.config.replay_rows
        conversations = conversation_batch(sft_batch_at(self.packed, step, config.batch_size - replayed, self.seed))
        if config.neftune_alpha:
            assert conversations.documents_BT is not None
            noise_BTD = neftune_noise(conversations.documents_BT, self.d_model, config.neftune_alpha, self.seed, step)
            conversations = replace(conversations, noise_BTD=noise_BTD)
        if not replayed or self.shards is None:
            return conversations
        read = batch_at(self.shards, step, replayed, config.context_length, self.seed + 1, self.weights)
        return _stacked(
            [
                conversations,
                LMBatch(  # one document per window, as in pretraining, and without noise
                    read.inputs_BT,
                    read.targets_BT,
                    torch.arange(config.context_length).expand_as(read.inputs_BT),
                    torch.ones_like(read.inputs_BT),
                    noise_BTD=torch.zeros(*read.inputs_BT.shape, self.d_model) if config.neftune_alpha else None,
                ),
            ]
        )


def neftune_noise(documents_BT: Tensor, d_model: int, alpha: float, seed: int, step: int) -> Tensor:
    """Noise for the embeddings [B, T, D], uniform in ±alpha / √(L·D) (Jain et al. 2023, algorithm 1).

    L is the length of the token's own conversation, so that packing changes nothing; padding (document 0) has none.
    """
    digest = hashlib.blake2b(f"neftune-{seed}-{step}".encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    noise_BTD = torch.rand(*documents_BT.shape, d_model, generator=generator) * 2 - 1
    length_BT = (documents_BT[:, :, None] == documents_BT[:, None, :]).sum(-1)
    bound_BT = (documents_BT > 0) * alpha / (length_BT * d_model).sqrt()
    return noise_BTD * bound_BT[:, :, None]


def _stacked(batches: list[LMBatch]) -> LMBatch:
    """The rows of several batches that have the same parts, as one."""
    names = [field.name for field in fields(LMBatch) if getattr(batches[0], field.name) is not None]
    return LMBatch(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})
