"""Settings of the studies of context (`in_context.py`), free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from components.model.config import LSTMConfig, ModelConfig, equal_lstm
from components.scaling.text_runs import LSTM, TRANSFORMER, TextModelConfig
from components.training.config import OptimizerConfig, TrainConfig
from components.training.schedules import ScheduleConfig

Task = Literal["recall", "compositions", "steps"]
TASKS: tuple[Task, ...] = get_args(Task)
SHOTS = (0, 1, 2, 3, 4)  # showings of a key before; the last stands for it and more
OPERATIONS = ("reverse", "first", "last", "repeat", "rotate", "next", "sort")
LENGTHS = (2, 4)  # of words, in letters
NUM_STEPS = (1, 2, 3, 4, 6)


@dataclass(frozen=True)
class InContextConfig:
    """Transformers of `widths` and LSTMs of their sizes, on the same batches of each of `tasks`.

    num_pairs: pairs of a recall sequence, over keys_a_row keys of num_keys, to num_values values. eval_rows: sequences
    that all models are asked; measurements: how often, evenly through training.
    """

    tasks: tuple[Task, ...] = TASKS
    widths: tuple[int, ...] = (16, 32, 64)
    num_layers: int = 2
    head_dim: int = 16
    lstm_layers: int = 2
    num_keys: int = 16
    num_values: int = 16
    keys_a_row: int = 8
    num_pairs: int = 32
    eval_rows: int = 300
    measurements: int = 12
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            num_steps=1200,
            batch_size=32,
            context_length=63,
            optimizer=OptimizerConfig(muon_lr=0.02, adamw_lr=0.006),
            schedule=ScheduleConfig("linear", warmup_steps=50),
        )
    )

    def __post_init__(self) -> None:
        if not 1 <= self.keys_a_row <= self.num_keys:
            raise ValueError(f"keys_a_row is {self.keys_a_row}: give 1 to num_keys ({self.num_keys})")
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise ValueError(f"tasks has {unknown[0]!r}: it takes {', '.join(TASKS)}")
        for name in ("num_values", "num_pairs", "eval_rows", "measurements"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least 2")
        for width in self.widths:
            if width % self.head_dim:
                raise ValueError(f"widths has {width}, which head_dim = {self.head_dim} does not divide")

    def architectures(self, width: int, vocab_size: int) -> dict[str, ModelConfig | LSTMConfig]:
        """The transformer of a width, and the LSTM of its number of parameters, by name."""
        model = TextModelConfig(width, self.num_layers, self.head_dim)
        decoder = model.transformer(vocab_size, self.train.context_length)
        return {TRANSFORMER: decoder, LSTM: equal_lstm(decoder, self.lstm_layers)}
