"""Exact and near duplicates. Which copy of a group survives depends on the copies alone, not on the order of the input.

Near duplicates: MinHash (Broder 1997) over word 3-grams with banded LSH (Leskovec, Rajaraman and Ullman, "Mining of
Massive Datasets", section 3.4). Two documents of Jaccard similarity s meet in at least one of b bands of r rows with
probability 1 - (1 - s^r)^b; candidates are then compared exactly, so that banding decides only what may be missed.
Groups are the connected components (union-find).

Own signatures instead of datasketch: 10,000 documents of 400 characters took 0.6 s of CPU here and 6.4 s there.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from components.data.filters.words import shingle_words

_U64 = npt.NDArray[np.uint64]
_CHUNK_SHINGLES = 1 << 14
_BATCH_DOCUMENTS = 512
_MAX_WORDS = 1 << 20  # whose hashes are remembered
_SHINGLES_KEPT = 4096  # documents whose shingles are kept for the next comparison


@dataclass(frozen=True)
class DedupConfig:
    """`bands` x `rows` is the number of hash functions.

    Editing 3% of the words of a text changes up to 9% of its 3-grams, a similarity of about 0.83, which 24 x 6 finds
    with a probability above 0.9999; at the threshold itself it is 0.95.
    """

    threshold: float = 0.7  # Jaccard similarity of the sets of n-grams from which two documents are the same
    ngram: int = 3  # words
    bands: int = 24
    rows: int = 6
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1 or min(self.ngram, self.bands, self.rows) < 1:
            raise ValueError(f"{self}: threshold must lie in (0, 1], and ngram, bands and rows be at least 1")


def content_hash(text: str) -> bytes:
    """16 bytes that equal texts share, whatever their case and spacing."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode("utf-8", "replace"), digest_size=16).digest()


def near_duplicates(texts: Iterable[str], config: DedupConfig | None = None) -> dict[int, int]:
    """Index of each near duplicate -> index of the document of its group that stays: the longest, and of several the
    one with the smallest content hash."""
    lengths: list[int] = []
    digests: list[bytes] = []
    stream = iter(texts)
    with tempfile.TemporaryDirectory() as scratch, NearDuplicates(Path(scratch), config or DedupConfig()) as search:
        while batch := list(islice(stream, _BATCH_DOCUMENTS)):
            search.add(batch)
            lengths += map(len, batch)
            digests += map(content_hash, batch)
        return search.groups(lengths, b"".join(digests))


class NearDuplicates:
    """Takes texts batch by batch; what grows with them lies in files of `scratch`, but for some 50 bytes a document."""

    def __init__(self, scratch: Path, config: DedupConfig) -> None:
        self._config = config
        self._bands = [scratch / f"band-{band:03d}" for band in range(config.bands)]
        self._files: list[BinaryIO] = [path.open("wb") for path in self._bands]
        self._shingles: BinaryIO = (scratch / "shingles").open("w+b")
        self._ends = array("q", [0])  # of each document's shingles in their file
        self._hashes: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (*self._files, self._shingles):
            file.close()

    def add(self, texts: Sequence[str]) -> None:
        """The next documents, numbered on."""
        config = self._config
        shingles = _shingles(texts, config.ngram, self._hashes)
        signatures = _signatures(shingles, config.bands * config.rows, config.seed)
        for band, file in enumerate(self._files):
            file.write(_row_hash(signatures[:, band * config.rows : (band + 1) * config.rows]).tobytes())
        for one in shingles:
            self._shingles.write(one.tobytes())
            self._ends.append(self._shingles.tell() // 8)

    def groups(self, lengths: Sequence[int], digests: bytes) -> dict[int, int]:
        """Index of each near duplicate -> index of the one that stays, given each document's length and, end to end,
        their content hashes."""
        count = len(self._ends) - 1
        halves = np.frombuffer(digests, dtype=">u8").reshape(count, 2)
        # Everything below speaks of places in this order, which is the same however the documents came.
        order = np.lexsort((halves[:, 1], halves[:, 0], -np.asarray(lengths, dtype=np.int64)))
        parent = np.arange(count)
        self._shingles.flush()
        read = lru_cache(_SHINGLES_KEPT)(self._read)
        for file, path in zip(self._files, self._bands, strict=True):
            file.flush()
            keys = np.fromfile(path, dtype=np.uint64)[order]
            by_key = np.argsort(keys, kind="stable")
            same = np.flatnonzero(keys[by_key][1:] == keys[by_key][:-1])
            first = previous = -1
            for place in same.tolist():
                one, other = int(by_key[place]), int(by_key[place + 1])
                first = one if one != previous else first
                previous = other
                # Against the bucket's first and the neighbour: chains are found without comparing all of a bucket.
                for left in {first, one}:
                    a, b = _find(parent, left), _find(parent, other)
                    if a == b:
                        continue
                    if _jaccard(read(int(order[left])), read(int(order[other]))) >= self._config.threshold:
                        parent[max(a, b)] = min(a, b)
        roots = ((place, _find(parent, place)) for place in range(count))
        return {int(order[place]): int(order[root]) for place, root in roots if root != place}

    def _read(self, document: int) -> _U64:
        start, stop = self._ends[document], self._ends[document + 1]
        self._shingles.seek(8 * start)
        return np.unique(np.frombuffer(self._shingles.read(8 * (stop - start)), dtype=np.uint64))


def _find(parent: npt.NDArray[np.int64], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def _jaccard(a: _U64, b: _U64) -> float:
    """Of two sorted sets."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _shingles(texts: Iterable[str], ngram: int, known: dict[str, int] | None = None) -> list[_U64]:
    """Hashes of each text's word n-grams in order, repeats included; a text shorter than n is one shingle.

    `known`: hashes of words seen before, to spare hashing them again.
    """
    known = {} if known is None else known
    out: list[_U64] = []
    stream = iter(texts)
    while batch := list(islice(stream, _BATCH_DOCUMENTS)):
        # One flat array for many documents: numpy's cost a call is that of some hundred words.
        words = pc.ascii_split_whitespace(pa.array(list(map(_spaced_words, batch)), pa.string()))
        lengths = np.diff(words.offsets.to_numpy()).astype(np.int64)
        flat = words.flatten().dictionary_encode()
        if len(known) > _MAX_WORDS:
            known.clear()
        vocabulary = flat.dictionary.to_pylist()
        for word in vocabulary:
            if word not in known:
                digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest()
                known[word] = int.from_bytes(digest, "little")
        ids = np.array([known[word] for word in vocabulary], dtype=np.uint64)[flat.indices.to_numpy()]
        ids = np.concatenate([ids, np.zeros(ngram, dtype=np.uint64)])
        hashes = _mix(ids[: len(flat)])
        ends = np.repeat(np.cumsum(lengths), lengths) - np.arange(len(flat))  # words from here to the document's end
        for place in range(1, ngram):
            hashes = np.where(ends > place, _mix(hashes * _ODD + ids[place : place + len(flat)]), hashes)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        out += [hashes[start : max(stop - ngram + 1, start + 1)] for start, stop in pairwise(starts.tolist())]
    return out


# Of ASCII, all that belongs to no word.
_BLANKS = str.maketrans({chr(code): " " for code in range(128) if not (chr(code).isalnum() or chr(code) == "_")})


def _spaced_words(text: str) -> str:
    """The words of `shingle_words` with blanks between them; of a text without any its signs as one word."""
    spaced = text.lower().translate(_BLANKS).strip() if text.isascii() else " ".join(shingle_words(text))
    return spaced or "".join(text.split()).encode("utf-8", "replace").decode()


def _signatures(shingles: Sequence[_U64], num_hashes: int, seed: int) -> npt.NDArray[np.uint32]:
    """[documents, num_hashes]: minima of a x + b modulo 2^32, with a odd, of the upper halves of the shingles.

    The shingles are mixed already; numbers of 32 bits are multiplied eight at a time where those of 64 bits are not.
    """
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 1 << 32, num_hashes, dtype=np.uint32) | np.uint32(1)
    b = rng.integers(0, 1 << 32, num_hashes, dtype=np.uint32)
    out = np.empty((len(shingles), num_hashes), dtype=np.uint32)
    start = 0
    while start < len(shingles):
        # As many documents as fit a block of the cache.
        stop, size = start, 0
        while stop < len(shingles) and (stop == start or size + len(shingles[stop]) <= _CHUNK_SHINGLES):
            size += len(shingles[stop])
            stop += 1
        lengths = [len(s) for s in shingles[start:stop]]
        block = (np.concatenate(shingles[start:stop]) >> np.uint64(32)).astype(np.uint32)
        hashed = np.empty_like(block)
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        for function in range(num_hashes):
            np.multiply(block, a[function], out=hashed)
            hashed += b[function]
            out[start:stop, function] = np.minimum.reduceat(hashed, starts)
        start = stop
    return out


def _row_hash(rows: npt.NDArray[np.uint32]) -> _U64:
    out = np.zeros(len(rows), dtype=np.uint64)
    for column in range(rows.shape[1]):
        out = _mix(out * _ODD + rows[:, column])
    return out


_ODD = np.uint64(0xD6E8FEB86659FD93)


def _mix(x: _U64) -> _U64:
    """One multiply-xorshift round; the arrays wrap modulo 2^64."""
    x = (x ^ (x >> np.uint64(32))) * _ODD
    return x ^ (x >> np.uint64(29))
