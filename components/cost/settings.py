"""What the cost stages assume, free of torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CostConfig:
    """prompt_tokens, output_tokens: of a typical request, which serving is measured and a life is accounted with.
    serving_batches: sequences at a time at which serving is measured; the largest gives the prices, and is repeated
    until the 95% interval of such a request is within the share `serving_precision` of its price, or for
    `serving_seconds`. lifetime_tokens: output tokens over which the model's life is accounted. What a core costs is
    `compute.usd_per_core_hour`.
    """

    prompt_tokens: int = 32
    output_tokens: int = 64
    serving_batches: tuple[int, ...] = (1, 16, 64)
    serving_precision: float = 0.02
    serving_seconds: float = 3.0
    lifetime_tokens: tuple[float, ...] = (1e6, 1e7, 1e8, 1e9, 1e10)

    def __post_init__(self) -> None:
        for name, least in (("prompt_tokens", 1), ("output_tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least {least}")
        if not self.serving_precision > 0:
            raise ValueError(f"serving_precision is {self.serving_precision}: give a share above 0, such as 0.02")
        if not self.serving_seconds >= 0:
            raise ValueError(f"serving_seconds is {self.serving_seconds}: give a number of at least 0")
        if not self.serving_batches or min(self.serving_batches) < 1:
            raise ValueError(f"serving_batches is {self.serving_batches}: give numbers of at least 1")
