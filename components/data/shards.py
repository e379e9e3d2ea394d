"""Tokenised documents, packed and memory-mapped.

A folder of shards holds ``index.json`` and, per source and split, ``<source>-<split>-00000.safetensors`` files with

- ``tokens`` uint16 (uint32 from a vocabulary of 65,536 on): every document is ``bos`` and its ids, one after the other;
- ``offsets`` int64 [documents + 1]: document d is ``tokens[offsets[d]:offsets[d + 1]]``;
- ``source_ids`` uint16 [documents]: position of each document's source in the index.

A document is never cut at the end of a file. Files of one source and split form one stream, in order.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from components.data.tokenizer import Tokenizer

FORMAT = "lifespan-shards-1"
SPLITS = ("train", "valid")


class SplitDocument(Protocol):
    """What the packer needs of a document; `components.data.pipeline.PreparedDocument` is one."""

    @property
    def text(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def split(self) -> str: ...


@dataclass(frozen=True)
class ShardFile:
    file: str
    source: str
    split: str
    num_documents: int
    num_tokens: int
    num_bytes: int  # UTF-8 bytes of the text, bos excluded


@dataclass(frozen=True)
class ShardIndex:
    format: str
    dtype: str
    vocab_size: int
    bos_id: int
    sources: tuple[str, ...]
    files: tuple[ShardFile, ...]

    def count(self, what: str, source: str | None = None, split: str | None = None) -> int:
        """Sum of `num_tokens`, `num_documents` or `num_bytes` over the files of a source and split (None: all)."""
        chosen = (f for f in self.files if source in (None, f.source) and split in (None, f.split))
        return sum(int(getattr(f, what)) for f in chosen)


def write_shards(
    documents: Iterable[SplitDocument],
    tokenizer: Tokenizer,
    folder: str | Path,
    max_tokens_per_file: int = 64_000_000,
    batch_documents: int = 256,
) -> ShardIndex:
    """Tokenise and pack a stream of documents into `folder`; holds at most one open file a source and split in memory.

    Raises ValueError for a split other than train or valid, and when there is no document at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32)
    sources: dict[str, int] = {}
    open_files: dict[tuple[str, str], _OpenFile] = {}
    written: list[ShardFile] = []

    def flush(key: tuple[str, str]) -> None:
        number = sum(f.source == key[0] and f.split == key[1] for f in written)
        written.append(open_files.pop(key).save(folder, key, number, sources[key[0]], dtype))

    stream = iter(documents)
    while batch := list(islice(stream, batch_documents)):
        for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
            if document.split not in SPLITS:
                raise ValueError(
                    f"a document of {document.source!r} has split {document.split!r}; it takes train or valid"
                )
            sources.setdefault(document.source, len(sources))
            key = (document.source, document.split)
            current = open_files.setdefault(key, _OpenFile.empty())
            current.add(np.array([tokenizer.bos_id, *ids], dtype=dtype), len(document.text.encode()))
            if current.num_tokens >= max_tokens_per_file:
                flush(key)
    for key in list(open_files):
        flush(key)
    if not written:
        raise ValueError("no documents to pack: the corpus is empty after filtering")
    index = ShardIndex(
        format=FORMAT,
        dtype=dtype.name,
        vocab_size=tokenizer.vocab_size,
        bos_id=tokenizer.bos_id,
        sources=tuple(sources),
        files=tuple(sorted(written, key=lambda f: (sources[f.source], f.split, f.file))),
    )
    (folder / "index.json").write_text(json.dumps(asdict(index), indent=1) + "\n", encoding="utf-8")
    return index


@dataclass
class _OpenFile:
    pieces: list[npt.NDArray[Any]]
    num_tokens: int
    num_bytes: int

    @classmethod
    def empty(cls) -> _OpenFile:
        return cls([], 0, 0)

    def add(self, ids: npt.NDArray[Any], num_bytes: int) -> None:
        self.pieces.append(ids)
        self.num_tokens += len(ids)
        self.num_bytes += num_bytes

    def save(self, folder: Path, key: tuple[str, str], number: int, source_id: int, dtype: np.dtype[Any]) -> ShardFile:
        source, split = key
        name = f"{_file_name(source)}-{split}-{number:05d}.safetensors"
        tensors = {
            "tokens": np.concatenate(self.pieces).astype(dtype, copy=False),
            "offsets": np.concatenate([[0], np.cumsum([len(p) for p in self.pieces])]).astype(np.int64),
            "source_ids": np.full(len(self.pieces), source_id, dtype=np.uint16),
        }
        save_file(tensors, folder / name)  # no metadata: safetensors writes its fields in an order drawn anew each time
        return ShardFile(name, source, split, len(self.pieces), self.num_tokens, self.num_bytes)


def _file_name(source: str) -> str:
    """A source's name as part of a file name; names that had to change keep apart by a digest."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", source).lstrip(".") or "source"
    return plain if plain == source else f"{plain}-{hashlib.sha256(source.encode()).hexdigest()[:8]}"


class TokenShards:
    """Read side of a folder of shards. Files are memory-mapped: opening is instant and processes share the pages."""

    def __init__(self, folder: Path, index: ShardIndex) -> None:
        self.folder = folder
        self.index = index
        self._streams: dict[tuple[str, str], _Stream] = {}

    @classmethod
    def open(cls, folder: str | Path) -> TokenShards:
        """Open what `write_shards` wrote. A missing, foreign or shortened file raises naming it."""
        folder = Path(folder)
        path = folder / "index.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no token shards there")
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: not JSON ({error})") from error
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            found = raw.get("format") if isinstance(raw, dict) else type(raw).__name__
            raise ValueError(f"{path}: format is {found!r}, expected {FORMAT!r}")
        files = tuple(ShardFile(**entry) for entry in raw["files"])
        return cls(folder, ShardIndex(**(raw | {"files": files, "sources": tuple(raw["sources"])})))

    @property
    def sources(self) -> tuple[str, ...]:
        return self.index.sources

    def num_tokens(self, source: str | None = None, split: str | None = None) -> int:
        return self.index.count("num_tokens", source, split)

    def stream(self, source: str, split: str = "train") -> _Stream:
        """The tokens of one source and split as one array-like of files; empty when the split has no document."""
        if source not in self.index.sources:
            raise ValueError(f"no source {source!r} in {self.folder}; it has {', '.join(self.index.sources)}")
        key = (source, split)
        if key not in self._streams:
            files = [f for f in self.index.files if (f.source, f.split) == key]
            self._streams[key] = _Stream([_map(self.folder / f.file, f.num_tokens) for f in files])
        return self._streams[key]

    def documents(self, source: str, split: str = "train") -> Iterator[npt.NDArray[Any]]:
        """Each document's ids (bos first), in packing order, as views of the mapped file."""
        for tensors in self.stream(source, split).files:
            offsets = tensors["offsets"]
            for start, stop in pairwise(offsets.tolist()):
                yield tensors["tokens"][start:stop]


class _Stream:
    """Several mapped files read as one array of tokens."""

    def __init__(self, files: list[Mapping[str, npt.NDArray[Any]]]) -> None:
        self.files = files
        self._tokens = [f["tokens"] for f in files]
        self._starts = np.concatenate([[0], np.cumsum([len(t) for t in self._tokens])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """tokens[start:stop], 0 <= start <= stop <= len; a view where the range lies in one file."""
        if not 0 <= start <= stop <= len(self):
            raise IndexError(f"tokens {start}:{stop} of a stream of {len(self)}")
        if len(self._tokens) == 1:
            return self._tokens[0][start:stop]
        first = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        pieces = []
        for number in range(first, len(self._tokens)):
            base = int(self._starts[number])
            if base >= stop:
                break
            pieces.append(self._tokens[number][max(start - base, 0) : stop - base])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces) if pieces else np.empty(0, dtype=np.uint16)


_DTYPES = {"U16": np.uint16, "U32": np.uint32, "I64": np.int64}


def _map(path: Path, num_tokens: int) -> Mapping[str, npt.NDArray[Any]]:
    """Map a safetensors file: 8 bytes of header length, a JSON header, then the tensors (the format's own README).

    `safetensors` itself copies what it reads; a batch takes 32 windows of a file of gigabytes.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this token shard is listed in index.json but is not there")
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
        header_bytes = int(data[:8].view(np.uint64)[0])
        header = json.loads(bytes(data[8 : 8 + header_bytes]))
        arrays = {}
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = (8 + header_bytes + offset for offset in entry["data_offsets"])
                if stop > len(data):
                    raise ValueError(f"it ends at byte {len(data)}, before tensor {name!r} does")
                arrays[name] = np.asarray(data[start:stop]).view(_DTYPES[entry["dtype"]])
        if len(arrays["tokens"]) != num_tokens:
            raise ValueError(f"it holds {len(arrays['tokens'])} tokens where index.json says {num_tokens}")
    except (ValueError, KeyError, IndexError) as error:
        raise ValueError(f"{path}: damaged token shard: {error}; rebuild the shards") from error
    return arrays
