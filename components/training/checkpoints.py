"""A model on disk: `model.safetensors` and `config.json`. Nothing is ever unpickled, so a stranger's file is safe."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from components.model.config import ModelConfig, config_from_dict
from components.model.skeleton import skeleton
from components.model.transformer import Transformer
from components.native.fuse import fuse

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def save_model(folder: Path, model: Transformer) -> None:
    """Write weights and config into `folder`, which exists."""
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
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


def load_model(folder: Path) -> Transformer:
    """The model of a folder, in eval mode. Raises ValueError when the config is not one of ours or does not fit, and
    for damaged weights."""
    cfg = load_config(folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{folder / WEIGHTS}: not a safetensors file, or damaged: {error}") from error
    if cfg.num_layers > len(tensors):  # before as many are built: a damaged number may be any
        raise ValueError(f"{folder / CONFIG} says num_layers = {cfg.num_layers}, {WEIGHTS} has {len(tensors)} tensors")
    model = skeleton(cfg)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {error}") from error
    fuse(model)
    return model.eval()
