"""Models that can be built near a wanted N: whole heads and layers, a width that kernels like, a given vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from components.model.config import ModelConfig, count_params
from components.scaling.points import PointConvention

_ASPECTS = (16.0, 200.0)  # d_model over layers: Kaplan et al. 2020, fig. 5: over this range loss moves by some 3%
_PREFERRED = 96.0  # about that of published models of 1B to 70B
_ODD = 0.01  # what a factor e in the aspect weighs against one in N, squared


@dataclass(frozen=True)
class Buildable:
    """A decoder of this project near a wanted N. `num_params`: its own, counted in the convention that was asked for;
    `off`: how far that is from the wanted one, as a share."""

    model: ModelConfig
    num_params: int
    off: float

    @property
    def words(self) -> str:
        m = self.model
        shape = f"d_model {m.d_model}, {m.num_layers} layers, {m.num_heads} heads of {m.per_head}"
        return f"{shape}, vocabulary {m.vocab_size}"


def buildable(
    num_params: float, vocab_size: int, convention: PointConvention = "total", head_dim: int = 0
) -> Buildable:
    """The decoder whose N, by `convention`, is nearest to `num_params`, with an aspect (d_model over layers) near that
    of published models; embeddings are not tied. `head_dim`: 0 takes 128 from 1e9 parameters on, 64 from 3e6 on, 16
    below.

    Raises ValueError for an N that the vocabulary's embeddings alone exceed, or none that can be built is near, and
    where N is FLOPs per token.
    """
    if convention == "flops_per_token":
        raise ValueError("N is FLOPs per token in this fit: no configuration follows from it")
    if not (math.isfinite(num_params) and num_params > 0):
        raise ValueError(f"params must be finite and positive, got {num_params}")
    head = head_dim or (128 if num_params >= 1e9 else 64 if num_params >= 3e6 else 16)
    best: tuple[float, ModelConfig, int] | None = None
    for model in _models(num_params, vocab_size, head, convention):
        n = _counted(model, convention)
        aspect = math.log(model.d_model / model.num_layers / _PREFERRED)
        score = math.log(n / num_params) ** 2 + _ODD * aspect * aspect
        if best is None or score < best[0]:
            best = score, model, n
    if best is None or not 0.5 < best[2] / num_params < 2:
        raise ValueError(
            f"no decoder of about {num_params:.3g} parameters ({convention.replace('_', ' ')}) can be built with a "
            f"vocabulary of {vocab_size} and heads of {head}: take a smaller --vocab"
        )
    return Buildable(best[1], best[2], best[2] / num_params - 1.0)


def _counted(model: ModelConfig, convention: PointConvention) -> int:
    counts = count_params(model)
    return {"total": counts.total, "non_embedding": counts.non_embedding, "active": counts.active}[convention]


def _models(num_params: float, vocab_size: int, head: int, convention: PointConvention) -> Iterator[ModelConfig]:
    """Widths in whole heads, each with the depths on both sides of the wanted N that have a usual aspect."""
    widest = max(head, int(2.0 * (num_params * _ASPECTS[1] / 12.0) ** (1 / 3)))
    for d_model in range(head, widest + head, head):
        one, two = (
            ModelConfig(vocab_size, d_model, layers, d_model // head, tie_embeddings=False) for layers in (1, 2)
        )
        first = _counted(one, convention)
        depth = 1 + (num_params - first) / (_counted(two, convention) - first)  # all layers are alike
        for num_layers in (math.floor(depth), math.ceil(depth)):
            if num_layers >= 1 and _ASPECTS[0] <= d_model / num_layers <= _ASPECTS[1]:
                yield replace(one, num_layers=num_layers)
