"""A model without weights of its own: to fill with those of a file, at no cost in memory or random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from components.model.config import ModelConfig
from components.model.transformer import Transformer

_DRAWING = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "xavier_uniform_")


class _Undrawn(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be drawn into them."""

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(function, "__name__", "") in _DRAWING:
            return args[0] if args else given["tensor"]
        return function(*args, **given)


def skeleton(cfg: ModelConfig) -> Transformer:
    """`Transformer(cfg)` whose matrices hold what memory happened to hold; what is computed and not stored is right.

    To draw 135M parameters takes 10 s on one core, and a checkpoint overwrites them all. Memory that is never written
    to is never really taken. Raises ValueError for sizes that no memory holds, as a damaged config may have them.
    """
    try:
        with _Undrawn():
            return Transformer(cfg)
    except (RuntimeError, TypeError) as error:
        told = str(error).partition("\n")[0]
        raise ValueError(f"a model of such a configuration cannot be built here ({told})") from error


def filled(cfg: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """The model whose weights *are* these tensors (no copy), in eval mode.

    Raises RuntimeError as `load_state_dict` does when one is missing, foreign or of another shape.
    """
    model = skeleton(cfg)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def shapes(cfg: ModelConfig) -> dict[str, torch.Size]:
    """Name and shape of every stored tensor of `Transformer(cfg)`."""
    return {name: tensor.shape for name, tensor in skeleton(cfg).state_dict().items()}
