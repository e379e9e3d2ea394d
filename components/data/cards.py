"""What a corpus is made of, source by source: a data card's facts, and a random sample."""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.data.document import Document, whole_of
from components.data.personal import mask_personal
from components.data.source_config import SourceConfig

SAMPLES = 100  # documents of each source in the table `documents`
_EXCERPT_CHARS = 200
LENGTH_EDGES = (250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000)  # characters


@dataclass(frozen=True)
class SampledDocument:
    """A row of the table `documents`: drawn by the hash of its id, so that every document has the same chance."""

    source: str
    document_id: str
    origin: str
    split: str
    language: str
    language_score: float
    chars: int
    excerpt: str


@dataclass(frozen=True)
class SourceCard:
    """What is left of a source.

    num_whole: whole documents, of which num_documents counts the passages. lengths: documents by characters, up to each
    of LENGTH_EDGES and above them.
    """

    source: str
    kind: str
    licence: str
    weight: float
    num_documents: int
    num_whole: int
    num_bytes: int
    num_valid: int
    languages: Mapping[str, int]
    lengths: tuple[int, ...]
    sample: tuple[SampledDocument, ...]


class SourceCards:
    def __init__(self, sources: Sequence[SourceConfig]) -> None:
        self._sources = sources
        self._documents: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._valid: Counter[str] = Counter()
        self._whole: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        self._languages: dict[str, Counter[str]] = {source.name: Counter() for source in sources}
        self._lengths: dict[str, list[int]] = {source.name: [0] * (len(LENGTH_EDGES) + 1) for source in sources}
        self._samples: dict[str, list[tuple[int, int, SampledDocument]]] = {source.name: [] for source in sources}

    def add(self, document: Document, split: str) -> int:
        """Count a document of the corpus; returns its bytes."""
        name, size, chars = document.source, len(document.text.encode()), len(document.text)
        self._documents[name] += 1
        self._bytes[name] += size
        self._valid[name] += split == "valid"
        self._languages[name][document.language] += 1
        self._lengths[name][sum(chars > edge for edge in LENGTH_EDGES)] += 1
        whole = whole_of(document.id)
        if whole != self._last.get(name):  # passages of one document stand one after the other
            self._whole[name] += 1
            self._last[name] = whole
        # The smallest hashes are a random sample, whatever the order and however many come.
        rank = -int.from_bytes(hashlib.blake2b(b"sample" + document.id.encode(), digest_size=8).digest(), "big")
        heap = self._samples[name]
        if len(heap) < SAMPLES or rank > heap[0][0]:
            excerpt = mask_personal(document.text[: 2 * _EXCERPT_CHARS])[0][:_EXCERPT_CHARS].strip()
            row = SampledDocument(
                name, document.id, document.origin, split, document.language, document.language_score, chars, excerpt
            )
            (heapq.heappushpop if len(heap) == SAMPLES else heapq.heappush)(heap, (rank, self._documents[name], row))
        return size

    def has_training_text(self, name: str) -> bool:
        return self._documents[name] > self._valid[name]

    def made(self) -> tuple[SourceCard, ...]:
        return tuple(
            SourceCard(
                source=source.name,
                kind=source.kind,
                licence=source.terms,
                weight=source.weight,
                num_documents=self._documents[source.name],
                num_whole=self._whole[source.name],
                num_bytes=self._bytes[source.name],
                num_valid=self._valid[source.name],
                languages=dict(self._languages[source.name].most_common()),
                lengths=tuple(self._lengths[source.name]),
                sample=tuple(row for _, _, row in sorted(self._samples[source.name], reverse=True)),
            )
            for source in self._sources
        )
