"""The corpus as a file: Parquet with a row for each document, or passage of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.document import whole_of

CORPUS_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "source", "split", "text")])


@dataclass(frozen=True)
class PreparedDocument:
    text: str
    source: str
    id: str
    split: str  # train or valid


def split_of(document_id: str, valid_share: float) -> str:
    """``valid`` for the share of documents whose hash falls below it, else ``train``.

    A function of the whole document's id alone: its passages stay together, and no other document has a say.
    """
    digest = hashlib.blake2b(whole_of(document_id).encode("utf-8", "replace"), digest_size=8).digest()
    return "valid" if int.from_bytes(digest, "big") < valid_share * 2**64 else "train"


class CorpusWriter:
    """Writes documents as they come, some thousand at a time."""

    def __init__(self, file: str | Path, rows_per_group: int = 4096) -> None:
        self._writer = pq.ParquetWriter(file, CORPUS_SCHEMA, compression="zstd")
        self._rows_per_group = rows_per_group
        self._rows: list[dict[str, str]] = []
        self.count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()

    def write(self, document: PreparedDocument) -> None:
        self._rows.append({name: getattr(document, name) for name in CORPUS_SCHEMA.names})
        self.count += 1
        if len(self._rows) == self._rows_per_group:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, CORPUS_SCHEMA))
            self._rows = []


def write_corpus(documents: Iterable[PreparedDocument], file: str | Path, rows_per_group: int = 4096) -> int:
    """Write documents as Parquet (id, source, split, text); returns how many."""
    with CorpusWriter(file, rows_per_group) as writer:
        for document in documents:
            writer.write(document)
        return writer.count


def read_corpus(file: str | Path, source: str | None = None, split: str | None = None) -> Iterator[PreparedDocument]:
    """Stream what was written, in order; only one source or split when named."""
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(batch_size=4096, columns=CORPUS_SCHEMA.names):
            for row in batch.to_pylist():
                if source in (None, row["source"]) and split in (None, row["split"]):
                    yield PreparedDocument(**row)
