"""A model without weights of its own: to fill with those of a file, at no cost for memory or random numbers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.model.config import ModelConfig
from components.model.transformer import Transformer


def skeleton(cfg: ModelConfig) -> Transformer:
    """`Transformer(cfg)` with weights on the meta device; tables that are computed and not stored are real.

    135M parameters take 10 s to draw at random on one core, and all of them are overwritten by a checkpoint's.
    """
    with torch.device("meta"):
        model = Transformer(cfg)
    stored = set(model.state_dict())
    computed = [name for name, _ in model.named_buffers() if name not in stored]
    if computed:
        # What is computed depends on the rotary positions alone: the smallest model with the same ones has it too.
        small = dataclasses.replace(
            cfg, vocab_size=1, d_model=2, num_layers=1, num_heads=1, num_kv_heads=1, head_dim=cfg.per_head, d_ff=1,
            moe=None,
        )  # fmt: skip
        real = dict(Transformer(small).named_buffers())
        for name in computed:
            buffer = real[re.sub(r"^blocks\.\d+\.", "blocks.0.", name)]
            if buffer.shape != model.get_buffer(name).shape:
                raise RuntimeError(f"the table {name} depends on more than the rotary positions: teach skeleton() how")
            place, _, last = name.rpartition(".")
            model.get_submodule(place)._buffers[last] = buffer
    return model


def filled(cfg: ModelConfig, tensors: Mapping[str, Tensor]) -> Transformer:
    """The model whose weights *are* these tensors (no copy), in eval mode.

    Raises RuntimeError as `load_state_dict` does when one is missing, foreign or of another shape.
    """
    model = skeleton(cfg)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def shapes(cfg: ModelConfig) -> dict[str, torch.Size]:
    """Name and shape of every stored tensor of `Transformer(cfg)`."""
    with torch.device("meta"):
        model: nn.Module = Transformer(cfg)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
