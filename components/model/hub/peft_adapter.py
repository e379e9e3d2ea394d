"""LoRA adapters (Hu et al. 2021) in the layout of PEFT: `adapter_config.json` and `adapter_model.safetensors`.

Their linear maps are the pieces of ours: an adapter of our `attention.qkv` is three of theirs with the same A, each
with its rows of B, and one of theirs adds B A to its rows of ours.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from components.model.config import ModelConfig
from components.model.hub.errors import UnsupportedModel
from components.model.hub.fields import Fields
from components.model.hub.folder import read_json
from components.model.hub.layout import Names, Piece, pieces
from components.model.hub.source import refuse_placeholder

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
# What says nothing of the weights, or is read below.
_KNOWN = frozenset(
    {
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora"),
        *("rank_pattern", "alpha_pattern", "init_lora_weights", "megatron_core", "loftq_config", "layers_pattern"),
        *("layers_to_transform", "qalora_group_size", "corda_config", "eva_config", "lora_ga_config", "runtime_config"),
    }
)


@dataclass(frozen=True)
class Adapter:
    """maps: A [rank, in], B [out, rank] and the factor of B A, by the name of the linear map in the base's layout."""

    where: str
    maps: Mapping[str, tuple[Tensor, Tensor, float]]


def read_adapter(folder: Path) -> Adapter:
    """An adapter's folder. Raises UnsupportedModel naming what is no plain LoRA of linear maps."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            pickled = (
                " (a pickle, adapter_model.bin, is never opened)" if (folder / "adapter_model.bin").exists() else ""
            )
            raise UnsupportedModel(f"{folder}: no adapter in the layout of PEFT: it has no {name}{pickled}")
        refuse_placeholder(folder / name)
    where = str(folder / ADAPTER_CONFIG)
    raw = read_json(folder / ADAPTER_CONFIG)
    fields = Fields(raw, where)
    if raw.get("peft_type") != "LORA":
        raise fields.refuse("peft_type", raw.get("peft_type"), "takes LORA")
    for name, value in raw.items():
        if name not in _KNOWN and value not in (None, False, "none", [], {}):
            raise fields.refuse(name, value, "only plain LoRA of linear maps is read")
    try:
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UnsupportedModel(f"{folder / ADAPTER_WEIGHTS}: not a safetensors file, or damaged: {error}") from error
    maps: dict[str, tuple[Tensor, Tensor, float]] = {}
    for name in sorted(tensors):
        if not name.endswith((_A, _B)):
            raise UnsupportedModel(f"{folder / ADAPTER_WEIGHTS}: {name} is no part of a plain LoRA of a linear map")
        stem = name.removesuffix(_A).removesuffix(_B)
        if stem + _A not in tensors or stem + _B not in tensors:
            raise UnsupportedModel(f"{folder / ADAPTER_WEIGHTS}: {stem} has only one of lora_A and lora_B")
        a, b = tensors[stem + _A], tensors[stem + _B]
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1]:
            shapes = f"lora_A has the shape {list(a.shape)} and lora_B {list(b.shape)}"
            raise UnsupportedModel(f"{folder / ADAPTER_WEIGHTS}: {stem}: {shapes}, which make no product")
        target = stem.removeprefix(_PREFIX)
        maps[target] = a, b, _scale(fields, target, a.shape[0])
    if not maps:
        raise UnsupportedModel(f"{folder / ADAPTER_WEIGHTS}: it has no tensors")
    return Adapter(str(folder), maps)


def _scale(fields: Fields, target: str, rank: int) -> float:
    """alpha / rank of a map (over √rank where rank-stabilised, Kalajdzievski 2023), by the patterns that match it."""
    said = _pattern(fields, "rank_pattern", target, fields.whole("r"))
    if said != rank:
        raise fields.refuse("r", said, f"{target} has the rank {rank}")
    alpha = _pattern(fields, "alpha_pattern", target, fields.real("lora_alpha", 8.0))
    return alpha / (math.sqrt(rank) if fields.flag("use_rslora", False) else rank)


def _pattern(fields: Fields, name: str, target: str, default: float) -> float:
    """The value of the first pattern that the target's name ends with, as PEFT looks it up."""
    patterns = fields.raw.get(name) or {}
    if not isinstance(patterns, Mapping):
        raise fields.refuse(name, patterns, "takes an object")
    for pattern, value in patterns.items():
        try:
            found = re.match(rf"(.*\.)?({pattern.lstrip('^')})$", target)
        except re.error as error:
            raise fields.refuse(name, pattern, f"takes regular expressions ({error})") from None
        if found:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise fields.refuse(name, value, "takes numbers")
            return value
    return default


@torch.no_grad()
def merge_adapter(adapter: Adapter, cfg: ModelConfig, names: Names, ours: Mapping[str, Tensor]) -> None:
    """Add an adapter's products to our tensors, in place. names: of the base's layout.

    Raises UnsupportedModel, with nothing changed, for a map that the model has not, or of another shape.
    """
    for piece, a, b, scale in _planned(adapter, cfg, names, ours):
        place = _place(ours, piece)
        place += (scale * b.float() @ a.float()).to(place.dtype)


@torch.no_grad()
def kept_adapter(
    adapter: Adapter, cfg: ModelConfig, names: Names, ours: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """The adapter apart from the base, as ours: `<linear map>.lora_a` and `.lora_b`, and the alpha of each map.

    Maps of theirs that are one of ours become one adapter: of the same rank where they share A, else with their A below
    each other and B zero where a row has nothing of one. Other shapes and names as in `merge_adapter`. Raises
    UnsupportedModel, also for experts, whose maps are stacked.
    """
    found: dict[str, list[tuple[Piece, Tensor, Tensor, float]]] = {}
    for part in _planned(adapter, cfg, names, ours):
        piece = part[0]
        if ours[piece.ours].dim() != 2:
            target = piece.theirs.removesuffix(".weight")
            raise UnsupportedModel(f"{adapter.where}: {target} is an expert's, whose adapter cannot be kept: merge it")
        found.setdefault(piece.ours.removesuffix(".weight"), []).append(part)
    tensors: dict[str, Tensor] = {}
    alphas: dict[str, float] = {}
    for name, parts in found.items():
        weight, scale = ours[f"{name}.weight"], next((own for *_, own in parts if own), 1.0)
        inner: list[Tensor] = []
        for _, a, _, _ in parts:
            if not any(torch.equal(a, other) for other in inner):
                inner.append(a)
        starts = [sum(map(len, inner[:place])) for place in range(len(inner) + 1)]
        lora_b = weight.new_zeros(len(weight), starts[-1])
        for piece, a, b, own in parts:
            place = next(place for place, other in enumerate(inner) if torch.equal(a, other))
            rows = lora_b[piece.index] if piece.index else lora_b
            rows[:, starts[place] : starts[place + 1]] = b * (own / scale)
        tensors |= {f"{name}.lora_a": torch.cat(inner).to(weight.dtype), f"{name}.lora_b": lora_b}
        alphas[name] = scale * starts[-1]
    return tensors, alphas


def _planned(
    adapter: Adapter, cfg: ModelConfig, names: Names, ours: Mapping[str, Tensor]
) -> list[tuple[Piece, Tensor, Tensor, float]]:
    """A, B and the factor of each map with its place in ours, all of them checked."""
    by_name = {piece.theirs: piece for piece in pieces(cfg, names)}
    plan = []
    for target, (a, b, scale) in adapter.maps.items():
        piece = by_name.get(f"{target}.weight")
        if piece is None:
            raise UnsupportedModel(f"{adapter.where}: {target} is no linear map of this base model")
        place = _place(ours, piece)
        if place.shape != (b.shape[0], a.shape[1]):
            shapes = f"{b.shape[0]} x {a.shape[1]}, the base model's map {' x '.join(map(str, place.shape))}"
            raise UnsupportedModel(f"{adapter.where}: {target} is {shapes}: it belongs to another base model")
        plan.append((piece, a, b, scale))
    return plan


def _place(ours: Mapping[str, Tensor], piece: Piece) -> Tensor:
    return ours[piece.ours][piece.index] if piece.index else ours[piece.ours]


def export_adapter(
    folder: Path,
    cfg: ModelConfig,
    names: Names,
    adapters: Mapping[str, Tensor],
    alphas: Mapping[str, float],
    base: str = "",
) -> None:
    """Write adapters of ours (`components/training/lora.py`) into an empty folder.

    adapters: `<linear map>.lora_a` [rank, in] and `.lora_b` [out, rank]. alphas: by linear map. names: of the layout
    that the base is exported in. base: where the base model is, for who loads it. Raises UnsupportedModel before
    anything is written.
    """
    public: dict[str, Tensor] = {}
    targets: set[str] = set()
    sizes: dict[str, tuple[int, float]] = {}  # rank and alpha
    by_ours: dict[str, list[Piece]] = {}
    for piece in pieces(cfg, names):
        by_ours.setdefault(piece.ours, []).append(piece)
    for name, a in adapters.items():
        if not name.endswith(".lora_a"):
            continue
        stem = name.removesuffix(".lora_a")
        found = by_ours.get(f"{stem}.weight")
        if found is None:
            raise UnsupportedModel(f"the adapter of {stem} has no place in a public layout, so it cannot be exported")
        for piece in found:
            theirs = piece.theirs.removesuffix(".weight")
            targets.add(theirs.rpartition(".")[2])
            sizes[theirs] = len(a), alphas[stem]
            b = adapters[f"{stem}.lora_b"]
            public[f"{_PREFIX}{theirs}{_A}"] = a.clone()  # safetensors writes no tensor twice
            public[f"{_PREFIX}{theirs}{_B}"] = (b[piece.index] if piece.index else b).contiguous()
    rank, alpha = Counter(sizes.values()).most_common(1)[0][0]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base or None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: own for name, (own, _) in sizes.items() if own != rank},
        "alpha_pattern": {name: own for name, (_, own) in sizes.items() if own != alpha},
        "lora_dropout": 0.0,
        "target_modules": sorted(targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
    }
    save_file(public, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
