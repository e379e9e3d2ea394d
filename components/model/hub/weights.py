"""Weights between safetensors files and ours, tensor by tensor: never two whole copies at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from components.model.config import ModelConfig
from components.model.hub.errors import UnsupportedModel
from components.model.hub.layout import Names, Piece, pieces
from components.model.skeleton import shapes

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


class SafetensorsFolder:
    """All tensors of a folder with `model.safetensors`, or with shards and their index; read one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of = _files(folder)
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> SafetensorsFolder:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._file_of)

    def read(self, name: str) -> Tensor:
        """One tensor, mapped from the file."""
        file = self._file_of[name]
        try:
            if file not in self._open:
                self._open[file] = self._stack.enter_context(safe_open(self.folder / file, framework="pt"))
            tensor: Tensor = self._open[file].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UnsupportedModel(f"{self.folder / file}: cannot read the tensor {name}: {error}") from error
        if tensor.dtype not in _FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UnsupportedModel(
                f"{self.folder / file}: {name} is stored as {kind}: take a version of the model that is not quantised"
            )
        return tensor


def _files(folder: Path) -> dict[str, str]:
    """Tensor name -> file name."""
    index = folder / INDEX
    if index.is_file():
        try:
            found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            file_of = {str(name): str(file) for name, file in found.items()}
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise UnsupportedModel(f"{index}: it has no weight_map from tensors to files ({error})") from None
        for file in sorted(set(file_of.values())):
            if Path(file).name != file:
                raise UnsupportedModel(f"{index}: weight_map names {file!r}, which lies outside the folder")
            if not (folder / file).is_file():
                raise UnsupportedModel(f"{folder / file}: this shard is listed in {INDEX} but is not there")
            absent = {name for name, where in file_of.items() if where == file} - _tensors_of(folder / file)
            if absent:
                raise UnsupportedModel(f"{folder / file}: {min(absent)} is not in it, though {INDEX} says so")
        return file_of
    if (folder / SINGLE).is_file():
        return dict.fromkeys(_tensors_of(folder / SINGLE), SINGLE)
    others = sorted(file.name for file in folder.glob("*") if file.suffix in (".bin", ".pt", ".pth", ".ckpt"))
    hint = f"; {others[0]} is a pickle, which is never opened" if others else ""
    raise UnsupportedModel(f"{folder}: no {SINGLE} and no {INDEX}{hint}")


def _tensors_of(file: Path) -> set[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return set(opened.keys())
    except (SafetensorError, OSError) as error:
        raise UnsupportedModel(f"{file}: not a safetensors file, or damaged: {error}") from error


def gathered(
    cfg: ModelConfig, names: Names, found: set[str], read: Callable[[str], Tensor], where: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Our tensors, each piece read, checked and put in its place.

    found: the names of all tensors of the source. Raises UnsupportedModel for one that is missing, of another shape, or
    without a place in the model: a bias or a norm more is another model.
    """
    plan = _plan(cfg, names, found, where)
    try:
        sizes = shapes(cfg)
    except ValueError as error:
        raise UnsupportedModel(f"{where}: {error}") from error
    ours: dict[str, Tensor] = {}
    for piece in plan:
        if piece.ours not in ours:
            ours[piece.ours] = torch.empty(sizes[piece.ours], dtype=dtype)
        place = ours[piece.ours][piece.index] if piece.index else ours[piece.ours]
        tensor = read(piece.theirs)
        if tensor.shape != place.shape:
            raise UnsupportedModel(
                f"{where}: {piece.theirs} has the shape {list(tensor.shape)}, its config gives {list(place.shape)}"
            )
        place.copy_(_paired(tensor, piece.heads) if piece.heads else tensor)
    if absent := sorted(sizes.keys() - ours.keys()):
        raise UnsupportedModel(f"{where}: the layout has nothing for our {absent[0]}")
    return ours


def _plan(cfg: ModelConfig, names: Names, found: set[str], where: str) -> list[Piece]:
    plan = []
    for piece in pieces(cfg, names):  # stops at the first that is missing: a damaged number of layers may be any
        if piece.theirs not in found:
            raise UnsupportedModel(f"{where}: the tensor {piece.theirs} is missing")
        plan.append(piece)
    if foreign := sorted(found - {piece.theirs for piece in plan}):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UnsupportedModel(f"{where}: the tensor {foreign[0]}{more} has no place in the model that its config says")
    return plan


def _paired(tensor: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys in the order in which the two halves of a head are rotated, from that of neighbours
    (llama.cpp, `LlamaModel.permute`, reversed)."""
    rows = tensor.shape[0]
    pairs = tensor.reshape(heads, rows // heads // 2, 2, *tensor.shape[1:])
    return pairs.transpose(1, 2).reshape(tensor.shape)


def _interleaved(tensor: Tensor, heads: int) -> Tensor:
    """The inverse of `_paired`."""
    rows = tensor.shape[0]
    halves = tensor.reshape(heads, 2, rows // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape)


def scattered(cfg: ModelConfig, names: Names, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Public tensors, as views of ours where the rows have our order. Raises UnsupportedModel for one of ours that the
    layout has no place for."""
    plan: Iterable[Piece] = list(pieces(cfg, names))
    if lost := sorted(ours.keys() - {piece.ours for piece in plan}):
        raise UnsupportedModel(
            f"the tensor {lost[0]} has no place in a public layout, so this model cannot be exported"
        )
    public = {}
    for piece in plan:
        part = ours[piece.ours][piece.index] if piece.index else ours[piece.ours]
        public[piece.theirs] = _interleaved(part, piece.heads) if piece.heads else part
    return public
