"""What the cost stages assume, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostConfig:
    """usd_per_core_hour: what a core costs that trains or serves.

    prompt_tokens: of a typical request, for the prefill measurement. serving_batches: sequences at a time at which
    decoding is measured; the largest gives the price. lifetime_tokens: output tokens over which the model's life is
    accounted.
    """

    usd_per_core_hour: float = 0.04
    prompt_tokens: int = 32
    output_tokens: int = 64
    serving_batches: tuple[int, ...] = (1, 16, 64)
    lifetime_tokens: tuple[float, ...] = (1e6, 1e7, 1e8, 1e9, 1e10)

    def __post_init__(self) -> None:
        if not self.usd_per_core_hour >= 0:
            raise ValueError(f"usd_per_core_hour is {self.usd_per_core_hour}: give a number of at least 0")
        if not self.serving_batches or min(self.serving_batches) < 1:
            raise ValueError(f"serving_batches is {self.serving_batches}: give numbers of at least 1")
