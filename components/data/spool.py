"""Documents on their way, on disk: part by part, each whole or not there, so that a reading that was killed goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.data.document import Document

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("text", "source", "id", "origin", "language")),
        ("language_score", pa.float32()),
        ("digest", pa.binary(16)),
    ]
)
_BATCH = 512


class Spool:
    """A folder of parts `part-00000.arrow`, and `state.json`, which is written after each part and says how many
    count."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._state = folder / "state.json"

    def state(self) -> dict[str, Any]:
        """What was saved with the last part; empty when there is none."""
        return json.loads(self._state.read_text(encoding="utf-8")) if self._state.exists() else {}

    def write(self, part: int, documents: Sequence[Document], digests: Sequence[bytes], state: dict[str, Any]) -> None:
        """Write a part, then the state that makes it count."""
        columns = {
            name: [getattr(document, name) for document in documents] for name in _SCHEMA.names if name != "digest"
        }
        table = pa.table({**columns, "digest": list(digests)}, schema=_SCHEMA)
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_file(str(self._part(part)), _SCHEMA, options=options) as writer:
            writer.write_table(table, max_chunksize=_BATCH)
        temporary = self._state.with_suffix(".tmp")
        temporary.write_text(json.dumps({**state, "parts": part + 1}), encoding="utf-8")
        os.replace(temporary, self._state)  # noqa: PTH105 - the same folder: atomic

    def batches(self) -> Iterator[tuple[list[Document], list[bytes]]]:
        """Some hundred documents at a time with their content hashes, in the order in which they were written."""
        for columns in self.columns(*_SCHEMA.names):
            digests = columns.pop("digest")
            yield [Document(*row) for row in zip(*columns.values(), strict=True)], digests

    def columns(self, *names: str) -> Iterator[dict[str, list[Any]]]:
        """As `batches`: these columns alone, the others are not read."""
        options = pa.ipc.IpcReadOptions(included_fields=[_SCHEMA.get_field_index(name) for name in names])
        for part in range(self.state().get("parts", 0)):
            with pa.OSFile(str(self._part(part))) as file:
                reader = pa.ipc.open_file(file, options=options)
                for number in range(reader.num_record_batches):
                    batch = reader.get_batch(number)
                    yield {name: batch.column(name).to_pylist() for name in names}

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.arrow"
