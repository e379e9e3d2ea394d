"""Which models the C code computes, field by field of `ModelConfig`.

The C code was written for the fields that are listed here. It would ignore any other in silence, so a model that has
one, or a value that is not supported, runs through plain torch. A test holds the lists against `ModelConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from components.model.config import ModelConfig


@dataclass(frozen=True)
class Coverage:
    """any_value: fields of which every value is supported. only: the supported values of other fields."""

    any_value: frozenset[str]
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def includes(self, cfg: ModelConfig) -> bool:
        """Whether every field of this configuration is known, with a value that is supported."""
        return all(f.name in self.any_value or getattr(cfg, f.name) in self.only.get(f.name, ()) for f in fields(cfg))


_DENSE = frozenset(
    {
        *("vocab_size", "d_model", "num_layers", "num_heads", "num_kv_heads", "head_dim", "d_ff", "context_length"),
        *("rope_theta", "rope_scaling", "sliding_window", "attention_softcap", "logit_softcap", "qk_norm"),
        *("attention_bias", "tie_embeddings", "norm_eps"),
    }
)

_PLAIN: dict[str, tuple[Any, ...]] = {
    "qk_norm_over": ("head",),
    "norm_placement": ("before",),
    "nope_layers": ((),),
    "attention_scale": (0.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "logit_divisor": (1.0,),
}

DECODER = Coverage(_DENSE, only={**_PLAIN, "moe": (None,)})  # `decoder.py`
KERNELS = Coverage(_DENSE | {"moe"}, only=_PLAIN)  # `fuse.py`: routing stays in torch, so that it may be any
