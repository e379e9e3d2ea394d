"""What a language model is trained on: the cross-entropy of its logits, and the log-probabilities of single tokens.

Logits are the largest tensor of a training step: at a vocabulary of 128k, 65,536 tokens have 34 GB of them. Where they
would take more than `LOGITS_BYTES`, they are made and used in chunks of rows, in the backward pass once more.

Shape suffixes: N rows, D model width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOGITS_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}  # in float32; smaller chunks would make matrix products slower


class CrossEntropy(nn.Module):
    """Sums over the rows whose target is not `ignore`, times their weights if given: cross-entropy in nats, and the
    squared log-normalizer, both at least in float32. Raises RuntimeError or IndexError for a target that is not a
    token id."""

    def forward(
        self, logits_NV: Tensor, targets_N: Tensor, ignore: int, weights_N: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        counted_N = targets_N != ignore
        logits_NV = logits_NV if logits_NV.dtype == torch.float64 else logits_NV.float()
        norms_N = logits_NV.logsumexp(-1)
        picked_N = logits_NV.gather(-1, targets_N.where(counted_N, 0)[:, None])[:, 0]
        weight_N = counted_N if weights_N is None else counted_N * weights_N
        return ((norms_N - picked_N) * weight_N).sum(), (norms_N.square() * weight_N).sum()


def rows_at_once(vocab_size: int, device_type: str) -> int:
    """Rows whose logits are made at a time, at least 1."""
    return max(1, LOGITS_BYTES.get(device_type, LOGITS_BYTES["cpu"]) // (4 * vocab_size))


def fits_at_once(x_ND: Tensor, vocab_size: int) -> bool:
    """Whether the logits of all rows may be made together."""
    return x_ND.numel() // x_ND.shape[-1] <= rows_at_once(vocab_size, x_ND.device.type)


class Unembedding(NamedTuple):
    """How logits come of hidden states: softcap(scale · x · weightᵀ, cap) / temperature (cap 0: none)."""

    weight_VD: Tensor
    scale: float = 1.0
    cap: float = 0.0
    temperature: float = 1.0


def chunked_cross_entropy(
    x_ND: Tensor, unembedding: Unembedding, targets_N: Tensor, ignore: int, weights_N: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`CrossEntropy` of hidden states, never with all logits in memory. Raises IndexError for a target that is not a
    token id."""
    counted_N = targets_N != ignore
    if not torch.compiler.is_compiling():  # rows without a target cost nothing; a compiler wants static shapes
        x_ND, targets_N = x_ND[counted_N], targets_N[counted_N]
        weights_N = None if weights_N is None else weights_N[counted_N]
        counted_N = counted_N[counted_N]
        _check_targets(targets_N, len(unembedding.weight_VD))
    picked_N, norms_N, _ = chunked_scores(x_ND, unembedding, targets_N.where(counted_N, 0))
    weight_N = counted_N if weights_N is None else counted_N * weights_N
    return ((norms_N - picked_N) * weight_N).sum(), (norms_N.square() * weight_N).sum()


def chunked_log_probs(
    x_ND: Tensor, unembedding: Unembedding, targets_N: Tensor, entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's target, and the entropy of its distribution, in nats, without gradient (0 unless
    asked for); never with all logits in memory."""
    _check_targets(targets_N, len(unembedding.weight_VD))
    picked_N, norms_N, entropy_N = chunked_scores(x_ND, unembedding, targets_N, entropy)
    return picked_N - norms_N, entropy_N


def chunked_scores(
    x_ND: Tensor, unembedding: Unembedding, targets_N: Tensor, entropy: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Of each row: the logit of its target, the log-normalizer, and the entropy (see `chunked_log_probs`).
    Differentiable in x and the weight; products are made in autocast's precision where that is on."""
    device, dtype = x_ND.device.type, x_ND.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    rows = rows_at_once(len(unembedding.weight_VD), device)
    found: tuple[Tensor, Tensor, Tensor] = _ChunkedScores.apply(x_ND, *unembedding, targets_N, entropy, rows, dtype)
    return found


def _check_targets(targets_N: Tensor, vocab_size: int) -> None:
    if bool(((targets_N < 0) | (targets_N >= vocab_size)).any()):
        raise IndexError(f"a target is not a token id from 0 to {vocab_size - 1}")


def _chunk_logits(x: Tensor, weight_VD: Tensor, scale: float, cap: float) -> Tensor:
    """Logits before the temperature, at least in float32."""
    with torch.autocast(x.device.type, enabled=False):
        logits = F.linear(x, weight_VD)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if scale != 1:
        logits = logits.mul_(scale)
    return logits.div_(cap).tanh_().mul_(cap) if cap else logits


class _ChunkedScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        scale: float,
        cap: float,
        temperature: float,
        targets_N: Tensor,
        entropy: bool,
        rows: int,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        picked_N, norms_N, entropy_N = (torch.zeros(len(x_ND), dtype=wide, device=x_ND.device) for _ in range(3))
        weight = weight_VD.to(dtype)
        for first in range(0, len(x_ND), rows):
            part = slice(first, first + rows)
            logits = _chunk_logits(x_ND[part].to(dtype), weight, scale, cap)
            if temperature != 1:
                logits = logits.div_(temperature)
            picked_N[part] = logits.gather(1, targets_N[part, None])[:, 0]
            if entropy:
                norms_N[part] = logits.logsumexp(-1)
                logits = logits.sub_(norms_N[part, None])
                entropy_N[part] = -(logits.exp() * logits).sum(-1)
            else:  # the same in place, in half the memory
                top = logits.amax(-1, keepdim=True)
                norms_N[part] = logits.sub_(top).exp_().sum(-1).log_().add_(top[:, 0])
        ctx.save_for_backward(x_ND, weight_VD, targets_N, norms_N)
        ctx.mark_non_differentiable(entropy_N)
        ctx.how = scale, cap, temperature, rows, dtype
        return picked_N, norms_N, entropy_N

    @staticmethod
    def backward(ctx: Any, g_picked_N: Tensor, g_norms_N: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, weight_VD, targets_N, norms_N = ctx.saved_tensors
        scale, cap, temperature, rows, dtype = ctx.how
        weight = weight_VD.to(dtype)
        dx_ND = torch.empty_like(x_ND) if ctx.needs_input_grad[0] else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=norms_N.dtype) if ctx.needs_input_grad[1] else None
        for first in range(0, len(x_ND), rows):
            part = slice(first, first + rows)
            x = x_ND[part].to(dtype)
            logits = _chunk_logits(x, weight, scale, cap)
            slope = 1 - (logits / cap).square() if cap else None
            if temperature != 1:
                logits = logits.div_(temperature)
            # d norm / d logit is the probability; d picked / d logit is 1 at the target.
            d = logits.sub_(norms_N[part, None]).exp_().mul_(g_norms_N[part, None])
            d = d.scatter_add_(1, targets_N[part, None], g_picked_N[part, None])
            if slope is not None:
                d = d.mul_(slope)
            if scale != temperature:
                d = d.mul_(scale / temperature)
            narrow = d.to(dtype)
            if dx_ND is not None:
                dx_ND[part] = torch.mm(narrow, weight).to(dx_ND.dtype)
            if dweight_VD is not None and dtype == dweight_VD.dtype:
                dweight_VD = dweight_VD.addmm_(narrow.T, x)
            elif dweight_VD is not None:
                dweight_VD = dweight_VD.add_(torch.mm(narrow.T, x))
        dweight = None if dweight_VD is None else dweight_VD.to(weight_VD.dtype)
        return dx_ND, dweight, None, None, None, None, None, None, None
