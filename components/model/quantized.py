"""Weights in 8 bits: each row of a matrix as whole numbers from -127 to 127 times a scale of its own.

Half the memory of bfloat16, and half the bytes that a step of generation reads. Activations keep their precision. A
weight is off by at most half a step, 1/254 of the largest of its row. For answers alone: it cannot be trained.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.model.transformer import Transformer, scaled, softcap


def quantized_rows(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [O, I] and the scale [O] of each row, such that int8 · scale is nearest to the weight."""
    wide_OI = weight_OI.detach().float()
    scale_O = wide_OI.abs().amax(1).clamp_min(1e-12) / 127
    return (wide_OI / scale_O[:, None]).round().to(torch.int8), scale_O


class Int8Linear(nn.Module):
    """x · (int8 · scale)ᵀ + bias, for x of any shape [..., I]."""

    weight_int8: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight_int8: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight_int8", weight_int8)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        scale = self.scale.to(x.dtype)
        if x.device.type == "cpu":
            y = torch._weight_int8pack_mm(rows, self.weight_int8, scale)
        else:
            y = F.linear(rows, self.weight_int8.to(x.dtype)) * scale
        y = y.view(*x.shape[:-1], len(scale))
        return y if self.bias is None else y + self.bias


class Int8Embedding(nn.Module):
    """Rows of int8 · scale, in the given precision."""

    def __init__(self, table: Int8Linear, dtype: torch.dtype) -> None:
        super().__init__()
        self.table, self.dtype = table, dtype

    def forward(self, tokens_BT: Tensor) -> Tensor:
        rows = self.table.weight_int8[tokens_BT] * self.table.scale[tokens_BT, None]
        return rows.to(self.dtype)


class QuantizedTransformer(Transformer):
    """A transformer whose embeddings and linear maps are in 8 bits; `quantize` makes one."""

    def logits(self, x_BTD: Tensor) -> Tensor:
        table = self.embedding.table if self.unembedding is None else self.unembedding
        return softcap(scaled(table(x_BTD), 1 / self.cfg.logit_divisor), self.cfg.logit_softcap)  # type: ignore[operator]


def quantize(model: Transformer, dtype: torch.dtype, read: Callable[[str], Tensor] | None = None) -> float:
    """Make a dense model's matrices 8-bit, in place and one after the other. Returns the relative error of its weights:
    the root of the mean squared error over that of the mean square.

    dtype: of what embeddings give, and so of all activations. read: gives a weight by its name, in place of the model's
    own; so a `skeleton` is filled from a file that never lies in memory as a whole. Raises ValueError for a mixture of
    experts.
    """
    if model.cfg.moe is not None:
        raise ValueError("8-bit weights are for dense models: a mixture of experts keeps its experts in one tensor")
    error = size = 0.0

    def narrowed(name: str, own: Tensor, bias: Tensor | None) -> Int8Linear:
        nonlocal error, size
        weight = own if read is None else read(name)
        rows, scale = quantized_rows(weight)
        wide = weight.detach().float()
        error += float((rows * scale[:, None] - wide).square().sum(dtype=torch.float64))
        size += float(wide.square().sum(dtype=torch.float64))
        return Int8Linear(rows, scale, None if bias is None else bias.detach())

    for name, module in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, narrowed(f"{name}.weight", module.weight, module.bias))
    table = narrowed("embedding.weight", model.embedding.weight, None)
    model.embedding = Int8Embedding(table, dtype)  # type: ignore[assignment]
    model.__class__ = QuantizedTransformer
    return (error / size) ** 0.5
