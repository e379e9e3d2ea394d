"""Points of stages that run: one file a stage in its state folder, a line a second, which goes away when the stage is
sealed. A stage that was killed leaves its file until it is made after all.

A line is a JSON object with `run_id`, `key`, `stage`, `label` and `began` (when the file did), and lists of equal
length: `step`, `name`, `value`, `time` (Unix seconds).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.home import Home
from storage.layout import literal, pattern

LIVE_FILE = "points.jsonl"
MOST_BYTES = 4 * 2**20  # of one read
_FIELDS = {"run_id", "key", "stage", "label", "began", "step", "name", "value", "time"}


@dataclass(frozen=True)
class LiveRead:
    """Whole lines of a live file, and the cursor from which the next read goes on. `afresh`: they are the first of the
    file, so what was read of an earlier attempt no longer counts."""

    lines: tuple[Mapping[str, Any], ...]
    cursor: str
    afresh: bool


def live_files(home: Home) -> list[Path]:
    """The live files of a home, by key."""
    return sorted((home.local / "scratch").glob(f"*/{LIVE_FILE}"))


def read_live(file: Path, cursor: str = "") -> LiveRead:
    """What came after `cursor`, whole lines alone and at most `MOST_BYTES`; all where the file began anew since.

    Raises FileNotFoundError when the stage is sealed.
    """
    began, _, text = cursor.partition("@")
    offset = int(text) if text.isdecimal() else 0
    with file.open("rb") as stream:
        first = next(_lines(stream.readline()), None)
        now = str(first["began"]) if first else ""
        if now != began:
            offset = 0
        stream.seek(offset)
        found = stream.read(MOST_BYTES)
    whole = found[: found.rfind(b"\n") + 1]
    return LiveRead(tuple(_lines(whole)), f"{now}@{offset + len(whole)}", offset == 0)


def _lines(content: bytes) -> Iterator[Mapping[str, Any]]:
    for line in content.splitlines():
        with suppress(ValueError):  # torn by a power cut
            parsed = json.loads(line)
            if isinstance(parsed, dict) and parsed.keys() >= _FIELDS:
                yield parsed


def select_live(files: list[Path]) -> str:
    """SELECT of the points in these files, with the columns of `metrics`; those of sealed keys are in `metrics`."""
    paths = ", ".join(literal(pattern(str(file))) for file in files)
    columns = (
        "{run_id: 'VARCHAR', key: 'VARCHAR', stage: 'VARCHAR', step: 'BIGINT[]', name: 'VARCHAR[]', "
        "value: 'DOUBLE[]', time: 'DOUBLE[]'}"
    )
    read = f"read_json([{paths}], format = 'newline_delimited', ignore_errors = true, columns = {columns})"
    unpacked = (
        "run_id, key, stage, unnest(step) AS step, unnest(name) AS name, unnest(value) AS value, "
        "make_timestamptz((unnest(time) * 1e6)::BIGINT) AS time"
    )
    return f"SELECT {unpacked} FROM {read} WHERE key NOT IN (SELECT key FROM metrics)"
