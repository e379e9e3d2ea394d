"""Held-out loss by source, in nats per token and in bits per byte, which compares across tokenizers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from components.data.batches import validation_batches
from components.data.shards import TokenShards
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.loss import fits_at_once
from components.model.lstm import LanguageModel
from components.model.transformer import Transformer

ROW_BYTES = {"cpu": 256 << 20, "cuda": 4 << 30}


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
    was_training, device = model.training, model.embedding.weight.device
    model.eval()
    found = {}
    for source in shards.sources:
        if shards.num_tokens(source, "valid") < 2:
            continue
        nats: list[float] = []
        num_tokens = num_bytes = 0
        rows = rows_in_memory(model.cfg, context_length, device.type)
        for inputs_BT, targets_BT in validation_batches(shards, source, rows, context_length, max_windows=max_windows):
            losses_BT = target_losses(model, inputs_BT.to(device), targets_BT.to(device))
            nats += losses_BT.double().sum(1).tolist()
            num_tokens += targets_BT.numel()
            num_bytes += tokenizer.bytes_of(targets_BT.numpy())
        bits = [part * len(nats) / max(num_bytes, 1) / math.log(2) for part in nats]
        found[source] = HeldOut(sum(nats) / num_tokens, sum(bits) / len(bits), tuple(bits))
    model.train(was_training)
    return found


@torch.no_grad()
def target_losses(model: LanguageModel, tokens_BT: Tensor, targets_BT: Tensor) -> Tensor:
    """Cross-entropy of every target, [B, T] in nats."""
    x_BTD = model.hidden(tokens_BT).x_BTD
    if isinstance(model, Transformer) and not fits_at_once(x_BTD, model.cfg.vocab_size):
        return -model.log_probs(x_BTD.flatten(0, 1), targets_BT.flatten())[0].view_as(targets_BT)
    return F.cross_entropy(model.logits(x_BTD).float().transpose(1, 2), targets_BT, reduction="none")


def rows_in_memory(cfg: ModelConfig, context_length: int, device_type: str, most: int = 32) -> int:
    """Rows of a batch without gradient whose widest layer stays within `ROW_BYTES` of float32; 1 to `most`.

    The widest is the feed-forward's gate and up beside their product, of all chosen experts, or the attention's inputs
    with the scores of one head at a time.
    """
    experts = 0 if cfg.moe is None else cfg.moe.top_k_experts * cfg.moe.d_ff + cfg.moe.shared_d_ff
    attention = (2 * cfg.num_heads + 2 * cfg.kv_heads) * cfg.per_head
    widest = 3 * cfg.d_model + max(3 * cfg.hidden, 3 * experts, attention)
    budget = ROW_BYTES.get(device_type, ROW_BYTES["cpu"])
    return min(most, max(1, budget // (4 * widest * context_length)))
