"""A model's layers in the faster form that a CPU has for them: `fuse`.

Every class here computes what its base class does, in C where `kernels.takes` the tensors, else by the base class:
on another device, in another precision, under torch.compile, without a C compiler. Only the class of a layer
changes; weights, their names, copies and adapters stay as they are.

Shape suffixes: B batch, T positions, D model width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from components.model.feed_forward import FeedForward, SwiGLU
from components.model.kv_cache import KVCache
from components.model.loss import CrossEntropy, fits_at_once
from components.model.moe import MixtureOfExperts, RouterStats
from components.model.transformer import Attention, Block, Hidden, Transformer, attend, softcap
from components.native import kernels, layers
from components.native.compiler import disabled
from components.native.coverage import KERNELS


def fuse(model: nn.Module) -> None:
    """Swap in the fused layers, in place; no effect on what is fused already, nor where LIFESPAN_NATIVE is 0.

    A model may move to another device or change its precision afterwards: each pass looks at its tensors.
    """
    if disabled():
        return
    for part in model.modules():
        if type(part) is SwiGLU:
            part.__class__ = FusedSwiGLU
        elif type(part) is CrossEntropy:
            part.__class__ = FusedCrossEntropy
        elif type(part) is Transformer and KERNELS.includes(part.cfg):
            part.__class__ = FusedTransformer
            part.embedding.__class__ = FusedEmbedding
            for layer in part.blocks.modules():
                _fuse_layer(layer)


def _fuse_layer(layer: nn.Module) -> None:
    if type(layer) is Attention:
        layer.__class__ = FusedAttention
        _fuse_products(layer.qkv, layer.out)
    elif type(layer) is FeedForward:
        layer.__class__ = FusedFeedForward
        _fuse_products(layer.gate_up, layer.down)
    elif type(layer) is MixtureOfExperts:
        _fuse_products(layer.shared_gate_up, layer.shared_down)


def _fuse_products(*maps: nn.Module | None) -> None:
    """Linear maps, and those that adapters were put on."""
    for outer in maps:
        for part in [] if outer is None else outer.modules():
            if type(part) is nn.Linear:
                part.__class__ = FusedLinear


class FusedLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return kernels.linear(x, self.weight, self.bias)


class FusedEmbedding(nn.Embedding):
    def forward(self, tokens_BT: Tensor) -> Tensor:
        if kernels.takes(self.weight) and self.weight.requires_grad and torch.is_grad_enabled():
            return kernels.embedding(tokens_BT, self.weight)
        return super().forward(tokens_BT)


class FusedSwiGLU(SwiGLU):
    def forward(self, x: Tensor) -> Tensor:
        return kernels.swiglu(x) if kernels.takes(x) else super().forward(x)


class FusedCrossEntropy(CrossEntropy):
    def forward(
        self, logits_NV: Tensor, targets_N: Tensor, ignore: int, weights_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if kernels.takes(logits_NV, weights_N) and not targets_N.is_cuda:
            return kernels.cross_entropy(logits_NV, targets_N, ignore, weights_N)
        return super().forward(logits_NV, targets_N, ignore, weights_N)


class FusedFeedForward(FeedForward):
    def add(self, x_BTD: Tensor, delta_BTD: Tensor | None, norm: nn.RMSNorm, eps: float) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta, and `forward` of its norm."""
        if type(self.gate_up) is FusedLinear and type(self.down) is FusedLinear:  # no adapters
            weights = norm.weight, self.gate_up.weight, self.down.weight
            if layers.fits(x_BTD, *weights):
                return layers.feed_forward(x_BTD, delta_BTD, *weights, eps)
        x_BTD, normed = kernels.add_norm(x_BTD, delta_BTD, norm.weight, eps)
        return x_BTD, self(normed)


class FusedAttention(Attention):
    def add(
        self,
        x_BTD: Tensor,
        delta_BTD: Tensor | None,
        norm: nn.RMSNorm,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream x + delta, and `forward` of its norm."""
        cfg, norms = self.cfg, (self.q_norm, self.k_norm)
        simple = cache is None and not cfg.attention_softcap and not cfg.attention_bias
        if simple and x_BTD.shape[1] <= kernels.SCORES_LIMIT and type(self.qkv) is type(self.out) is FusedLinear:
            weights = norm.weight, self.qkv.weight, self.out.weight
            if layers.fits(x_BTD, *weights, *norms):
                heads = cfg.num_heads, cfg.kv_heads
                return layers.attention(x_BTD, delta_BTD, weights, norms, rotation, mask, heads, cfg.norm_eps)
        x_BTD, normed = kernels.add_norm(x_BTD, delta_BTD, norm.weight, cfg.norm_eps)
        return x_BTD, self(normed, rotation, mask, cache)

    def forward(
        self, x_BTD: Tensor, rotation: tuple[Tensor, Tensor], mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        cfg, norms = self.cfg, (self.q_norm, self.k_norm)
        if not kernels.takes(x_BTD, *norms, *rotation):
            return super().forward(x_BTD, rotation, mask, cache)
        q, k, v = kernels.split_heads(self.qkv(x_BTD), (cfg.num_heads, cfg.kv_heads), norms, rotation, cfg.norm_eps)
        if cache is not None:
            y_BTX = self.continue_cached(q, k, v, cache)
        elif cfg.attention_softcap or x_BTD.shape[1] > kernels.SCORES_LIMIT:
            y_BTX = attend(q, k, v, mask, cfg.attention_softcap)
        else:
            y_BTX = kernels.attend(q, k, v, mask)
        return self.out(y_BTX)


class FusedTransformer(Transformer):
    """Each addition to the residual stream waits for the norm behind it: one pass over memory for both."""

    def through_blocks(
        self,
        x_BTD: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KVCache | None,
        real_BT: Tensor | None,
    ) -> Hidden:
        if not kernels.takes(x_BTD, self.norm.weight):
            return super().through_blocks(x_BTD, rotation, mask, cache, real_BT)
        eps, delta_BTD = self.cfg.norm_eps, None
        routers: list[RouterStats] = []
        for block in self.blocks:
            assert isinstance(block, Block) and isinstance(block.attention, FusedAttention)
            x_BTD, delta_BTD = block.attention.add(x_BTD, delta_BTD, block.attention_norm, rotation, mask, cache)
            if isinstance(block.mlp, FusedFeedForward):
                x_BTD, delta_BTD = block.mlp.add(x_BTD, delta_BTD, block.mlp_norm, eps)
            else:
                x_BTD, normed = kernels.add_norm(x_BTD, delta_BTD, block.mlp_norm.weight, eps)
                delta_BTD, stats = block.mlp(normed, real_BT)
                routers.append(stats)
        return Hidden(kernels.add_norm(x_BTD, delta_BTD, self.norm.weight, eps)[1], routers)

    def logits(self, x_BTD: Tensor) -> Tensor:
        return softcap(kernels.linear(x_BTD, self.output_weight), self.cfg.logit_softcap)

    def cross_entropy(
        self, x_BTD: Tensor, targets_BT: Tensor, ignore: int, weights_BT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x_ND, weights_N = x_BTD.flatten(0, 1), None if weights_BT is None else weights_BT.flatten()
        fits = fits_at_once(x_ND, self.cfg.vocab_size) and layers.loss_fits(x_ND, self.output_weight, weights_N)
        if fits and not self.cfg.logit_softcap:
            return layers.cross_entropy(x_ND, self.output_weight, targets_BT.flatten(), ignore, weights_N)
        return super().cross_entropy(x_BTD, targets_BT, ignore, weights_BT)
