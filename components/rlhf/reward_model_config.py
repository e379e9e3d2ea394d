"""Settings of the reward model; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig
from components.training.schedules import ScheduleConfig


@dataclass(frozen=True)
class RewardModelConfig:
    """epochs over the pairs in batches of `batch_pairs`. margin_coef: how much of a pair's stated margin the loss
    demands. centering_coef: weight of (r_chosen + r_rejected)², which keeps rewards near 0 (Eisenstein et al.
    2023). held_out: share of the pairs kept for accuracy.

    An ensemble has num_members models of num_heads heads, each model from its own seed and in its own order of the
    data. Heads share a trunk and cost next to nothing: each starts from its own seed and sees its own bootstrap of the
    pairs (Poisson weights; Oza & Russell 2001), which makes them disagree where the pairs say little.

    lora: train adapters and heads alone; the members are then one set of weights with adapters each. micro_batch_size:
    pairs a pass (0: all of a batch at once); the gradient stays the same up to rounding. gradient_checkpointing: keep
    the input of each block alone, and compute the rest again.
    """

    epochs: int = 3
    batch_pairs: int = 16
    margin_coef: float = 0.0
    centering_coef: float = 0.01
    held_out: float = 0.15
    num_members: int = 1
    num_heads: int = 1
    lora: LoRAConfig | None = None
    micro_batch_size: int = 0
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(muon_lr=0.01, adamw_lr=1e-3))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("linear", warmup_steps=5))
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_pairs", "num_members", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"reward_model.{name} is {getattr(self, name)}: give a number of at least 1")
        if self.micro_batch_size < 0:
            raise ValueError(f"reward_model.micro_batch_size is {self.micro_batch_size}: give a number of at least 0")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: give a share from 0 to below 1")
