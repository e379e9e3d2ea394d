"""A decoder transformer, written plainly.

Shape suffixes: B batch, T positions of the input, S positions of keys (cache or input), D model width, H query
heads, K key and value heads, C head dimension, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.model import kernels, layers
from components.model.config import ModelConfig
from components.model.kernels import (
    SCORES_LIMIT,
    Linear,
    add_norm,
    attend,
    causal_mask,
    embedding,
    linear,
    softcap,
    split_heads,
    swiglu,
)
from components.model.moe import MixtureOfExperts, RouterStats
from components.model.rotary import rotary_tables


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

    def select(self, rows: Tensor) -> KVCache:
        """The cache of these rows only, in this order (rows may repeat)."""
        return KVCache(
            [k.index_select(0, rows) for k in self.keys_LBKSC],
            [v.index_select(0, rows) for v in self.values_LBKSC],
            self.lengths_B.index_select(0, rows),
        )


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


class Attention(nn.Module):
    """Causal grouped-query attention."""

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        d, c, h, k = cfg.d_model, cfg.per_head, cfg.num_heads, cfg.kv_heads
        self.qkv = Linear(d, (h + 2 * k) * c, bias=cfg.attention_bias)
        self.out = Linear(h * c, d, bias=False)
        self.q_norm = nn.Parameter(torch.ones(c)) if cfg.qk_norm else None
        self.k_norm = nn.Parameter(torch.ones(c)) if cfg.qk_norm else None

    def layer(
        self,
        x_BTD: Tensor,
        delta_BTD: Tensor | None,
        norm: nn.RMSNorm,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        layer: int,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta, and attention over its norm."""
        cfg, norms = self.cfg, (self.q_norm, self.k_norm)
        simple = cache is None and not cfg.attention_softcap and not cfg.attention_bias
        if simple and x_BTD.shape[1] <= SCORES_LIMIT and type(self.qkv) is Linear and type(self.out) is Linear:
            weights = norm.weight, self.qkv.weight, self.out.weight
            if layers.fits(x_BTD, *weights, *norms):
                heads = cfg.num_heads, cfg.kv_heads
                return layers.attention(x_BTD, delta_BTD, weights, norms, rotation, mask, heads, cfg.norm_eps)
        x_BTD, normed = add_norm(x_BTD, delta_BTD, norm.weight, cfg.norm_eps)
        return x_BTD, self(normed, *rotation, mask, cache, layer)

    def forward(
        self, x_BTD: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KVCache | None, layer: int
    ) -> Tensor:
        cfg = self.cfg
        heads, norms = (cfg.num_heads, cfg.kv_heads), (self.q_norm, self.k_norm)
        q_BHTC, k_BKTC, v_BKTC = split_heads(self.qkv(x_BTD), heads, norms, cos, sin, cfg.norm_eps)
        if cache is None:
            y_BTX = attend(q_BHTC, k_BKTC, v_BKTC, mask, cfg.attention_softcap)
        else:
            y_BTX = self._continue(q_BHTC, k_BKTC, v_BKTC, cache, layer)
        return self.out(y_BTX)

    def _continue(self, q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, cache: KVCache, layer: int) -> Tensor:
        """Queries behind the filled slots of their sequences, [B, T, H · C]. Plain products: for one query flash
        attention loses on CPU, and shapes stay static on a GPU."""
        b, h, t, c = q_BHTC.shape
        k = self.cfg.kv_heads
        keys, values = cache.keys_LBKSC[layer], cache.values_LBKSC[layer]
        positions_BT = cache.lengths_B[:, None] + torch.arange(t, device=keys.device)
        rows_B1 = torch.arange(b, device=keys.device)[:, None]
        keys[rows_B1, :, positions_BT] = k_BKTC.transpose(1, 2)
        values[rows_B1, :, positions_BT] = v_BKTC.transpose(1, 2)
        s = keys.shape[2] if keys.is_cuda else int(cache.lengths_B.max()) + t
        # Batch and key heads merged: a slice of the slots is then still a batch of strided matrices, never a copy.
        keys_NSC, values_NSC = keys.flatten(0, 1)[:, :s], values.flatten(0, 1)[:, :s]
        q_NGC = q_BHTC.reshape(b * k, h // k * t, c) / math.sqrt(c)
        scores_BKGTS = torch.bmm(q_NGC, keys_NSC.transpose(1, 2)).view(b, k, h // k, t, s)
        scores_BKGTS = softcap(scores_BKGTS, self.cfg.attention_softcap)
        positions_S = torch.arange(s, device=keys.device)
        hidden_BTS = positions_S > positions_BT[:, :, None]
        if self.cfg.sliding_window:
            hidden_BTS |= positions_S <= positions_BT[:, :, None] - self.cfg.sliding_window
        weights_BKGTS = scores_BKGTS.masked_fill(hidden_BTS[:, None, None], float("-inf")).softmax(-1)
        y_BHTC = torch.bmm(weights_BKGTS.view(b * k, -1, s), values_NSC).view(b, h, t, c)
        return y_BHTC.transpose(1, 2).reshape(b, t, h * c)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = Linear(d_model, 2 * d_ff, bias=False)
        self.down = Linear(d_ff, d_model, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x_BTD)))

    def layer(self, x_BTD: Tensor, delta_BTD: Tensor | None, norm: nn.RMSNorm, eps: float) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta, and `forward` of its norm."""
        if type(self.gate_up) is Linear and type(self.down) is Linear:  # no adapters
            weights = norm.weight, self.gate_up.weight, self.down.weight
            if layers.fits(x_BTD, *weights):
                return layers.feed_forward(x_BTD, delta_BTD, *weights, eps)
        x_BTD, normed = add_norm(x_BTD, delta_BTD, norm.weight, eps)
        return x_BTD, self(normed)


class Block(nn.Module):
    """Pre-norm attention and feed-forward (or experts), each added to the residual stream."""

    def __init__(self, cfg: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.eps = layer, cfg.norm_eps
        self.attention_norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.attention = Attention(cfg)
        self.mlp_norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.mlp: nn.Module
        if cfg.moe is not None and layer >= cfg.moe.first_dense:
            self.mlp = MixtureOfExperts(cfg.d_model, cfg.moe)
        else:
            self.mlp = FeedForward(cfg.d_model, cfg.hidden)

    def forward(
        self,
        x_BTD: Tensor,
        delta_BTD: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        cache: KVCache | None,
    ) -> tuple[Tensor, Tensor, RouterStats | None]:
        """Takes the residual stream and what the block before adds to it (norms fuse with that addition); returns
        the stream, what this block adds, and what its router did."""
        x_BTD, y_BTD = self.attention.layer(x_BTD, delta_BTD, self.attention_norm, (cos, sin), mask, cache, self.layer)
        if isinstance(self.mlp, FeedForward):
            return *self.mlp.layer(x_BTD, y_BTD, self.mlp_norm, self.eps), None
        x_BTD, normed = add_norm(x_BTD, y_BTD, self.mlp_norm.weight, self.eps)
        return x_BTD, *self.mlp(normed)


class Transformer(nn.Module):
    """A decoder language model.

    `forward(tokens_BT) -> logits_BTV`. With `cache`, the tokens continue the cached sequences,
    whose lengths the caller then adds to. With `documents_BT`, positions attend within their own document
    only (a block-diagonal causal mask) and `positions_BT` should restart in each.
    """

    def __init__(self, cfg: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.embedding = nn.Embedding(cfg.vocab_size, cfg.d_model)
        self.blocks = nn.ModuleList(Block(cfg, layer) for layer in range(cfg.num_layers))
        self.norm = nn.RMSNorm(cfg.d_model, cfg.norm_eps)
        self.unembedding = None if cfg.tie_embeddings else Linear(cfg.d_model, cfg.vocab_size, bias=False)
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
    ) -> Hidden:
        """Hidden states [B, T, D] after the last norm. `noise_BTD` is added to the embeddings."""
        t = tokens_BT.shape[1]
        if t > self.cfg.context_length:
            raise ValueError(f"{t} tokens in a row; the model's context_length is {self.cfg.context_length}")
        if cache is not None:
            positions_BT = cache.lengths_B[:, None] + torch.arange(t, device=tokens_BT.device)
        cos, sin = (
            (self.cos[:t], self.sin[:t]) if positions_BT is None else (self.cos[positions_BT], self.sin[positions_BT])
        )
        window, mask = self.cfg.sliding_window, None
        if documents_BT is not None:
            mask = document_mask(documents_BT, window)
        elif window and t > window:
            mask = causal_mask(t, window, tokens_BT.device)
        x_BTD = embedding(tokens_BT, self.embedding.weight)
        if noise_BTD is not None:
            x_BTD = x_BTD + noise_BTD
        routers: list[RouterStats] = []
        delta_BTD = None
        for block in self.blocks:
            x_BTD, delta_BTD, stats = block(x_BTD, delta_BTD, cos, sin, mask, cache)
            if stats is not None:
                routers.append(stats)
        return Hidden(add_norm(x_BTD, delta_BTD, self.norm.weight, self.cfg.norm_eps)[1], routers)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return softcap(linear(x_BTD, self._output_weight()), self.cfg.logit_softcap)

    def cross_entropy(
        self, x_BTD: Tensor, targets_BT: Tensor, ignore: int, weights_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """`kernels.cross_entropy` of hidden states; their logits are not kept where that is faster."""
        flat = x_BTD.flatten(0, 1), targets_BT.flatten(), None if weights_BT is None else weights_BT.flatten()
        if self.cfg.logit_softcap:
            return kernels.cross_entropy(self.logits(flat[0]), flat[1], ignore, flat[2])
        return layers.cross_entropy(flat[0], self._output_weight(), flat[1], ignore, flat[2])

    def _output_weight(self) -> Tensor:
        return self.embedding.weight if self.unembedding is None else self.unembedding.weight

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        return self.logits(self.hidden(tokens_BT, positions_BT, documents_BT, cache).x_BTD)


def document_mask(documents_BT: Tensor, window: int = 0) -> Tensor:
    """Boolean mask [B, 1, T, T]: `causal_mask` within a position's own document."""
    same = documents_BT[:, :, None] == documents_BT[:, None, :]
    return (same & causal_mask(documents_BT.shape[1], window, documents_BT.device))[:, None]
