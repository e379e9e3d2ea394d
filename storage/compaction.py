"""Merges part files: sorted, so that a query for one curve of one run reads little; with a file of last values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pyarrow as pa

from storage.layout import LAST_VALUES, Layout, identifier, literal, pattern, select

# Row groups are skipped by the range of their values: curves are queried by name, then by run.
_ORDER = {"metrics": ("name", "run_id", "key", "step")}
_ROW_GROUP = 122_880  # DuckDB's own: one thread's portion
_MEMORY = "2GB"


def merge(layout: Layout, schema: pa.Schema, target: Path, metadata: Mapping[str, str]) -> None:
    """Write the rows of a table into one Parquet file, sorted, with a column `part` for where each came from.

    Args:
        layout: the table's files.
        schema: its columns.
        target: the file to write; its folder takes what does not fit into memory while sorting.
        metadata: for the file's footer.
    """
    order = _ORDER.get(target.parent.name, tuple(name for name in ("run_id", "key") if name in schema.names))
    names = ", ".join(identifier(name) for name in (*schema.names, "part"))
    rows = f"SELECT {names} FROM ({select(layout, schema, origin=True)})"
    by = ", ".join([*(identifier(name) for name in order), "part", "file_row_number"])
    _copy(f"{rows} ORDER BY {by}", target, metadata)


def merge_last_values(rows: Path, target: Path) -> None:
    """Write the last value of each metric of each part of `rows`, the merged file of `metrics`."""
    keys = "part, run_id, key, stage, name"
    points = f"SELECT {keys}, step, value, time, 1 AS n FROM read_parquet({literal(pattern(str(rows)))})"
    _copy(f"SELECT {keys}, {LAST_VALUES} FROM ({points}) GROUP BY {keys} ORDER BY name, run_id", target, {})


def _copy(sql: str, target: Path, metadata: Mapping[str, str]) -> None:
    footer = ", ".join(f"{literal(name)}: {literal(text)}" for name, text in metadata.items())
    options = f"FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {_ROW_GROUP}"
    if footer:
        options += f", KV_METADATA {{{footer}}}"
    with _connection(target.parent / "spill") as connection:
        connection.execute(f"COPY ({sql}) TO {literal(str(target))} ({options})")


@contextlib.contextmanager
def _connection(spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": _MEMORY,
        "temp_directory": str(spill),
    }
    connection = duckdb.connect(":memory:", config=config)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()
