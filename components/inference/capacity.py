"""What serving a model takes: weights by their precision, keys and values of the sequences in flight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from components.model.config import ModelConfig, count_params
from components.native.coverage import DECODER

Weights = Literal["float32", "bfloat16", "int8"]
FEW = 4  # sequences that should fit beside each other before a context is cut for more


@dataclass(frozen=True)
class Capacity:
    """slots: sequences in flight; tokens: that each may have; cache_bytes: of all keys and values together."""

    slots: int
    tokens: int
    cache_bytes: int


def weight_bytes(cfg: ModelConfig, weights: Weights) -> int:
    """Memory of the weights as they serve. Float32 that C answers with is kept twice: as it is, and packed."""
    params = count_params(cfg).total
    if weights == "float32":
        return 4 * params * (2 if DECODER.includes(cfg) else 1)
    matrices = params - (2 * cfg.num_layers + 1) * cfg.d_model
    return 2 * params if weights == "bfloat16" else matrices + 2 * (params - matrices)


def cache_bytes_per_token(cfg: ModelConfig, weights: Weights) -> int:
    """Keys and values of one token in all layers; in bfloat16 unless weights are float32."""
    return 2 * cfg.num_layers * cfg.kv_heads * cfg.per_head * (4 if weights == "float32" else 2)


def fit_cache(cfg: ModelConfig, weights: Weights, slots: int, context_length: int, budget: float) -> Capacity:
    """As many of `slots` sequences of `context_length` tokens as keys and values of `budget` bytes allow.

    context_length 0: the model's own, cut where else fewer than `FEW` sequences would fit. Raises ValueError where not
    even one sequence fits.
    """
    each = cache_bytes_per_token(cfg, weights)
    tokens = min(context_length or cfg.context_length, cfg.context_length)
    if not context_length:
        tokens = min(tokens, max(int(budget) // (each * min(slots, FEW)), min(tokens, 256)))
    fitting = int(budget) // (each * tokens)
    if fitting < 1:
        raise ValueError(
            f"keys and values of one sequence of {tokens:,} tokens take {each * tokens / 1e9:.2f} GB, and --cache-gb "
            f"allows {budget / 1e9:.2f}: raise it, or set --context-length to at most {int(budget) // each:,}"
        )
    count = min(slots, fitting)
    return Capacity(count, tokens, count * tokens * each)


def check_fit(cfg: ModelConfig, weights: Weights, cache_bytes: float, free: float | None, name: str) -> None:
    """Raises ValueError where weights and cache take more memory than is free (None: not known), naming precisions
    that would fit."""
    needed = weight_bytes(cfg, weights) + cache_bytes
    if free is None or needed <= free:
        return
    smaller: list[Weights] = ["bfloat16", "int8"] if cfg.moe is None else ["bfloat16"]
    fits = [one for one in smaller if weight_bytes(cfg, one) + cache_bytes <= free]
    advice = " or ".join(f"--weights {one} ({weight_bytes(cfg, one) / 1e9:.1f} GB)" for one in fits)
    size, taken = count_params(cfg).total / 1e9, weight_bytes(cfg, weights) / 1e9
    raise ValueError(
        f"{name}: {size:.2f} billion parameters take {taken:.1f} GB in {weights} beside {cache_bytes / 1e9:.1f} GB of "
        f"keys and values, and {free / 1e9:.1f} GB of memory are free"
        + (f": take {advice}" if advice else ": no precision fits; take a smaller model or a larger machine")
    )


def free_memory() -> float | None:
    """Bytes that this machine's processes could still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return None
