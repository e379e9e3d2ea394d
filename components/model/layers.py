"""The two layers of a block, each one call of `layers.c` forward and one back.

A layer takes the residual stream x and what the layer before adds to it, and returns the stream x + delta and what it
adds itself. Between the norm and the last product nothing but what the derivative needs leaves the cache.

Shape suffixes: B batch, T positions, D width, H query heads, K key and value heads, C head dimension, F hidden width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from components.model import kernels, native


def fits(x_BTD: Tensor, *weights: Tensor | None) -> bool:
    """Whether a layer of these weights goes in one call: where `kernels.fused` takes them, our products are the faster
    ones, there are rows enough to repay packing, and all weights or none are trained."""
    if x_BTD.numel() < kernels.OWN_ROWS * x_BTD.shape[-1] or len(x_BTD) < torch.get_num_threads():
        return False
    there = [w for w in weights if w is not None]
    if torch.is_grad_enabled() and not all(w.requires_grad for w in there):
        return False
    return kernels.fused(x_BTD, *there) and native.own_products().layers


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
