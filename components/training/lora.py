"""Low-rank adapters (Hu et al. 2021, §4.1): W x + alpha / rank · B A x, with W frozen.

B starts at zero, so that the adapted model is at first exactly the model. W stays one set of weights for all that share
it: `adapted_copy` leaves the model that it is given as it was, which then is the model with the adapters off, at no
memory of its own. `merged` and `merge_lora` add B A to W, and leave nothing of this module in a model.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from components.training.config import LoRAConfig

ADAPTERS = "adapters.safetensors"
Model = TypeVar("Model", bound=nn.Module)


class LoRALinear(nn.Module):
    """A frozen linear map `base` [out, in] with an adapter: lora_a [rank, in], lora_b [out, rank]."""

    def __init__(self, base: nn.Linear, lora_a: Tensor, lora_b: Tensor, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.alpha = alpha
        self.scale = alpha / len(lora_a)
        self.lora_a, self.lora_b = nn.Parameter(lora_a), nn.Parameter(lora_b)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scale * (x @ self.lora_a.mT) @ self.lora_b.mT

    @property
    def weight(self) -> Tensor:
        """W + alpha / rank · B A, made anew: what a reader of weights, such as the decoder in C, takes."""
        return self.base.weight + self.scale * self.lora_b @ self.lora_a

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The base with the adapter in its weights, in place."""
        self.base.weight += self.scale * self.lora_b @ self.lora_a
        return self.base


def adapters(model: nn.Module) -> dict[str, LoRALinear]:
    """The adapted maps of a model by name; empty where it has none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoRALinear)}


def add_lora(model: nn.Module, config: LoRAConfig, seed: int) -> list[str]:
    """Put an adapter on every linear map whose name ends as one of `config.targets`, freeze all else, in place.

    Where the model has adapters already, no other is added: these go on. Returns the names. Raises ValueError for a
    target that no linear map's name ends with, naming those that there are.
    """
    model.requires_grad_(False)
    if held := adapters(model):
        for module in held.values():
            module.lora_a.requires_grad_(True)
            module.lora_b.requires_grad_(True)
        return list(held)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for target in config.targets:
        if not any(_ends(name, target) for name in linear):
            known = sorted({".".join(part for part in name.split(".") if not part.isdigit()) for name in linear})
            raise ValueError(f"lora.targets: no linear map's name ends with {target!r}; there are {', '.join(known)}")
    generator = torch.Generator().manual_seed(seed)
    chosen = [name for name in linear if any(_ends(name, target) for target in config.targets)]
    for name in chosen:
        base = linear[name]
        # Uniform over ±1/√in, as the authors' code and nn.Linear have it.
        bound = 1 / math.sqrt(base.in_features)
        lora_a = torch.empty(config.rank, base.in_features, dtype=base.weight.dtype)
        lora_a = lora_a.uniform_(-bound, bound, generator=generator).to(base.weight.device)
        lora_b = base.weight.new_zeros(base.out_features, config.rank)
        _replace(model, name, LoRALinear(base, lora_a, lora_b, config.alpha))
    return chosen


def sharing(model: Model) -> Model:
    """A copy of a model's modules around the same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def adapted_copy(model: Model, config: LoRAConfig, seed: int) -> Model:
    """`add_lora` to a copy that shares all other parameters with `model`, which stays as it is: the copy with its
    adapters off. Adapters that `model` has already begin as copies of its own."""
    held = {id(x): nn.Parameter(x.detach().clone()) for m in adapters(model).values() for x in (m.lora_a, m.lora_b)}
    made = copy.deepcopy(model, {id(x): x for x in model.parameters()} | held)
    add_lora(made, config, seed)
    return made


def start_copy(model: Model, config: LoRAConfig | None, seed: int) -> Model:
    """What a training begins as: a copy whose parameters all learn, or with `config` one of which adapters do."""
    return copy.deepcopy(model).requires_grad_(True) if config is None else adapted_copy(model, config, seed)


@torch.no_grad()
def merged(model: Model) -> Model:
    """A model with its adapters in its weights, which shares what was not adapted; itself where it has none."""
    if not adapters(model):
        return model
    made = sharing(model)
    for name, module in adapters(made).items():
        weight = module.weight
        module.base.weight = nn.Parameter(weight, requires_grad=False)
        _replace(made, name, module.base)
    return made


def merge_lora(model: nn.Module) -> None:
    """Undo `add_lora`, in place: adapters go into the weights, and everything is trainable again."""
    for name, module in adapters(model).items():
        _replace(model, name, module.merged())
    model.requires_grad_(True)


# -- files ---------------------------------------------------------------------------------------------------------


def save_lora(file: Path, model: nn.Module) -> None:
    """Write the adapters of a model: `<linear map>.lora_a` and `.lora_b`, with their alphas in the metadata: in one
    entry, since the order in which safetensors writes several is another one in each process."""
    tensors, alphas = {}, {}
    for name, module in adapters(model).items():
        alphas[name] = module.alpha
        for part, tensor in (("lora_a", module.lora_a), ("lora_b", module.lora_b)):
            tensors[f"{name}.{part}"] = tensor.detach().cpu().contiguous()
    save_file(tensors, file, metadata={"alphas": json.dumps(alphas)})


def load_lora(file: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Adapters that `save_lora` wrote, and the alpha of each linear map. Raises ValueError for another file."""
    with safe_open(file, framework="pt") as opened:
        alphas = json.loads((opened.metadata() or {}).get("alphas", "{}"))
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    if {f"{name}.{part}" for name in alphas for part in ("lora_a", "lora_b")} != set(tensors):
        raise ValueError(f"{file}: not adapters of Lifespan: its alphas are of other maps than its tensors")
    return tensors, {name: float(alpha) for name, alpha in alphas.items()}


def attach_lora(model: nn.Module, tensors: Mapping[str, Tensor], alphas: Mapping[str, float]) -> None:
    """Put such adapters on a model, in place, and freeze it all. Raises ValueError for a map that it has not, or of
    another shape."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name, alpha in alphas.items():
        base, a, b = linear.get(name), tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        if base is None or (b.shape[0], a.shape[1]) != base.weight.shape or a.shape[0] != b.shape[1]:
            raise ValueError(f"the adapter of {name} belongs to another model")
        _replace(model, name, LoRALinear(base, a.to(base.weight), b.to(base.weight), alpha))
    model.requires_grad_(False)


def _ends(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
