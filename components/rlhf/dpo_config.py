"""Settings of DPO; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig
from components.training.schedules import ScheduleConfig

DPOLoss = Literal["sigmoid", "ipo", "hinge", "robust"]


@dataclass(frozen=True)
class DPOConfig:
    """beta: strength of the tie to the reference. label_smoothing: the share of wrong labels that `robust` (below 0.5)
    assumes, or how far `sigmoid` hedges. IPO compares log-probabilities per token (length-normalised).

    lora: train adapters alone; the reference is then the same weights without them. micro_batch_size: pairs a pass (0:
    all of a batch at once); the gradient stays the same up to rounding. gradient_checkpointing: keep the input of each
    block alone, and compute the rest again.
    """

    epochs: int = 2
    batch_pairs: int = 32
    loss: DPOLoss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    lora: LoRAConfig | None = None
    micro_batch_size: int = 0
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(muon_lr=0.0, adamw_lr=3e-4))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("linear", warmup_steps=5))
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        if self.loss not in ("sigmoid", "ipo", "hinge", "robust"):
            raise ValueError(f"dpo.loss is {self.loss!r}: it takes sigmoid, ipo, hinge or robust")
        if self.beta <= 0:
            raise ValueError(f"dpo.beta is {self.beta}: give a number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"dpo.label_smoothing is {self.label_smoothing}: give a share from 0 to below 0.5")
        if self.epochs < 1 or self.batch_pairs < 1:
            raise ValueError("dpo.epochs and dpo.batch_pairs must be at least 1")
        if self.micro_batch_size < 0:
            raise ValueError(f"dpo.micro_batch_size is {self.micro_batch_size}: give a number of at least 0")
