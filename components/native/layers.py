"""The two layers of a block, and the loss: each one call of `layers.c` forward and one back.

A layer takes the residual stream x and what the layer before adds to it, and returns the stream x + delta and what it
adds itself. Between the norm and the last product nothing but what the derivative needs leaves the cache.

Shape suffixes: B batch, T positions, D width, H query heads, K key and value heads, C head dimension, F hidden width,
N rows, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from components.native import kernels, library

LOSS_LIMIT = 1 << 20  # numbers in the largest unembedding whose gradient stays in the cache from chunk to chunk


def fits(x: Tensor, *weights: Tensor | None) -> bool:
    """Whether a layer of these weights goes in one call: where the kernels take them, our products are the faster
    ones, there are rows enough to repay packing, and no weight is frozen while others are trained."""
    if not kernels.takes(x, *weights) or x.numel() < kernels.OWN_ROWS * x.shape[-1] or len(x) < torch.get_num_threads():
        return False
    given = [w for w in weights if w is not None]
    if torch.is_grad_enabled() and not all(w.requires_grad for w in given):
        return False
    return all(w.is_contiguous() for w in given) and library.own_products().layers


def feed_forward(
    x: Tensor, delta: Tensor | None, norm: Tensor, wide: Tensor, narrow: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """swiglu(norm(x + delta) · wideᵀ) · narrowᵀ with wide [2F, D] and narrow [D, F], after the stream x + delta."""
    return _FeedForward.apply(x, delta, norm, wide, narrow, eps)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, norm: Tensor, wide: Tensor, narrow: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        x, delta = x.contiguous(), None if delta is None else delta.contiguous()
        d, hidden = narrow.shape
        rows = x.numel() // d
        total, y = x.view_as(x) if delta is None else torch.empty_like(x), torch.empty_like(x)
        rstd, gate_up = x.new_empty(rows), x.new_empty(rows, 2 * hidden)
        sizes = rows, d, hidden, eps, torch.get_num_threads()
        kernels.call("feed_forward", x, delta, norm, wide, narrow, total, rstd, gate_up, y, *sizes)
        ctx.save_for_backward(total, rstd, norm, wide, narrow, gate_up)
        ctx.added = delta is not None
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    def backward(ctx: Any, residual: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        total, rstd, norm, wide, narrow, gate_up = ctx.saved_tensors
        if dy is None:
            return residual, residual if ctx.added else None, None, None, None, None
        residual = None if residual is None else residual.contiguous()
        dx, grads = torch.empty_like(total), norm.new_empty(norm.numel() + wide.numel() + narrow.numel())
        given = total, rstd, norm, wide, narrow, gate_up, residual, dy.contiguous()
        kernels.call("feed_forward_backward", *given, dx, grads, len(gate_up), *narrow.shape, torch.get_num_threads())
        dnorm, dwide, dnarrow = grads.split((norm.numel(), wide.numel(), narrow.numel()))
        return dx, dx if ctx.added else None, dnorm, dwide.view_as(wide), dnarrow.view_as(narrow), None


def attention(
    x: Tensor,
    delta: Tensor | None,
    weights: tuple[Tensor, Tensor, Tensor],
    norms: tuple[Tensor | None, Tensor | None],
    rotation: tuple[Tensor, Tensor],
    mask: Tensor | None,
    heads: tuple[int, int],
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Attention over norm(x + delta), after the stream x + delta. `weights`: of the norm [D], of the joint projection
    [(H + 2K) · C, D] and of the output [D, H · C]; `rotation` (cosines and sines), `norms`,
    `heads` and `mask` as `kernels.split_heads` and `kernels.attend` have them."""
    return _Attention.apply(x, delta, *weights, *norms, *rotation, mask, *heads, eps)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        norm: Tensor,
        wide: Tensor,
        narrow: Tensor,
        qw: Tensor | None,
        kw: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        h: int,
        k: int,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        x, delta = x.contiguous(), None if delta is None else delta.contiguous()
        cos, sin, mask = cos.contiguous(), sin.contiguous(), None if mask is None else mask.contiguous()
        b, t, d = x.shape
        c = len(wide) // (h + 2 * k)
        total, y = x.view_as(x) if delta is None else torch.empty_like(x), torch.empty_like(x)
        rstd, qkv = x.new_empty(b * t), x.new_empty(b * t, len(wide))
        probs, mixed = x.new_empty(b, h, t, kernels.padded(t)), x.new_empty(b * t, h * c)
        ctx.turn, ctx.causal, ctx.added = kernels.turn_stride(cos, b), mask is None, delta is not None
        ctx.sizes = b, t, d, h, k, c, eps, 1 / math.sqrt(c), torch.get_num_threads()
        weights = norm, wide, narrow, qw, kw, cos, sin, ctx.turn
        outputs = total, rstd, qkv, probs, mixed, y
        kernels.call("attention_layer", x, delta, *weights, mask, kernels.mask_stride(mask, t), *outputs, *ctx.sizes)
        ctx.save_for_backward(total, rstd, norm, wide, narrow, qw, kw, cos, sin, qkv, probs, mixed)
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    def backward(ctx: Any, residual: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        total, rstd, norm, wide, narrow, qw, kw, cos, sin, qkv, probs, mixed = ctx.saved_tensors
        if dy is None:
            return residual, residual if ctx.added else None, *[None] * 11
        c = ctx.sizes[5]
        counts = norm.numel(), wide.numel(), narrow.numel(), c, c
        residual = None if residual is None else residual.contiguous()
        dx, grads = torch.empty_like(total), norm.new_empty(sum(counts))
        kept = total, rstd, norm, wide, narrow, qw, kw, cos, sin, ctx.turn, qkv, probs, mixed, ctx.causal
        kernels.call("attention_layer_backward", *kept, residual, dy.contiguous(), dx, grads, *ctx.sizes)
        dnorm, dwide, dnarrow, dqw, dkw = grads.split(counts)
        given = dnorm, dwide.view_as(wide), dnarrow.view_as(narrow), *((dqw, dkw) if qw is not None else (None, None))
        return dx, dx if ctx.added else None, *given, *[None] * 6


def loss_fits(x_ND: Tensor, weight_VD: Tensor, weights_N: Tensor | None) -> bool:
    """Whether the loss goes in one call: as `fits`, for an unembedding of at most `LOSS_LIMIT` numbers."""
    return weight_VD.numel() <= LOSS_LIMIT and fits(x_ND, weight_VD) and kernels.takes(weights_N)


def cross_entropy(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, ignore: int, weights_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`kernels.cross_entropy` of the logits x · weightᵀ, which are not kept."""
    return _CrossEntropy.apply(x_ND, weight_VD, targets_N, ignore, weights_N)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, ignore: int, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, targets, weights = x.contiguous(), targets.contiguous(), None if weights is None else weights.contiguous()
        (v, d), rows = weight.shape, len(x)
        kernels.check_targets(targets, v, ignore)
        powers, norms, sums = x.new_empty(rows, v), x.new_empty(rows, 2), torch.zeros(2, dtype=torch.float64)
        given = x, weight, targets, weights, ignore, powers, norms, sums
        kernels.call("loss_forward", *given, rows, d, v, torch.get_num_threads())
        ctx.save_for_backward(x, weight, powers, norms, targets, weights)
        ctx.ignore = ignore
        loss, z = sums.float().unbind()
        return loss, z

    @staticmethod
    def backward(ctx: Any, g: Tensor, gz: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors[:2]
        dx, dw = torch.empty_like(x), torch.empty_like(weight)
        sizes = len(x), weight.shape[1], len(weight), torch.get_num_threads()
        kernels.call("loss_backward", *ctx.saved_tensors, ctx.ignore, float(g), float(gz), dx, dw, *sizes)
        return dx, dw, None, None, None
