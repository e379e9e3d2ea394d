"""Toy stages that are given addresses with passwords in them: one reads from such a place, one fails there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from components.data.sources import Document, SourceConfig, read_source
from flows.engine.stage import stage
from flows.engine.work import Work
from flows.settings import Settings


@dataclass(frozen=True)
class Counted:
    num_documents: int
    place: str


class SecretConfig(Settings):
    path: str = ""
    bucket: str = ""


@stage(produces="corpus", group="data")
def read(work: Work, *, source: SourceConfig) -> Counted:
    """Counts the documents of a source and keeps what it rejects."""
    count = 0
    for item in read_source(source):
        if isinstance(item, Document):
            count += 1
        else:
            work.rows(
                "quarantine", [{"source": item.source, "file": item.file, "line": item.line, "reason": item.reason}]
            )
    return Counted(count, source.path)


@stage(produces="corpus", group="data")
def refuse(work: Work, *, path: str) -> Counted:
    """Fails as a library would: with the address and the key in its message."""
    keys = f"{os.environ['HF_TOKEN']}, {os.environ['AWS_SECRET_ACCESS_KEY']} or {os.environ['LIFESPAN_WEBHOOK']}"
    raise RuntimeError(f"{path} refused the key {keys}")


def secret_graph(cfg: Any, run: Any) -> None:
    read.submit(run, source=SourceConfig("notes", "jsonl", cfg.path))
    refuse.submit(run, path=cfg.bucket)
