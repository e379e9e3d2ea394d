"""What the cost stages assume, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostConfig:
    """prompt_tokens, output_tokens: of a typical request, which serving is measured and a life is accounted with.
    serving_batches: sequences at a time at which serving is measured; the largest gives the prices. lifetime_tokens:
    output tokens over which the model's life is accounted. What a core costs is `compute.usd_per_core_hour`.
    """

    prompt_tokens: int = 32
    output_tokens: int = 64
    serving_batches: tuple[int, ...] = (1, 16, 64)
    lifetime_tokens: tuple[float, ...] = (1e6, 1e7, 1e8, 1e9, 1e10)

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("output_tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least {least}")
        if not self.serving_batches or min(self.serving_batches) < 1:
            raise ValueError(f"serving_batches is {self.serving_batches}: give numbers of at least 1")
