"""Stop when a held-out loss no longer falls, and keep the weights of its lowest point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from components.training.results.finetuning import EarlyStopResult
from components.training.state import load_trained_tensors, trained_tensors


@dataclass
class EarlyStop:
    """Looks at a held-out loss (nats per token) now and then. stale: looks since the lowest; patience: how many of them
    end the training (0: never). `tensors` and `load_tensors` round-trip it, the best weights included."""

    patience: int
    best_loss: float = math.inf
    best_step: int = 0
    last_loss: float = math.inf
    last_step: int = 0
    stale: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    def look(self, step: int, loss: float, model: nn.Module) -> bool:
        """Note the loss after `step` steps; True when training should end."""
        self.last_loss, self.last_step = loss, step
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.stale = loss, step, 0
            self.weights = {name: value.detach().clone() for name, value in trained_tensors(model).items()}
        else:
            self.stale += 1
        return 0 < self.patience <= self.stale

    def restore(self, model: nn.Module) -> None:
        """Give the model its best weights; without any look that was finite it keeps its own."""
        if self.weights:
            load_trained_tensors(model, self.weights)

    def result(self) -> EarlyStopResult | None:
        """For the result of a stage; None without a look that was finite."""
        if not math.isfinite(self.last_loss + self.best_loss):
            return None
        overfitting = self.last_loss - self.best_loss
        return EarlyStopResult(self.best_step, self.best_loss, self.last_step, self.last_loss, overfitting)

    def tensors(self) -> dict[str, Tensor]:
        """All of it as tensors, by name."""
        counts = torch.tensor([self.best_step, self.last_step, self.stale])
        losses = torch.tensor([self.best_loss, self.last_loss], dtype=torch.float64)
        named = {"early_stop.counts": counts, "early_stop.losses": losses}
        return named | {f"early_stop.best.{name}": value for name, value in self.weights.items()}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        self.best_step, self.last_step, self.stale = tensors["early_stop.counts"].tolist()
        self.best_loss, self.last_loss = tensors["early_stop.losses"].tolist()
        head = "early_stop.best."
        self.weights = {n.removeprefix(head): value.clone() for n, value in tensors.items() if n.startswith(head)}
