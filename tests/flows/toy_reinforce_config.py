"""Settings of REINFORCE: in a life, `components/rlhf/reinforce_config.py` (see `toy_reinforce.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.training.config import OptimizerConfig


@dataclass(frozen=True)
class ReinforceConfig:
    """num_iterations of one step on batch_size answers of at most max_tokens. baseline_decay: of the running mean of
    rewards that is subtracted from each."""

    num_iterations: int = 30
    batch_size: int = 32
    max_tokens: int = 4
    baseline_decay: float = 0.8
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(muon_lr=0.0, adamw_lr=1e-2))

    def __post_init__(self) -> None:
        for name in ("num_iterations", "batch_size", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"reinforce.{name} is {getattr(self, name)}: give a number of at least 1")
