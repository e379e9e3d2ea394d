"""Settings of the measurement of forgetting; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForgettingConfig:
    """What every checkpoint is measured on: num_windows held-out windows of context_length tokens (less where the model
    takes no more) of each source of the pretraining text, num_problems chains, num_stories requested stories.
    compare_replay: shares of replayed text at which fine-tuning is done again, to be measured beside the rest."""

    num_windows: int = 24
    context_length: int = 256
    num_problems: int = 60
    num_stories: int = 32
    compare_replay: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("num_windows", 2), ("context_length", 1), ("num_problems", 1), ("num_stories", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least {least}")
