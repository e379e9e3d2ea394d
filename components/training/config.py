"""Settings of training, free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from components.training.schedules import ScheduleConfig


@dataclass(frozen=True)
class OptimizerConfig:
    """muon_lr: step of the matrices (0: AdamW for all); adamw_lr: of embeddings, norms, heads and the rest.
    momentum: Nesterov momentum of Muon. betas, eps: of AdamW. weight_decay: decoupled, for matrices and embeddings.
    base_width: d_model that the rates were tuned at; at any other width the same rates then serve (`transfer.py`; 0:
    take them as they are)."""

    muon_lr: float = 0.02
    adamw_lr: float = 3e-3
    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    base_width: int = 0

    def __post_init__(self) -> None:
        _at_least(self, 0, "muon_lr", "adamw_lr", "eps", "weight_decay", "base_width")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least 0 and below 1")


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
        _at_least(self, 1, "max_in_a_row", "snapshot_every")
        _at_least(self, 0, "max_rollbacks")
        if not 0 < self.rate_factor <= 1:
            raise ValueError(f"rate_factor is {self.rate_factor}: give a number above 0 and at most 1")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. batch_size counts rows of context_length tokens; accumulation splits them into as many
    micro-batches with the same gradient. gradient_checkpointing: keep the input of each block alone, and compute the
    rest again for the gradient (a transformer's alone). z_loss weighs the mean squared log-normalizer (Chowdhery et al.
    2022, §5).
    precision: of the matrix products and what they save; weights, norms and losses are float32 in either."""

    num_steps: int = 700
    batch_size: int = 32
    context_length: int = 128
    accumulation: int = 1
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    z_loss: float = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        _at_least(self, 1, "num_steps", "batch_size", "context_length", "accumulation")
        _at_least(self, 0, "z_loss")
        if not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}: give a number above 0")
        if self.batch_size % self.accumulation:
            raise ValueError(f"accumulation is {self.accumulation}: it must divide batch_size ({self.batch_size})")


@dataclass(frozen=True)
class PretrainConfig(TrainConfig):
    """loss_weights: how much a target of a source counts in the loss (1 for a source that is not named).
    validate_every: steps between two looks at held-out text by source, validation_windows windows of each (0: none)."""

    loss_weights: Mapping[str, float] = field(default_factory=dict)
    validate_every: int = 300
    validation_windows: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for source, weight in self.loss_weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"loss_weights.{source} is {weight}: give a number of at least 0")
        _at_least(self, 0, "validate_every")
        _at_least(self, 1, "validation_windows")


@dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (Hu et al. 2021): a linear map W becomes W + alpha / rank · B A, and only A and B train.
    targets: endings of the names of the linear maps that get one."""

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention.qkv", "attention.out", "mlp.gate_up", "mlp.down")

    def __post_init__(self) -> None:
        _at_least(self, 1, "rank")
        if not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha is {self.alpha}: give a number above 0")
        if not self.targets:
            raise ValueError('targets is empty: name linear maps, such as "attention.qkv"')


@dataclass(frozen=True)
class FinetuneConfig(TrainConfig):
    """replay: share of a batch's rows that are windows of the pretraining text, against forgetting it. neftune_alpha:
    size of the noise on the embeddings (Jain et al. 2023; 0: none). lora: train adapters alone. held_out: share of
    the prompts that validation and test hold out each, with all of their conversations. validate_every: steps between
    two looks at the validation conversations (0: none); patience: looks in a row without a lower loss after which
    training ends (0: never). The weights of the lowest look are kept; the reported loss is on test conversations."""

    replay: float = 0.25
    neftune_alpha: float = 0.0
    lora: LoRAConfig | None = None
    held_out: float = 0.03
    validate_every: int = 100
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.replay < 1:
            raise ValueError(f"replay is {self.replay}: give a share of at least 0 and below 1")
        if self.replay and not 0 < self.replay_rows < self.batch_size:
            raise ValueError(
                f"replay is {self.replay}, {self.replay_rows} of the {self.batch_size} rows of a batch: give a share "
                f"that is at least one row ({1 / self.batch_size:.3g}) and leaves one, or 0"
            )
        if not 0 < self.held_out <= 1 / 3:
            raise ValueError(f"held_out is {self.held_out}: give a share above 0 and at most 1/3")
        if self.neftune_alpha < 0:
            raise ValueError(f"neftune_alpha is {self.neftune_alpha}: give a number of at least 0")
        _at_least(self, 0, "validate_every", "patience")

    @property
    def replay_rows(self) -> int:
        """Rows of each batch that are pretraining text."""
        return round(self.replay * self.batch_size)


def _at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= least:
            raise ValueError(f"{name} is {getattr(config, name)}: give a number of at least {least}")
