"""The GGUF container (github.com/ggml-org/ggml, docs/gguf.md): little-endian, versions 2 and 3, metadata then tensors.

The `gguf` package knows the quantisations and undoes them. Its own reader makes an array of every byte of metadata,
which takes seconds for a vocabulary of 50,000 tokens; this one takes a tenth of one.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.model.hub.errors import UnsupportedModel
from components.model.hub.source import gguf_shards, refuse_placeholder

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_MOST = 1 << 28  # entries or bytes of one value: more is a damaged count


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies. shape: as torch counts axes, the one that runs fastest last. kind: number of its type.
    start: byte of the file; shard: number of the file, from 0."""

    shape: tuple[int, ...]
    kind: int
    start: int
    shard: int = 0


class GGUFFile:
    """A GGUF model, opened and mapped: metadata by name, tensors one at a time.

    A model that llama.cpp split into several files is given by any one of them; the first one's metadata count.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, StoredTensor] = {}
        self._shards: list[mmap.mmap] = []
        self._paths = gguf_shards(path)
        for number, shard in enumerate(self._paths):
            refuse_placeholder(shard)
            try:
                with shard.open("rb") as stream:
                    self._shards.append(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
                metadata = self._read_head(number)
            except (ValueError, struct.error, IndexError, KeyError, OverflowError) as error:
                raise UnsupportedModel(f"{shard}: not a GGUF file, or damaged: {error}") from error
            self._check_split(shard, number, metadata)
            self.metadata = metadata | self.metadata
        total = self.metadata.get("split.tensors.count")
        if len(self._paths) > 1 and isinstance(total, int) and total != len(self.tensors):
            raise UnsupportedModel(f"{path}: the split files hold {len(self.tensors)} tensors, the first says {total}")

    def _check_split(self, shard: Path, number: int, metadata: Mapping[str, Any]) -> None:
        """Whether a file is the one of several that its name says."""
        count, place = metadata.get("split.count", 1), metadata.get("split.no", 0)
        if len(self._paths) == 1 and count in (0, 1):
            return
        if (count, place) != (len(self._paths), number):
            raise UnsupportedModel(
                f"{shard}: split file {place} (from 0) of {count}, which its name does not say: name the files "
                f"NAME-00001-of-{count:05d}.gguf and so on, as llama.cpp does, in one folder"
            )

    def get(self, name: str, default: Any = None) -> Any:
        """A metadata value: number, text, bool, or a list of these."""
        return self.metadata.get(name, default)

    def read(self, name: str) -> Tensor:
        """One tensor as float32, dequantised. Raises UnsupportedModel for a type that cannot be read."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
        from gguf.quants import dequantize

        stored = self.tensors[name]
        try:
            kind = GGMLQuantizationType(stored.kind)
            block, block_bytes = GGML_QUANT_SIZES[kind]
            width = stored.shape[-1] // block * block_bytes
            rows = prod(stored.shape[:-1])
            held = self._shards[stored.shard]
            if stored.shape[-1] % block or stored.start + rows * width > len(held):
                raise ValueError("it does not fit into the file")
            data = np.frombuffer(held, np.uint8, rows * width, stored.start).reshape(rows, width)
            plain = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind)
            values = dequantize(data, kind) if plain is None else data.view(plain)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise UnsupportedModel(f"{self.path}: {name} is of the type {stored.kind}: {error}") from error
        return torch.from_numpy(np.require(values, np.float32, "W").reshape(stored.shape))

    def _read_head(self, shard: int) -> dict[str, Any]:
        """The metadata of one file, whose tensors are noted."""
        self._bytes = self._shards[shard]
        if self._bytes[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version, num_tensors, num_values, at = *struct.unpack_from("<IQQ", self._bytes, 4), 24
        if version not in (2, 3):
            raise ValueError(f"version {version}; versions 2 and 3 are read")
        metadata: dict[str, Any] = {}
        for _ in range(num_values):
            name, at = self._text(at)
            kind = int(struct.unpack_from("<I", self._bytes, at)[0])
            metadata[name], at = self._value(kind, at + 4)
        stored = []
        for _ in range(num_tensors):
            name, at = self._text(at)
            num_axes = int(struct.unpack_from("<I", self._bytes, at)[0])
            *axes, kind, offset = struct.unpack_from(f"<{num_axes}QIQ", self._bytes, at + 4)
            at += 16 + 8 * num_axes
            if not axes or prod(axes) > 8 * len(self._bytes):
                raise ValueError(f"{name} has the shape {axes}, more than the file has bits")
            stored.append((name, tuple(reversed(axes)), kind, offset))
        alignment = int(metadata.get("general.alignment", 32))
        start = -(-at // alignment) * alignment
        for name, shape, tensor_kind, offset in stored:
            if name in self.tensors:
                raise ValueError(f"{name} is there twice")
            self.tensors[name] = StoredTensor(shape, tensor_kind, start + offset, shard)
        return metadata

    def _text(self, at: int) -> tuple[str, int]:
        size = int(struct.unpack_from("<Q", self._bytes, at)[0])
        end = at + 8 + size
        if size > _MOST or end > len(self._bytes):
            raise ValueError("a text is longer than the file")
        return self._bytes[at + 8 : end].decode("utf-8", errors="replace"), end

    def _value(self, kind: int, at: int) -> tuple[Any, int]:
        if kind == _TEXT:
            return self._text(at)
        if kind != _LIST:
            code = f"<{_SCALARS[kind]}"
            return struct.unpack_from(code, self._bytes, at)[0], at + struct.calcsize(code)
        inner, count = struct.unpack_from("<IQ", self._bytes, at)
        at += 12
        if count > _MOST:
            raise ValueError(f"a list of {count} entries")
        if inner in _SCALARS:
            code = f"<{count}{_SCALARS[inner]}"
            return list(struct.unpack_from(code, self._bytes, at)), at + struct.calcsize(code)
        values = []
        for _ in range(count):
            value, at = self._value(inner, at)
            values.append(value)
        return values, at
