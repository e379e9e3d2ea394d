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
class NonFiniteConfig:
    """A step whose loss or gradient is not finite is skipped. After max_in_a_row of them the run goes back to its last
    snapshot (one every snapshot_every steps, in memory) and on at rate_factor of the rate; after max_rollbacks of these
    (0: none, and no snapshots) it ends with an error."""

    max_in_a_row: int = 10
    max_rollbacks: int = 3
    rate_factor: float = 0.5
    snapshot_every: int = 100

    def __post_init__(self) -> None:
        for name, least in (("max_in_a_row", 1), ("max_rollbacks", 0), ("snapshot_every", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least {least}")
        if not 0 < self.rate_factor <= 1:
            raise ValueError(f"rate_factor is {self.rate_factor}: give a number above 0 and at most 1")


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
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "context_length", "accumulation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation is {self.accumulation}: it must divide batch_size ({self.batch_size})")
