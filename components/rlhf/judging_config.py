"""Settings of how a trained policy is judged; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgingConfig:
    """How a policy's answers are judged when it is done: num_eval answers of at most max_tokens at temperature."""

    num_eval: int = 400
    max_tokens: int = 64
    temperature: float = 1.0
