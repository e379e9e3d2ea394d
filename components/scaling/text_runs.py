"""Settings of the runs on the life's own text, a recurrent net beside the transformer and experts by source; the work
is in `on_text.py`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from components.model.config import LSTMConfig, ModelConfig, MoEConfig, equal_lstm
from components.training.config import OptimizerConfig, TrainConfig
from components.training.schedules import ScheduleConfig

TRANSFORMER, LSTM = "transformer", "lstm"


def _short_run(num_steps: int) -> TrainConfig:
    """Rates at which both a small transformer and an LSTM of its size learn fastest (docs/log.md)."""
    return TrainConfig(
        num_steps=num_steps,
        batch_size=8,
        optimizer=OptimizerConfig(muon_lr=0.04, adamw_lr=0.012),
        schedule=ScheduleConfig("linear", warmup_steps=10),
    )


@dataclass(frozen=True)
class TextModelConfig:
    """A small decoder: depth, width, and dimensions per head."""

    d_model: int = 32
    num_layers: int = 3
    head_dim: int = 16

    def __post_init__(self) -> None:
        if self.d_model % self.head_dim:
            raise ValueError(f"d_model is {self.d_model}, which head_dim = {self.head_dim} does not divide")

    def transformer(self, vocab_size: int, context_length: int) -> ModelConfig:
        """The decoder."""
        return ModelConfig(
            vocab_size=vocab_size,
            d_model=self.d_model,
            num_layers=self.num_layers,
            num_heads=self.d_model // self.head_dim,
            context_length=context_length,
        )


@dataclass(frozen=True)
class RecurrentComparisonConfig:
    """A transformer and an LSTM of `lstm_layers` layers with its embeddings and its number of parameters (within 2%),
    on the same batches by the same loop.

    contexts: lengths at which a training step is timed, `timed_steps` times each with tokens_per_batch tokens.
    eval_windows: held-out windows, mixed as the training text is.
    """

    model: TextModelConfig = field(default_factory=TextModelConfig)
    lstm_layers: int = 2
    train: TrainConfig = field(default_factory=lambda: _short_run(240))
    contexts: tuple[int, ...] = (32, 64, 128, 256, 512)
    tokens_per_batch: int = 2048
    timed_steps: int = 5
    eval_windows: int = 512

    def __post_init__(self) -> None:
        if len(self.contexts) < 2 or list(self.contexts) != sorted(set(self.contexts)):
            raise ValueError(f"contexts are {self.contexts}: give two lengths or more, in growing order")
        for context in self.contexts:
            if context < 1 or self.tokens_per_batch % context:
                raise ValueError(
                    f"tokens_per_batch is {self.tokens_per_batch}, which the context {context} does not divide"
                )
        for name, least in (("lstm_layers", 1), ("timed_steps", 2), ("eval_windows", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least {least}")

    def architectures(self, vocab_size: int, context_length: int) -> dict[str, ModelConfig | LSTMConfig]:
        """The two models by name."""
        decoder = self.model.transformer(vocab_size, context_length)
        return {TRANSFORMER: decoder, LSTM: equal_lstm(decoder, self.lstm_layers)}


@dataclass(frozen=True)
class SpecializationConfig:
    """Experts (each as wide as the dense layer it stands for) on the life's mixture: which of them take which source's
    tokens, with the load balanced by a loss and by a bias alone.

    eval_windows: held-out windows of each source, where it has as many. resamples: of windows, for chance and interval.
    """

    model: TextModelConfig = field(default_factory=TextModelConfig)
    num_experts: int = 8
    top_k_experts: int = 1
    load_balance_coef: float = 0.01
    balance_bias_rate: float = 0.005
    router_z_coef: float = 0.001
    train: TrainConfig = field(default_factory=lambda: _short_run(160))
    eval_windows: int = 48
    resamples: int = 500

    def variants(self) -> dict[str, MoEConfig]:
        """The runs to compare, by name."""
        experts = MoEConfig(
            num_experts=self.num_experts,
            top_k_experts=self.top_k_experts,
            d_ff=self.model.transformer(2, 2).hidden,
            load_balance_coef=self.load_balance_coef,
            router_z_coef=self.router_z_coef,
        )
        loss_free = replace(experts, load_balance_coef=0.0, balance_bias_rate=self.balance_bias_rate)
        return {"moe_balanced": experts, "moe_loss_free": loss_free}
