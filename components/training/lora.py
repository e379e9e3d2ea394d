"""Low-rank adapters (Hu et al. 2021, §4.1): W x + alpha / rank · B A x, with W frozen.

B starts at zero, so that the adapted model is at first exactly the model; `merge_lora` adds B A to W and leaves a
model as it was before, with nothing of this module in it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from components.training.config import LoRAConfig

ADAPTERS = "adapters.safetensors"


class LoRALinear(nn.Module):
    """A frozen linear map `base` [out, in] with an adapter: lora_a [rank, in], lora_b [out, rank]."""

    def __init__(self, base: nn.Linear, config: LoRAConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = config.alpha / config.rank
        # Uniform over ±1/√in, as the authors' code and nn.Linear have it.
        bound = 1 / math.sqrt(base.in_features)
        lora_a = torch.empty(config.rank, base.in_features, dtype=base.weight.dtype)
        self.lora_a = nn.Parameter(lora_a.uniform_(-bound, bound, generator=generator).to(base.weight.device))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, config.rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.lora_a.mT) @ self.lora_b.mT

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base with the adapter in its weights."""
        self.base.weight += self.scale * self.lora_b @ self.lora_a
        return self.base


def add_lora(model: nn.Module, config: LoRAConfig, seed: int) -> list[str]:
    """Put an adapter on every linear map whose name ends as one of `config.targets`, freeze all else, in place.

    Returns the names. Raises ValueError for a target that no linear map's name ends with, naming those that there are.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in config.targets:
        if not any(_ends(name, target) for name in linear):
            known = sorted({".".join(part for part in name.split(".") if not part.isdigit()) for name in linear})
            raise ValueError(f"lora.targets: no linear map's name ends with {target!r}; there are {', '.join(known)}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    chosen = [name for name in linear if any(_ends(name, target) for target in config.targets)]
    for name in chosen:
        _replace(model, name, LoRALinear(linear[name], config, generator))
    return chosen


def save_lora(file: Path, model: nn.Module, config: LoRAConfig) -> None:
    """Write the adapters of a model: `<linear map>.lora_a` and `.lora_b`, with rank and alpha in the metadata: in one
    entry, since the order in which safetensors writes several is another one in each process."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    tensors = {}
    for name, module in adapted.items():
        for part, tensor in (("lora_a", module.lora_a), ("lora_b", module.lora_b)):
            tensors[f"{name}.{part}"] = tensor.detach().cpu().contiguous()
    save_file(tensors, file, metadata={"lora": json.dumps([config.rank, config.alpha])})


def load_lora(file: Path) -> tuple[dict[str, Tensor], int, float]:
    """Adapters that `save_lora` wrote, their rank and alpha."""
    with safe_open(file, framework="pt") as opened:
        rank, alpha = json.loads(opened.metadata()["lora"])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    return tensors, int(rank), float(alpha)


def merge_lora(model: nn.Module) -> None:
    """Undo `add_lora`, in place: adapters go into the weights, and everything is trainable again."""
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}
    for name, module in adapted.items():
        _replace(model, name, module.merged())
    model.requires_grad_(True)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
