"""Settings of training, free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.training.schedules import ScheduleConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """muon_lr: step of the matrices (0: AdamW for all); adamw_lr: of embeddings, norms, heads and the rest.
    momentum: Nesterov momentum of Muon. betas, eps: of AdamW. weight_decay: decoupled, for matrices and embeddings."""

    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training run. batch_size counts rows of context_length tokens; accumulation splits them into as many
    micro-batches with the same gradient. z_loss weighs the mean squared log-normalizer (Chowdhery et al. 2022, §5)."""

    num_steps: int = 700
    batch_size: int = 32
    context_length: int = 128
    accumulation: int = 1
    max_grad_norm: float = 1.0
    z_loss: float = 0.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "context_length", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation is {self.accumulation}: it must divide batch_size ({self.batch_size})")
