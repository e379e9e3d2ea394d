"""Settings of the evaluation of reasoning; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReasoningConfig:
    """num_samples: worked answers per item, from which votes of 1, 2, 4, … are read. temperature, max_tokens: of those;
    max_tokens also limits the greedy chain. max_direct_tokens: of an answer at once. num_direct_samples: of those
    per item, from which their votes are read."""

    num_samples: int = 16
    temperature: float = 1.0
    max_tokens: int = 96
    max_direct_tokens: int = 8
    num_direct_samples: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_tokens", "max_direct_tokens", "num_direct_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"reasoning.{name} is {getattr(self, name)}: give a number of at least 1")
        if not self.temperature > 0:
            raise ValueError(f"reasoning.temperature is {self.temperature}: samples must differ, give one above 0")
