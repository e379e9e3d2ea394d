"""What a decoder computes between its matrix products, in C, with derivatives written out by hand.

For float32 tensors on a CPU, outside torch.compile (which fuses by itself) and autocast: `takes` tells. `fuse.py` puts
these in the place of the plain formulas of `components.model`; both give the same numbers up to rounding, and the
tests hold them against float64.

Shape suffixes: B batch, T positions of the input, S positions of keys, D width, H query heads, K key and value heads,
C head dimension, F hidden width, N rows, V vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from components.native import library

OWN_ROWS = 512  # fewer rows than this do not repay the packing of the weight
SCORES_LIMIT = 256  # longest row of scores that attention keeps; past it flash attention's blocks win


def takes(*tensors: Tensor | None) -> bool:
    """Whether the kernels take these tensors."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    for x in tensors:
        if x is not None and (x.dtype is not torch.float32 or not x.is_cpu):
            return False
    return library.library() is not None


_PLAIN = frozenset({int, float, bool, type(None)})


def call(name: str, *arguments: Any) -> None:
    """Run a kernel; tensors go as pointers and must be contiguous, and the number of threads is torch's."""
    # By type, as `isinstance` of a tensor takes longer than a small kernel.
    passed = [x if x.__class__ in _PLAIN else x.data_ptr() for x in arguments]
    getattr(library.library(), name)(*passed)


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, for any tensors: by the faster of two libraries."""
    if x.numel() >= OWN_ROWS * x.shape[-1] and takes(x, weight_OI, bias_O) and any(library.own_products()):
        y = _Linear.apply(x, weight_OI)
        return y if bias_O is None else y + bias_O
    return F.linear(x, weight_OI, bias_O)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        multiply = product if library.own_products().forward else torch.mm
        return multiply(x.reshape(-1, x.shape[-1]), weight.T).view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, weight), own = ctx.saved_tensors, library.own_products()
        dy_NO, dx, dw = dy.reshape(-1, dy.shape[-1]), None, None
        if ctx.needs_input_grad[0]:
            dx = (product if own.inputs else torch.mm)(dy_NO, weight).view_as(x)
        if ctx.needs_input_grad[1]:
            dw = (product if own.weights else torch.mm)(dy_NO.T, x.reshape(-1, x.shape[-1]))
        return dx, dw


def product(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """The matrix product by `products.c`; any strides."""
    c_MN = a_MK.new_empty(a_MK.shape[0], b_KN.shape[1])
    sizes = *c_MN.shape, a_MK.shape[1], torch.get_num_threads()
    call("product", a_MK, *a_MK.stride(), b_KN, *b_KN.stride(), c_MN, *sizes)
    return c_MN


def add_norm(x_BTD: Tensor, delta_BTD: Tensor | None, weight_D: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The residual stream x + delta, and x / √(mean(x²) + eps) · weight of it (Zhang & Sennrich 2019)."""
    return _Norm.apply(x_BTD, delta_BTD, weight_D, eps)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        x, d = x.contiguous(), x.shape[-1]
        rows = x.numel() // d
        y, rstd = torch.empty_like(x), x.new_empty(rows)
        delta = None if delta is None else delta.contiguous()
        total = x.view_as(x) if delta is None else torch.empty_like(x)
        call("norm_forward", x, delta, weight, total, y, rstd, rows, d, eps, torch.get_num_threads())
        ctx.save_for_backward(total, weight, rstd)
        ctx.added = delta is not None
        ctx.set_materialize_grads(False)
        return total, y

    @staticmethod
    def backward(ctx: Any, residual: Tensor | None, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, rstd = ctx.saved_tensors
        if dy is None:
            return residual, residual if ctx.added else None, None, None
        dx, dw = torch.empty_like(total), torch.zeros_like(weight)
        residual = None if residual is None else residual.contiguous()
        rows, d, threads = rstd.numel(), weight.numel(), torch.get_num_threads()
        call("norm_backward", total, weight, rstd, dy.contiguous(), residual, dx, dw, None, rows, d, threads)
        return dx, dx if ctx.added else None, dw, None


def split_heads(
    qkv: Tensor,
    heads: tuple[int, int],
    norms: tuple[Tensor | None, Tensor | None],
    rotation: tuple[Tensor, Tensor],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [B, H, T, C], keys and values [B, K, T, C] of a joint projection [B, T, (H + 2K) · C], where
    `heads` = (H, K); queries and keys normed if `norms` are given, and rotated by `rotation`: cosines and sines
    [T or B, T, 1, C/2]."""
    return _Heads.apply(qkv, *norms, *rotation, *heads, eps)


def turn_stride(cos: Tensor, b: int) -> int:
    """From a sequence's cosines [T, 1, C/2] to those of the next; 0 where all share them."""
    return cos[0].numel() if cos.dim() == 4 and len(cos) == b else 0


class _Heads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        qw: Tensor | None,
        kw: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        h: int,
        k: int,
        eps: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        qkv, cos, sin = qkv.contiguous(), cos.contiguous(), sin.contiguous()
        b, t, width = qkv.shape
        c = width // (h + 2 * k)
        ctx.sizes = b, t, h, k, c, eps, torch.get_num_threads()
        ctx.stride = turn_stride(cos, b)
        out = qkv.new_empty(b, h, t, c), qkv.new_empty(b, k, t, c), qkv.new_empty(b, k, t, c)
        call("heads_forward", qkv, qw, kw, cos, sin, ctx.stride, *out, *ctx.sizes)
        ctx.save_for_backward(qkv, qw, kw, cos, sin)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv, qw, kw, cos, sin = ctx.saved_tensors
        dqkv = torch.empty_like(qkv)
        dqw, dkw = (None if w is None else torch.zeros_like(w) for w in (qw, kw))
        back = [g.contiguous() for g in grads]
        call("heads_backward", qkv, qw, kw, cos, sin, ctx.stride, *back, dqkv, dqw, dkw, *ctx.sizes)
        return dqkv, dqw, dkw, None, None, None, None, None


def attend(q_BHTC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention of at most `SCORES_LIMIT` positions to themselves, heads joined: [B, T, H · C]; `mask` is true
    where a query sees a key, None means causal."""
    return _Attention.apply(q_BHTC, k_BKTC, v_BKTC, mask)


def padded(t: int) -> int:
    """What the kernels make of a row of t scores."""
    step: int = library.library().attention_padding()  # type: ignore[union-attr]
    return -(-t // step) * step


def mask_stride(mask: Tensor | None, t: int) -> int:
    """From a sequence's mask [T, T] to that of the next; 0 where all share one."""
    return t * t if mask is not None and mask.numel() > t * t else 0


class _Attention(torch.autograd.Function):
    """The probabilities are kept (not recomputed as in flash attention), and only what lies on or below the diagonal
    is computed: at these lengths several times faster on CPU."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        b, h, t, c = q.shape
        probs, out = q.new_empty(b, h, t, padded(t)), q.new_empty(b, t, h * c)
        mask = None if mask is None else mask.contiguous()
        ctx.sizes = b, t, h, k.shape[1], c, 1 / math.sqrt(c), torch.get_num_threads()
        ctx.causal = mask is None
        call("attention_forward", q, k, v, mask, mask_stride(mask, t), probs, out, *ctx.sizes)
        ctx.save_for_backward(q, k, v, probs)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, probs = ctx.saved_tensors
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        call("attention_backward", q, k, v, probs, dout.contiguous(), ctx.causal, dq, dk, dv, *ctx.sizes)
        return dq, dk, dv, None


def swiglu(x: Tensor) -> Tensor:
    """silu(gate) · up of rows [gate | up] (Shazeer 2020): [..., 2F] to [..., F]."""
    return _SwiGLU.apply(x)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x, width = x.contiguous(), x.shape[-1] // 2
        y = x.new_empty(*x.shape[:-1], width)
        call("swiglu_forward", x, y, y.numel() // width, width, torch.get_num_threads())
        ctx.save_for_backward(x)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx, width = torch.empty_like(x), x.shape[-1] // 2
        call("swiglu_backward", x, dy.contiguous(), dx, None, dy.numel() // width, width, torch.get_num_threads())
        return dx


def cross_entropy(
    logits_NV: Tensor, targets_N: Tensor, ignore: int, weights_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`components.model.loss.CrossEntropy`, with IndexError for a target that is not a token id."""
    return _CrossEntropy.apply(logits_NV, targets_N, ignore, weights_N)


def check_targets(targets: Tensor, v: int, ignore: int) -> None:
    """Raises IndexError for a target that is neither a token id nor `ignore`."""
    if bool(((targets >= v) | ((targets < 0) & (targets != ignore))).any()):
        raise IndexError(f"a target is not a token id from 0 to {v - 1}")


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, ignore: int, weights: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        logits, targets = logits.contiguous(), targets.contiguous()
        weights = None if weights is None else weights.contiguous()
        (rows, v), threads = logits.shape, torch.get_num_threads()
        check_targets(targets, v, ignore)
        powers, norms = torch.empty_like(logits), logits.new_empty(rows, 2)
        sums = torch.zeros(2, dtype=torch.float64)
        call("entropy_forward", logits, targets, weights, ignore, powers, norms, sums, rows, v, threads)
        ctx.save_for_backward(powers, norms, targets, weights)
        ctx.ignore = ignore
        loss, z = sums.float().unbind()
        return loss, z

    @staticmethod
    def backward(ctx: Any, g: Tensor, gz: Tensor) -> tuple[Tensor | None, ...]:
        powers, norms, targets, weights = ctx.saved_tensors
        rows, v = powers.shape
        d, threads = torch.empty_like(powers), torch.get_num_threads()
        call("entropy_backward", powers, norms, targets, weights, ctx.ignore, float(g), float(gz), d, rows, v, threads)
        return d, None, None, None


def embedding(tokens_BT: Tensor, weight_VD: Tensor) -> Tensor:
    """Rows of the weight [B, T, D]; only the derivative is in C."""
    return _Embedding.apply(tokens_BT, weight_VD)


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor) -> Tensor:
        tokens = tokens.contiguous()
        ctx.save_for_backward(tokens)
        ctx.rows = weight.shape
        return F.embedding(tokens, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        dw = dy.new_zeros(ctx.rows)
        call("embedding_backward", tokens, dy.contiguous(), dw, tokens.numel(), ctx.rows[1])
        return None, dw
