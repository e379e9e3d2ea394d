"""Held-out loss by source, in nats per token and in bits per byte, which compares across tokenizers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from components.data.batches import validation_batches
from components.data.shards import TokenShards
from components.data.tokenizer import Tokenizer
from components.model.transformer import Transformer


@dataclass(frozen=True)
class HeldOut:
    """One source. loss: nats per token. bits_per_byte: its total over the bytes of the targets; bits_by_window: parts
    whose mean that is, one per window, so that two models can be compared window by window."""

    loss: float
    bits_per_byte: float
    bits_by_window: tuple[float, ...]


@torch.no_grad()
def held_out(
    model: Transformer, shards: TokenShards, tokenizer: Tokenizer, context_length: int, max_windows: int = 128
) -> dict[str, HeldOut]:
    """By source that has held-out text, on at most `max_windows` windows spread over it; the model's mode is kept."""
    was_training = model.training
    model.eval()
    found = {}
    for source in shards.sources:
        if shards.num_tokens(source, "valid") < 2:
            continue
        nats: list[float] = []
        num_tokens = num_bytes = 0
        for inputs_BT, targets_BT in validation_batches(shards, source, 32, context_length, max_windows=max_windows):
            logits_BVT = model(inputs_BT).float().transpose(1, 2)
            nats += F.cross_entropy(logits_BVT, targets_BT, reduction="none").double().sum(1).tolist()
            num_tokens += targets_BT.numel()
            num_bytes += tokenizer.bytes_of(targets_BT.numpy())
        bits = [part * len(nats) / max(num_bytes, 1) / math.log(2) for part in nats]
        found[source] = HeldOut(sum(nats) / num_tokens, sum(bits) / len(bits), tuple(bits))
    model.train(was_training)
    return found
