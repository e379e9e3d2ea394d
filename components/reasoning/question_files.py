"""The items of evaluation sets as Parquet rows; apart from how they are judged, which no stage of data depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("set", "id", "question", "prompt", "answer", "metadata_json", "file")]
    + [("line", pa.int64())]
)


@dataclass(frozen=True)
class Question:
    """One item of a set. question: what training data must not hold; prompt: what the user says."""

    set: str
    id: str
    question: str
    prompt: str
    answer: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    line: int = 0


def write_questions(file: Path, questions: Sequence[Question]) -> None:
    """As Parquet, a row an item."""
    rows = [
        {
            "set": q.set,
            "id": q.id,
            "question": q.question,
            "prompt": q.prompt,
            "answer": q.answer,
            "metadata_json": json.dumps(dict(q.metadata), ensure_ascii=False, default=str),
            "file": q.file,
            "line": q.line,
        }
        for q in questions
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")


def read_questions(file: Path) -> list[Question]:
    """The inverse of `write_questions`."""
    return [
        Question(
            row["set"],
            row["id"],
            row["question"],
            row["prompt"],
            row["answer"],
            json.loads(row["metadata_json"]),
            row["file"],
            row["line"],
        )
        for row in pq.read_table(file).to_pylist()
    ]
