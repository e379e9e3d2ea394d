"""All tensors that resuming needs, and their way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor, nn

from components.training.optimizers import Optimizer


class Savable(Protocol):
    """What a saved state may hold beside model and optimizer: a guard, the best weights so far."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by names that no other part of the state uses."""

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`; other names are left alone."""


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's state without its frozen parameters, which whoever resumes has from elsewhere."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `trained_tensors`. Raises RuntimeError when the names are not those of the model."""
    if set(tensors) != set(trained_tensors(model)):
        raise RuntimeError(f"other tensors than the model trains: {sorted(set(tensors) ^ set(trained_tensors(model)))}")
    model.load_state_dict(dict(tensors), strict=False)


def state_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Model and optimizer, by name."""
    return {f"model.{name}": value for name, value in trained_tensors(model).items()} | {
        f"optimizer.{name}": value for name, value in optimizer.state_tensors().items()
    }


def load_state_tensors(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state_tensors`; names of other parts are left alone."""
    load_trained_tensors(model, _part(tensors, "model."))
    optimizer.load_state_tensors(_part(tensors, "optimizer."))


def _part(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)}
