"""A model's weights in the precision that it serves in."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.inference.capacity import Weights
from components.model.quantized import quantize
from components.model.skeleton import skeleton
from components.model.transformer import Transformer
from components.training.checkpoints import CONFIG, WEIGHTS, load_config, load_model

_MADE = ("weight_int8", "scale")  # what `quantize` has filled


def load_for_serving(folder: Path, weights: Weights) -> tuple[Transformer, float]:
    """The model of a folder, for answers alone, and the relative error of its weights in 8 bits (else 0). In less than
    float32 the weights of the file never lie in memory as a whole.

    Raises ValueError as `load_model` does, and for a mixture of experts in 8 bits.
    """
    if weights == "float32" or not (folder / WEIGHTS).exists():  # adapters apart from their base are merged
        model = load_model(folder)
        return model, narrowed(model, weights)
    cfg, error = load_config(folder), 0.0
    model = skeleton(cfg)
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as opened:
            shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}

            def read(name: str) -> Tensor:
                found: Tensor = opened.get_tensor(name)
                if found.shape != shapes[name]:
                    raise ValueError(f"{name} is {tuple(found.shape)} there, {tuple(shapes[name])} by its config")
                return found

            if weights == "int8":
                error = quantize(model, torch.bfloat16, read)
            for name, tensor in model.state_dict(keep_vars=True).items():
                if not name.endswith(_MADE):
                    tensor.data = read(name)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, ValueError) as problem:
        raise ValueError(f"{folder / WEIGHTS}: damaged, or does not fit {folder / CONFIG}: {problem}") from problem
    return in_bfloat16(model), error


def narrowed(model: Transformer, weights: Weights) -> float:
    """Give a model that is there this precision, in place; the relative error of its weights in 8 bits (else 0)."""
    error = quantize(model, torch.bfloat16) if weights == "int8" else 0.0
    if weights != "float32":
        in_bfloat16(model)
    return error


def in_bfloat16(model: Transformer) -> Transformer:
    """The model with its weights and rotary tables in bfloat16, in eval mode, in place; scales of 8-bit weights and the
    bias of routers keep their precision."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.dtype == torch.float32 and not name.endswith(("scale", "balance_bias", "assigned_E")):
            tensor.data = tensor.data.to(torch.bfloat16)
    return model.eval().requires_grad_(False)
