"""Spans that many documents share: boilerplate lines and paragraphs, and long runs of words.

Lines and paragraphs that stand in at least so many documents go from all of them (Penedo et al. 2023, arXiv 2306.01116,
section 3.2, remove such lines by a list of theirs). A run of words that stands in more than one document stays in one
(Lee et al. 2022, arXiv 2107.06499, section 4.2, with runs of 50 tokens): in that with the smallest content hash,
whatever the order.

Two looks at the texts: the first counts hashes in a table of fixed size, which can only count too many; the second
counts exactly what the table calls frequent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_TABLE_BITS = 25
_WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class RepeatedConfig:
    """0 switches a kind off. lines, paragraphs: in how many documents one stands that goes. words: length of the
    runs."""

    lines: int = 6
    paragraphs: int = 3
    words: int = 50
    min_chars: int = 12  # of a line or paragraph

    def __post_init__(self) -> None:
        if min(self.lines, self.paragraphs, self.words) < 0 or 1 in (self.lines, self.paragraphs) or 0 < self.words < 8:
            raise ValueError(f"{self}: lines and paragraphs take 0 or from 2 up, words 0 or from 8 up")


def without_repeated(texts: Callable[[], Iterable[tuple[str, bytes]]], config: RepeatedConfig) -> Iterator[str]:
    """Each text without what it shares. `texts`: called three times, gives the texts with their content hashes."""
    table = np.zeros(1 << _TABLE_BITS, dtype=np.uint16)
    for text, _ in texts():
        for kind in _KINDS:
            hashes = np.unique(_hashes(text, kind, config))
            places = hashes & np.uint64((1 << _TABLE_BITS) - 1)
            table[places] = np.minimum(table[places], 65_534) + 1
    exact: dict[tuple[str, int], tuple[int, bytes]] = {}  # number of documents, smallest content hash
    for text, digest in texts():
        for kind, least in _limits(config).items():
            hashes = np.unique(_hashes(text, kind, config))
            often = hashes[table[hashes & np.uint64((1 << _TABLE_BITS) - 1)] >= least]
            for one in often.tolist():
                count, least_digest = exact.get((kind, one), (0, digest))
                exact[kind, one] = count + 1, min(least_digest, digest)
    for text, digest in texts():
        yield _cut(text, digest, config, exact)


_KINDS = ("line", "paragraph", "words")


def _limits(config: RepeatedConfig) -> dict[str, int]:
    return {"line": config.lines, "paragraph": config.paragraphs, "words": 2}


def _hash(span: str) -> int:
    return int.from_bytes(hashlib.blake2b(span.encode("utf-8", "replace"), digest_size=8).digest(), "little")


def _parts(text: str, kind: str, config: RepeatedConfig) -> list[str]:
    """The spans of a text in order; joined by their separator they are the text."""
    return text.split("\n" if kind == "line" else "\n\n")


def _hashes(text: str, kind: str, config: RepeatedConfig) -> npt.NDArray[np.uint64]:
    if kind == "words":
        return _runs([word.casefold() for word in _WORD.findall(text)], config.words)
    if not (config.lines if kind == "line" else config.paragraphs):
        return np.zeros(0, dtype=np.uint64)
    spans = (part.strip().casefold() for part in _parts(text, kind, config))
    return np.array([_hash(kind + span) for span in spans if len(span) >= config.min_chars], dtype=np.uint64)


def _runs(words: Sequence[str], size: int) -> npt.NDArray[np.uint64]:
    """A polynomial hash of every run of `size` words."""
    if not size or len(words) < size:
        return np.zeros(0, dtype=np.uint64)
    ids = np.array([_hash(word) for word in words], dtype=np.uint64)
    factor = np.uint64(0x9E3779B97F4A7C15)
    out = np.zeros(len(words) - size + 1, dtype=np.uint64)
    for place in range(size):
        out = out * factor + ids[place : place + len(out)]
    return (out ^ (out >> np.uint64(31))) * np.uint64(0xD6E8FEB86659FD93) >> np.uint64(1)


def _cut(text: str, digest: bytes, config: RepeatedConfig, exact: dict[tuple[str, int], tuple[int, bytes]]) -> str:
    for kind, joint in (("paragraph", "\n\n"), ("line", "\n")):
        least = _limits(config)[kind]
        if least:
            kept = []
            for part in text.split(joint):
                span = part.strip().casefold()
                found = exact.get((kind, _hash(kind + span))) if len(span) >= config.min_chars else None
                if not found or found[0] < least:
                    kept.append(part)
            text = joint.join(kept)
    if config.words:
        matches = list(_WORD.finditer(text))
        hashes = _runs([match[0].casefold() for match in matches], config.words)
        gone = np.zeros(len(matches), dtype=np.bool_)
        for start, one in enumerate(hashes.tolist()):
            found = exact.get(("words", one))
            if found and found[0] > 1 and found[1] != digest:
                gone[start : start + config.words] = True
        if gone.any():
            edges = np.flatnonzero(np.diff(np.concatenate([[False], gone, [False]]).astype(np.int8)))
            for first, last in zip(edges[-2::-2].tolist(), edges[::-2].tolist(), strict=True):
                text = text[: matches[first].start()] + text[matches[last - 1].end() :]
    return text.strip()
