"""Preference files and answers to judge, into a home and out of it. Rejected lines go to the table `quarantine`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from components.rlhf.formats import FORMATS, Imported, read_answers, read_file, write_file
from components.rlhf.judgements import batch_id
from components.rlhf.preferences import LeftOut, read_preferences, write_preferences
from flows.settings import ConfigError
from storage import durable
from storage.home import Home


@dataclass(frozen=True)
class Exported:
    """How many lines were written, from how many preferences, and which source those came from."""

    lines: int
    preferences: int
    source: object


def import_preferences(home: Home, file: Path, max_prompt_chars: int) -> tuple[Imported, Path]:
    """Check a file of preferences and keep its good lines as Parquet in the home; what was read, and that file.

    Raises ConfigError for a file of no known format.
    """
    try:
        found = read_file(file, max_prompt_chars)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    with file.open("rb") as stream:
        key = hashlib.file_digest(stream, "sha256").hexdigest()
    kept = home.local / "preferences" / f"{file.stem}-{key[:12]}.parquet"
    with durable.replacing(kept) as temporary:
        whole = temporary.with_suffix(".parquet")
        write_preferences(whole, found.preferences)
        whole.replace(temporary)
    _quarantine(home, key, found.left_out)
    return found, kept


def export_preferences(home: Home, file: Path, format: str, name: str) -> Exported:
    """Write the newest collected preferences to a .jsonl or .parquet file. `name`: of their file in the artifact.

    Raises ConfigError for an unknown format or file type, or when no preferences were collected yet.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format {format}: takes {', '.join(FORMATS)}")
    made = home.store.latest("collect_preferences")
    if made is None:
        raise ConfigError("no preferences were collected yet: `lifespan run --only collect_preferences`")
    pairs, _ = read_preferences(home.store.path(made.artifact) / name)
    try:
        lines = write_file(file, pairs, format)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Exported(lines, len(pairs), made.artifact.facts.get("source"))


def publish_answers(home: Home, file: Path, overlap: int) -> tuple[int, Sequence[LeftOut]]:
    """Let annotators judge the prompts and answers of a file; the number of prompts, and the rejected lines.

    Raises ConfigError for a file that holds none.
    """
    try:
        items, left_out = read_answers(file)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    batch = batch_id(items)
    home.annotations.publish(batch, file.name, overlap, [item.to_json() for item in items])
    _quarantine(home, batch, left_out)
    return len(items), left_out


def _quarantine(home: Home, key: str, left_out: Sequence[LeftOut]) -> None:
    rows = [
        {"run_id": "import", "key": key, "source": bad.source, "file": bad.file, "line": bad.line,
         "reason": bad.reason, "excerpt": bad.excerpt}
        for bad in left_out
    ]  # fmt: skip
    home.tables.write("quarantine", f"import-{key[:32]}", rows)
