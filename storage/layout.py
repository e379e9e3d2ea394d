"""Which Parquet files make up a table at a moment, and the SQL with which DuckDB reads them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

COMPACTED = re.compile(r"compacted-(\d{6,})\.parquet")
_SQL_TYPES = {
    pa.string(): "VARCHAR",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.bool_(): "BOOLEAN",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
}


@dataclass(frozen=True)
class Layout:
    """The files of one table.

    Attributes:
        parts: addresses of the files that stand by themselves.
        merged: address of the newest compacted file.
        merged_columns: its columns; an older one may lack some.
        outdated: parts that were merged and written again since: their merged rows no longer count.
        last_values: address of the merged rows' last values (of `metrics` only).
    """

    parts: tuple[str, ...] = ()
    merged: str | None = None
    merged_columns: tuple[str, ...] = ()
    outdated: tuple[str, ...] = ()
    last_values: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All addresses that a query of this table may open."""
        return (*self.parts, *(file for file in (self.merged, self.last_values) if file))


def select(layout: Layout, schema: pa.Schema, *, origin: bool = False) -> str:
    """SELECT of a table's rows; a column that a file lacks is null there.

    Args:
        layout: its files.
        schema: its columns.
        origin: add `part`, the producer of a row, and `file_row_number`, its place in its file.
    """
    sources = []
    if layout.parts:
        names = ", ".join(identifier(name) for name in schema.names)
        more = ", left(parse_filename(filename), -8) AS part, file_row_number" if origin else ""
        sources.append(f"SELECT {names}{more} FROM {_parts(layout, schema, origin)}")
    if layout.merged:
        names = ", ".join(
            f"{identifier(f.name) if f.name in layout.merged_columns else 'NULL'}::{sql_type(f.type)} "
            f"AS {identifier(f.name)}"
            for f in schema
        )
        more, option = (", part, file_row_number", ", file_row_number = true") if origin else ("", "")
        files = f"read_parquet([{literal(pattern(layout.merged))}], hive_partitioning = false{option})"
        sources.append(f"SELECT {names}{more} FROM {files}{_but(layout.outdated)}")
    if not sources:
        names = ", ".join(f"NULL::{sql_type(f.type)} AS {identifier(f.name)}" for f in schema)
        more = ", NULL::VARCHAR AS part, 0 AS file_row_number" if origin else ""
        return f"SELECT {names}{more} WHERE false"
    return " UNION ALL ".join(sources)


LAST_VALUES = (
    "max(step) AS step, arg_max_null(value, step) AS value, arg_max_null(time, step) AS time, sum(n)::BIGINT AS n"
)


def select_last_values(layout: Layout, schema: pa.Schema) -> str:
    """SELECT of `metrics`' last values: what compaction has worked out already, and what came since."""
    keys = "run_id, key, stage, name"
    fresh = Layout(layout.parts, None if layout.last_values else layout.merged, layout.merged_columns, layout.outdated)
    points = f"SELECT {keys}, step, value, time, 1 AS n FROM ({select(fresh, schema)})"
    if layout.last_values:
        files = f"read_parquet([{literal(pattern(layout.last_values))}], hive_partitioning = false)"
        points = f"SELECT {keys}, step, value, time, n FROM {files}{_but(layout.outdated)} UNION ALL {points}"
    return f"SELECT {keys}, {LAST_VALUES} FROM ({points}) GROUP BY {keys}"


def _parts(layout: Layout, schema: pa.Schema, origin: bool) -> str:
    # With the columns given, DuckDB need not open every file to learn what is in it.
    columns = ", ".join(
        f"{literal(f.name)}: {{name: {literal(f.name)}, type: {literal(sql_type(f.type))}, default_value: NULL}}"
        for f in schema
    )
    files = ", ".join(literal(pattern(file)) for file in layout.parts)
    more = ", filename = true, file_row_number = true" if origin else ""
    return f"read_parquet([{files}], hive_partitioning = false, schema = MAP {{{columns}}}{more})"


def _but(outdated: tuple[str, ...]) -> str:
    return f" WHERE part NOT IN ({', '.join(map(literal, outdated))})" if outdated else ""


def sql_type(type: pa.DataType) -> str:
    """DuckDB's name of a column's type."""
    return _SQL_TYPES[type]


def pattern(file: str) -> str:
    """A file's address as a pattern that fits that file alone: a home may be called `runs[1]`."""
    return re.sub(r"[\[*?]", lambda found: f"[{found[0]}]", file)


def literal(text: str) -> str:
    """A SQL string."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A SQL name, quoted."""
    return '"' + name.replace('"', '""') + '"'
