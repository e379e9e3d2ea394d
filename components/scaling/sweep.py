"""What the scaling, mixture-of-experts and emergence sweeps train, as settings; the loops are in `runs.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from components.model.config import ModelConfig, MoEConfig
from components.scaling.facts import FactsConfig
from components.training.config import OptimizerConfig, TrainConfig
from components.training.schedules import ScheduleConfig


@dataclass(frozen=True)
class FactsRunConfig:
    """One model on a stream of facts, read at several token counts of one constant-rate run.

    A constant rate with averaged weights (exponential, horizon `ema_share` of the steps done) gives at each
    checkpoint about the loss of a run that decayed to there, for the cost of one run (Hägele et al. 2024, 2405.18392).
    context_length should hold whole records of the facts.
    """

    d_model: int = 32
    num_layers: int = 3
    head_dim: int = 16
    checkpoints: tuple[int, ...] = (200_000, 283_000, 400_000, 566_000, 800_000)
    batch_size: int = 16
    context_length: int = 60
    ema_share: float = 0.1
    eval_tokens: int = 120_000
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    moe: MoEConfig | None = None

    def __post_init__(self) -> None:
        if not self.checkpoints or list(self.checkpoints) != sorted(set(self.checkpoints)):
            raise ValueError(f"checkpoints are {self.checkpoints}: give token counts in growing order")
        if self.d_model % self.head_dim:
            raise ValueError(f"d_model is {self.d_model}, which head_dim = {self.head_dim} does not divide")

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one batch."""
        return self.batch_size * self.context_length

    def model(self, vocab_size: int) -> ModelConfig:
        """The decoder that this run trains."""
        return ModelConfig(
            vocab_size=vocab_size,
            d_model=self.d_model,
            num_layers=self.num_layers,
            num_heads=self.d_model // self.head_dim,
            context_length=self.context_length,
            moe=self.moe,
        )

    def training(self) -> TrainConfig:
        """The loop that this run is."""
        return TrainConfig(
            num_steps=-(-self.checkpoints[-1] // self.tokens_per_step),
            batch_size=self.batch_size,
            context_length=self.context_length,
            optimizer=self.optimizer,
            schedule=ScheduleConfig("constant", warmup_steps=50),
        )


@dataclass(frozen=True)
class ScalingConfig:
    """The dense sweep: every width of `widths` is one run; `forecast_width` is trained on `forecast_tokens` after its
    loss was forecast. `steps`: of the posterior's ensemble behind the law's intervals (fewer than 10 runs);
    `resamples`: of the bootstrap otherwise, and of Kaplan's law."""

    facts: FactsConfig = field(default_factory=FactsConfig)
    run: FactsRunConfig = field(default_factory=FactsRunConfig)
    widths: tuple[int, ...] = (16, 32, 48, 64)
    forecast_width: int = 96
    forecast_tokens: int = 1_600_000
    steps: int = 6000
    resamples: int = 1000

    def __post_init__(self) -> None:
        for width in (*self.widths, self.forecast_width):
            if width % self.run.head_dim:
                raise ValueError(f"width {width} is not a multiple of run.head_dim ({self.run.head_dim}): change one")

    def forecast_run(self) -> FactsRunConfig:
        """The larger run, read at its end alone."""
        return replace(self.run, d_model=self.forecast_width, checkpoints=(self.forecast_tokens,))


@dataclass(frozen=True)
class MoEComparisonConfig:
    """Dense against experts of the dense model's width, top-1, so that a token's compute is the same; with and without
    the balancing loss; each trained alike `trainings` times with other seeds, over which the interval is."""

    run: FactsRunConfig = field(default_factory=lambda: FactsRunConfig(d_model=48, checkpoints=(400_000,)))
    num_experts: int = 8
    load_balance_coef: float = 0.01
    router_z_coef: float = 0.001
    trainings: int = 2

    def __post_init__(self) -> None:
        if self.trainings < 1:
            raise ValueError(f"trainings is {self.trainings}: give a number of at least 1")

    def seeds(self, seed: int) -> tuple[int, ...]:
        """As of `training_seeds`."""
        return training_seeds(seed, self.trainings)

    def variants(self) -> dict[str, FactsRunConfig]:
        """The runs to compare, by name."""
        width = self.run.model(2).hidden
        experts = MoEConfig(
            num_experts=self.num_experts,
            d_ff=width,
            load_balance_coef=self.load_balance_coef,
            router_z_coef=self.router_z_coef,
        )
        return {
            "dense": self.run,
            "moe_balanced": replace(self.run, moe=experts),
            "moe_unbalanced": replace(self.run, moe=replace(experts, load_balance_coef=0.0)),
        }


@dataclass(frozen=True)
class EmergenceConfig:
    """Models of growing width on symbolic chains, one character a token, each trained alike `trainings` times with
    other seeds: when a model learns to calculate is a matter of luck as well as of size.

    Chains of 1 to `max_difficulty` operations whose running values stay within 0..`max_value` (at most 99); evaluated
    on `num_items` of `difficulty` operations that no training sees. A smaller `max_value` leaves fewer sums to learn.
    """

    trainings: int = 3
    widths: tuple[int, ...] = (8, 12, 16, 24, 32, 48)
    num_layers: int = 4
    max_difficulty: int = 4
    difficulty: int = 4
    max_value: int = 99
    num_items: int = 300
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            num_steps=1200, batch_size=16, context_length=64, schedule=ScheduleConfig("linear", warmup_steps=50)
        )
    )

    def __post_init__(self) -> None:
        if self.trainings < 1:
            raise ValueError(f"trainings is {self.trainings}: give a number of at least 1")
        if not 9 <= self.max_value <= 99:
            raise ValueError(f"max_value is {self.max_value}: give a number of 9 to 99")
        if len(set(self.widths)) < 2:
            raise ValueError(f"widths are {self.widths}: emergence needs at least two sizes")

    def seeds(self, seed: int) -> tuple[int, ...]:
        """As of `training_seeds`."""
        return training_seeds(seed, self.trainings)


def training_seeds(seed: int, trainings: int) -> tuple[int, ...]:
    """Seeds of so many trainings of one kind, in the life with that seed; no two lives share one."""
    return tuple(seed * trainings + training for training in range(trainings))
