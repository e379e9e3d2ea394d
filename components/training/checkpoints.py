"""A model on disk: `model.safetensors` and `config.json`. Nothing is ever unpickled, so a stranger's file is safe.

A model whose adapters are kept apart has `base.safetensors` and `adapters.safetensors` in the place of the first, so
that nobody takes its base for the model. One that was trained with LoRA and is merged has its adapters beside it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.model.config import ModelConfig, config_from_dict
from components.model.skeleton import skeleton
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.training.lora import ADAPTERS, adapters, attach_lora, load_lora, merge_lora, merged, save_lora

WEIGHTS, CONFIG, BASE = "model.safetensors", "config.json", "base.safetensors"


def save_model(folder: Path, model: Transformer) -> None:
    """Write weights and config into `folder`, which exists. Adapters of the model are written apart from its base."""
    tensors = {k: v.contiguous() for k, v in model.state_dict().items()}
    if adapters(model):
        tensors = {k.replace(".base.", "."): v for k, v in tensors.items() if not k.endswith((".lora_a", ".lora_b"))}
        save_lora(folder / ADAPTERS, model)
    save_file(tensors, folder / (BASE if adapters(model) else WEIGHTS))
    text = json.dumps({"format": "lifespan-transformer", **dataclasses.asdict(model.cfg)}, indent=1)
    (folder / CONFIG).write_text(text, encoding="utf-8")


def load_config(folder: Path) -> ModelConfig:
    """The configuration of a folder's model. Raises ValueError when it is not one of ours."""
    try:
        raw: Any = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(raw, dict) or raw.pop("format", None) != "lifespan-transformer":
            raise ValueError("it has no format 'lifespan-transformer'")
        return config_from_dict(raw)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / CONFIG} is not a model config of Lifespan: {error}") from error


def save_trained(folder: Path, model: Transformer, start: Transformer) -> Transformer:
    """Write a trained model: its adapters apart where those of the model that it began as are, else merged, with the
    adapters beside it for who wants them alone. Returns it as it was written."""
    if adapters(model) and not adapters(start):
        save_lora(folder / ADAPTERS, model)
        model = merged(model)
    save_model(folder, model)
    return model


def load_model(folder: Path) -> Transformer:
    """The model of a folder, in eval mode. Raises ValueError when the config is not one of ours or does not fit, and
    for damaged weights."""
    model = load_adapted(folder)
    merge_lora(model)
    return model


def load_adapted(folder: Path) -> Transformer:
    """`load_model`, where adapters that are kept apart stay so."""
    cfg, file = load_config(folder), folder / (BASE if (folder / BASE).exists() else WEIGHTS)
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file}: not a safetensors file, or damaged: {error}") from error
    if cfg.num_layers > len(tensors):  # before as many are built: a damaged number may be any
        has = f"{file.name} has {len(tensors)} tensors"
        raise ValueError(f"{folder / CONFIG} says num_layers = {cfg.num_layers}, {has}")
    model = skeleton(cfg)
    try:
        model.load_state_dict(tensors)
        if file.name == BASE:
            attach_lora(model, *load_lora(folder / ADAPTERS))
    except (RuntimeError, SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{file} does not fit {folder / CONFIG}: {error}") from error
    fuse(model)
    return model.eval()


def load_tensors(folder: Path) -> dict[str, Tensor]:
    """The weights of `load_model`, by name."""
    return load_model(folder).state_dict() if (folder / BASE).exists() else load_file(folder / WEIGHTS)
