"""A decoder transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU or a mixture of experts.

Plain torch on every device. On a CPU `components.native.fuse` puts faster layers in the place of these.

Shape suffixes: B batch, T positions of the input, S positions of keys (cache or input), D model width, H query
heads, K key and value heads, C head dimension, V vocabulary, L layers; N = B · K and G = H / K · T in cached attention.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.model.config import ModelConfig
from components.model.feed_forward import FeedForward
from components.model.kv_cache import KVCache
from components.model.loss import CrossEntropy, Unembedding, chunked_cross_entropy, chunked_log_probs, fits_at_once
from components.model.moe import MixtureOfExperts, RouterStats
from components.model.rotary import rotary_tables, rotate


@dataclass
class Hidden:
    """Hidden states after the last norm, and what the routers of a mixture of experts did (else empty)."""

    x_BTD: Tensor
    routers: list[RouterStats] = field(default_factory=list)

    def auxiliary_loss(self) -> Tensor:
        """The routers' losses, already weighted and averaged over layers; 0 for a dense model."""
        if not self.routers:
            return self.x_BTD.new_zeros(())
        return torch.stack([r.loss for r in self.routers]).mean()


def softcap(x: Tensor, cap: float) -> Tensor:
    """cap · tanh(x / cap), or x where cap is 0."""
    return cap * torch.tanh(x / cap) if cap else x


def scaled(x: Tensor, factor: float) -> Tensor:
    """x times a factor, or x itself where that is 1: no pass over memory for a model without factors."""
    return x if factor == 1 else x * factor


def causal_mask(t: int, window: int, device: torch.device | None = None) -> Tensor:
    """Boolean mask [T, T]: a position sees itself and the window - 1 before it (window 0: all before it)."""
    seen = torch.ones(t, t, dtype=torch.bool, device=device).tril()
    return seen.triu(1 - window) if window else seen


def document_mask(documents_BT: Tensor, window: int = 0) -> Tensor:
    """Boolean mask [B, 1, T, T]: `causal_mask` within a position's own document."""
    same = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (same & causal_mask(documents_BT.shape[1], window, documents_BT.device))[:, None]


def attend(
    q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, mask: Tensor | None, cap: float, scale: float = 0.0
) -> Tensor:
    """Softmax attention, heads joined: [B, T, H · C]; `mask` is true where a query sees a key, None means causal.
    scale: factor of the scores (0: 1 / √C)."""
    b, h, t, c = q_BHTC.shape
    k = k_BKSC.shape[1]
    if not cap:
        y_BHTC = F.scaled_dot_product_attention(
            q_BHTC, k_BKSC, v_BKSC, mask, is_causal=mask is None, scale=scale or None, enable_gqa=h != k
        )
    else:
        k_BHSC, v_BHSC = (x.repeat_interleave(h // k, 1) for x in (k_BKSC, v_BKSC))
        scores_BHTS = softcap(q_BHTC @ k_BHSC.mT / (1 / scale if scale else math.sqrt(c)), cap)
        seen = causal_mask(t, 0, q_BHTC.device) if mask is None else mask
        y_BHTC = scores_BHTS.masked_fill(~seen, float("-inf")).softmax(-1) @ v_BHSC
    return y_BHTC.transpose(1, 2).reshape(b, t, h * c)


class Attention(nn.Module):
    """Causal grouped-query attention. `rotation`: cosines and sines [T or B, T, 1, C/2] of the positions."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.cfg, self.layer = cfg, layer
        d, c, h, k = cfg.d_model, cfg.per_head, cfg.num_heads, cfg.kv_heads
        self.qkv = nn.Linear(d, (h + 2 * k) * c, bias=cfg.attention_bias)
        self.out = nn.Linear(h * c, d, bias=False)
        self.is_rotated = layer not in cfg.nope_layers
        q, kv = (h * c, k * c) if cfg.qk_norm_over == "all_heads" else (c, c)
        self.q_norm = nn.Parameter(torch.ones(q)) if cfg.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(kv)) if cfg.qk_norm else None

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        b, t, _ = x_BTD.shape
        h, k, c = self.cfg.num_heads, self.cfg.kv_heads, self.cfg.per_head
        q_BTHC, k_BTKC, v_BTKC = self.qkv(x_BTD).view(b, t, h + 2 * k, c).split((h, k, k), 2)
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHC, k_BTKC = self.normalised(q_BTHC, self.q_norm), self.normalised(k_BTKC, self.k_norm)
        if self.is_rotated:
            q_BTHC, k_BTKC = (rotate(x, *rotation).to(v_BTKC.dtype) for x in (q_BTHC, k_BTKC))
        q_BHTC, k_BKTC, v_BKTC = q_BTHC.transpose(1, 2), k_BTKC.transpose(1, 2), v_BTKC.transpose(1, 2)
        if cache is None:
            y_BTX = attend(q_BHTC, k_BKTC, v_BKTC, mask, self.cfg.attention_softcap, self.cfg.attention_scale)
        else:
            y_BTX = self.continue_cached(q_BHTC, k_BKTC, v_BKTC, cache)
        return self.out(y_BTX)

    def normalised(self, x_BTHC: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of queries or keys over each head, or over all of them: over as many numbers as there are weights."""
        rows = x_BTHC if weight.shape[0] == x_BTHC.shape[3] else x_BTHC.flatten(2)
        return F.rms_norm(rows, weight.shape, weight.to(rows.dtype), self.cfg.norm_eps).view(x_BTHC.shape)

    def continue_cached(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, cache: KVCache) -> Tensor:
        """Queries behind the filled slots of their sequences, [B, T, H · C]; their keys and values go to the next
        slots. Plain products: for one query flash attention loses on CPU, and shapes stay static on a GPU."""
        b, h, t, c = q_BHTC.shape
        k = self.cfg.kv_heads
        keys, values = cache.keys_LBKSC[self.layer], cache.values_LBKSC[self.layer]
        positions_BT = cache.lengths_B[:, None] + torch.arange(t, device=keys.device)
        rows_B1 = torch.arange(b, device=keys.device)[:, None]
        keys[rows_B1, :, positions_BT] = k_BKTC.transpose(1, 2)
        values[rows_B1, :, positions_BT] = v_BKTC.transpose(1, 2)
        s = keys.shape[2] if keys.is_cuda else int(cache.lengths_B.max()) + t
        # Batch and key heads merged: a slice of the slots is then still a batch of strided matrices, never a copy.
        keys_NSC, values_NSC = keys.flatten(0, 1)[:, :s], values.flatten(0, 1)[:, :s]
        scale = self.cfg.attention_scale
        q_NGC = q_BHTC.reshape(b * k, h // k * t, c) / (1 / scale if scale else math.sqrt(c))
        scores_BKGTS = torch.bmm(q_NGC, keys_NSC.transpose(1, 2)).view(b, k, h // k, t, s)
        scores_BKGTS = softcap(scores_BKGTS, self.cfg.attention_softcap)
        positions_S = torch.arange(s, device=keys.device)
        hidden_BTS = positions_S > positions_BT[:, :, None]
        if self.cfg.sliding_window:
            hidden_BTS |= positions_S <= positions_BT[:, :, None] - self.cfg.sliding_window
        weights_BKGTS = scores_BKGTS.masked_fill(hidden_BTS[:, None, None], float("-inf")).softmax(-1)
        y_BHTC = torch.bmm(weights_BKGTS.view(b * k, -1, s), values_NSC).view(b, h, t, c)
        return y_BHTC.transpose(1, 2).reshape(b, t, h * c)


class Block(nn.Module):
    """Attention and feed-forward (or experts), each with a norm before or behind it, added to the residual stream."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.normalises_after, self.scale = cfg.norm_placement == "after", cfg.residual_scale
        self.attention_norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.attention = Attention(cfg, layer)
        self.mlp_norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.mlp: nn.Module
        if cfg.moe is not None and layer >= cfg.moe.first_dense:
            self.mlp = MixtureOfExperts(cfg.d_model, cfg.moe)
        else:
            self.mlp = FeedForward(cfg.d_model, cfg.hidden)

    def forward(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        real_BT: Tensor | None,
    ) -> tuple[Tensor, RouterStats | None]:
        after, stats = self.normalises_after, None
        y_BTD = self.attention(x_BTD if after else self.attention_norm(x_BTD), rotation, mask, cache)
        x_BTD = x_BTD + scaled(self.attention_norm(y_BTD) if after else y_BTD, self.scale)
        normed = x_BTD if after else self.mlp_norm(x_BTD)
        if isinstance(self.mlp, MixtureOfExperts):
            y_BTD, stats = self.mlp(normed, real_BT)
        else:
            y_BTD = self.mlp(normed)
        return x_BTD + scaled(self.mlp_norm(y_BTD) if after else y_BTD, self.scale), stats


class Transformer(nn.Module):
    """A decoder language model.

    `forward(tokens_BT) -> logits_BTV`. With `cache`, the tokens continue the cached sequences,
    whose lengths the caller then adds to. With `documents_BT`, positions attend within their own document
    only (a block-diagonal causal mask) and `positions_BT` should restart in each; document 0 is padding.
    """

    def __init__(self, cfg: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.num_layers))
        self.norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.unembedding = None if cfg.tie_embeddings else nn.Linear(cfg.d_model, cfg.vocab_size, bias=False)
        self.loss = CrossEntropy()
        cos, sin = rotary_tables(cfg)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.cos: Tensor
        self.sin: Tensor
        self._initialize(torch.Generator().manual_seed(seed))

    def _initialize(self, generator: torch.Generator) -> None:
        """Matrices N(0, 1/fan_in), those that write to the residual stream scaled by 1/√(2·layers); embeddings
        N(0, 0.02²) when tied, so that first logits are near zero."""
        depth = 1 / math.sqrt(2 * self.cfg.num_layers)
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if weight.dim() < 2:
                    weight.fill_(0.0 if name.endswith("bias") else 1.0)
                    continue
                std = 0.02 if name == "embedding.weight" else 1 / math.sqrt(weight.shape[-1])
                if name.endswith(("out.weight", "down.weight", "down")):
                    std *= depth
                weight.normal_(0.0, std, generator=generator)

    def hidden(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
        noise_BTD: Tensor | None = None,
        real_BT: Tensor | None = None,
    ) -> Hidden:
        """Hidden states [B, T, D] after the last norm. `noise_BTD` is added to the embeddings. `real_BT` is false at
        padding, which routers then do not count; by default that is document 0, and without documents nothing."""
        t, window = tokens_BT.shape[1], self.cfg.sliding_window
        if t > self.cfg.context_length:
            raise ValueError(f"{t} tokens in a row; the model's context_length is {self.cfg.context_length}")
        if cache is not None:
            positions_BT = cache.lengths_B[:, None] + torch.arange(t, device=tokens_BT.device)
        positions = slice(t) if positions_BT is None else positions_BT
        mask = None  # plainly causal
        if documents_BT is not None:
            mask = document_mask(documents_BT, window)
            if real_BT is None and self.cfg.moe is not None:
                real_BT = documents_BT > 0
        elif window and t > window:
            mask = causal_mask(t, window, tokens_BT.device)
        x_BTD = scaled(self.embedding(tokens_BT), self.cfg.embedding_scale)
        if noise_BTD is not None:
            x_BTD = x_BTD + noise_BTD.to(x_BTD.dtype)
        return self.through_blocks(x_BTD, (self.cos[positions], self.sin[positions]), mask, cache, real_BT)

    def through_blocks(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        real_BT: Tensor | None,
    ) -> Hidden:
        """All blocks, and the last norm."""
        routers: list[RouterStats] = []
        for block in self.blocks:
            x_BTD, stats = block(x_BTD, rotation, mask, cache, real_BT)
            if stats is not None:
                routers.append(stats)
        return Hidden(self.norm(x_BTD), routers)

    @property
    def output_weight(self) -> Tensor:
        """The matrix [V, D] that makes logits of hidden states."""
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return softcap(scaled(F.linear(x_BTD, self.output_weight), 1 / self.cfg.logit_divisor), self.cfg.logit_softcap)

    def cross_entropy(
        self, x_BTD: Tensor, targets_BT: Tensor, ignore: int, weights_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`CrossEntropy` of hidden states; in chunks where all logits would take much memory."""
        x_ND, targets_N = x_BTD.flatten(0, 1), targets_BT.flatten()
        weights_N = None if weights_BT is None else weights_BT.flatten()
        if not fits_at_once(x_ND, self.cfg.vocab_size):
            return chunked_cross_entropy(x_ND, self._output(), targets_N, ignore, weights_N)
        return self.loss(self.logits(x_ND), targets_N, ignore, weights_N)

    def log_probs(
        self, x_ND: Tensor, targets_N: Tensor, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Of each hidden state: the log-probability of its target at a temperature, and the entropy of the distribution
        in nats, without gradient (0 unless asked for: it costs as much as the log-probabilities). In chunks where all
        logits would take much memory."""
        if not fits_at_once(x_ND, self.cfg.vocab_size):
            return chunked_log_probs(x_ND, self._output(temperature), targets_N, entropy)
        logits_NV = self.logits(x_ND)
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        log_probs_NV = (logits_NV if temperature == 1 else logits_NV / temperature).log_softmax(-1)
        log_probs_N = log_probs_NV.gather(1, targets_N[:, None])[:, 0]
        if not entropy:
            return log_probs_N, torch.zeros_like(log_probs_N)
        with torch.no_grad():
            return log_probs_N, -(log_probs_NV.exp() * log_probs_NV).sum(-1)

    def _output(self, temperature: float = 1.0) -> Unembedding:
        return Unembedding(self.output_weight, 1 / self.cfg.logit_divisor, self.cfg.logit_softcap, temperature)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        return self.logits(self.hidden(tokens_BT, positions_BT, documents_BT, cache).x_BTD)
