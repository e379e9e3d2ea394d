"""A query's result for people and programs: aligned text, CSV, JSON, Parquet."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import io
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa

from storage import durable
from storage.json_values import finite

Format = Literal["table", "lines", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "lines", "csv", "json", "parquet")
_ENDINGS: Mapping[str, Format] = {"": "table", ".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}
_WIDEST = 60
_UTC = pa.timestamp("us", tz="UTC")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def format_of(name: str | None, output: Path | None = None) -> Format:
    """The format of that name; without one the format of the file's ending, else "table".

    Raises:
        ValueError: there is no such format, or none is given and the ending names none.
    """
    if name is None:
        ending = output.suffix.lower() if output else ""
        if ending not in _ENDINGS:
            known = ", ".join(filter(None, _ENDINGS))
            raise ValueError(f"output {output}: {ending} is not a known format: use one of {known}, or give --format")
        return _ENDINGS[ending]
    for format in FORMATS:
        if name == format:
            return format
    raise ValueError(f"format {name!r}: takes {', '.join(FORMATS)}")


def write_result(table: pa.Table, format: Format, out: IO[Any] | Path, width: int | None = None) -> None:
    """Write a query's result.

    Args:
        table: what to write.
        format: "table" (aligned text; long values are cut), "lines" (one value per line, nothing is cut), "csv" (a
            header line; null is empty, an empty text is ""), "json" (an array of objects; NaN and infinities are
            null), or "parquet". Times are ISO 8601, UTC.
        out: an open stream (text for all but parquet, which takes a binary one or the one beneath `sys.stdout`), or a
            file, which appears whole or not at all.
        width: columns of the terminal; a wider table is written as lines.

    Raises:
        ValueError: parquet to a terminal, or a column that Parquet has no type for.
    """
    if isinstance(out, Path):
        binary = format == "parquet"
        regular = out.is_file() or not out.exists()  # not a device or a pipe, which cannot be replaced
        with (
            durable.replacing(out.resolve()) if regular else contextlib.nullcontext(out) as target,
            target.open("wb") if binary else target.open("w", encoding="utf-8", newline="") as stream,
        ):
            write_result(table, format, stream)
    elif format == "parquet":
        _write_parquet(table, out)
    elif format == "csv":
        for row in [table.column_names, *_rows(table)]:
            out.write(",".join(map(_csv_cell, row)) + "\n")
    elif format == "json":
        names = _unique(table.column_names)
        lines = [json.dumps(dict(zip(names, map(_json_cell, row), strict=True))) for row in _rows(table)]
        out.write("[" + ",\n ".join(lines) + "]\n")
    else:
        out.write(_lines(table) if format == "lines" else _aligned(table, width))


def _write_parquet(table: pa.Table, out: IO[Any]) -> None:
    import pyarrow.parquet as pq

    if getattr(out, "isatty", lambda: False)():
        raise ValueError("parquet is binary: redirect the output to a file, or give --output")
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(table.rename_columns(_unique(table.column_names)), sink, compression="zstd")
    except pa.ArrowNotImplementedError as error:
        found = str(error).splitlines()[0]
        raise ValueError(f"Parquet has no such type ({found}): cast the column in the query") from None
    getattr(out, "buffer", out).write(sink.getvalue().to_pybytes())


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    columns = [_values(column) for column in table.columns]
    return list(zip(*columns, strict=True)) if columns else []


def _values(column: pa.ChunkedArray) -> list[Any]:
    if column.type != _UTC:
        return column.to_pylist()
    # Arrow would import pandas for its times, which takes longer than the query.
    since = [value for chunk in column.chunks for value in chunk.view(pa.int64()).to_pylist()]
    return [None if value is None else _moment(value) for value in since]


def _moment(microseconds: int) -> datetime.datetime | str:
    try:
        return _EPOCH + datetime.timedelta(microseconds=microseconds)
    except OverflowError:
        return "infinity" if microseconds > 0 else "-infinity"


def _unique(names: Sequence[str]) -> list[str]:
    """Names with a number on those that came before: a JSON object has one value per name."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def _json_cell(value: Any) -> Any:
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, decimal.Decimal):  # DuckDB's sum of whole numbers has 128 bits
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {str(name): _json_cell(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and not _is_interval(value):
        return [_json_cell(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else _scalar_text(value)


def _scalar_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if _is_interval(value):
        return _interval(value)
    if isinstance(value, (list, tuple, Mapping)):
        return json.dumps(_json_cell(value), ensure_ascii=False)
    return str(value)


def _is_interval(value: Any) -> bool:
    return hasattr(value, "nanoseconds")


def _interval(value: pa.MonthDayNano) -> str:
    """As DuckDB writes it: `14 months 3 days 00:02:05.500000`, without the parts that are 0."""
    seconds, microseconds = divmod(abs(value.nanoseconds) // 1000, 1_000_000)
    clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    clock = "-" * (value.nanoseconds < 0) + clock + (f".{microseconds:06}" if microseconds else "")
    parts = [
        f"{n} {unit}{'' if abs(n) == 1 else 's'}" for n, unit in ((value.months, "month"), (value.days, "day")) if n
    ]
    return " ".join([*parts, clock] if value.nanoseconds or not parts else parts)


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    text = _scalar_text(value)
    if not text or any(mark in text for mark in ',"\r\n'):
        text = '"' + text.replace('"', '""') + '"'
    return text


def _aligned(table: pa.Table, width: int | None) -> str:
    """Columns side by side, numbers to the right; long texts are cut at 60 characters."""
    rows = [[_shown(cell, _WIDEST) for cell in row] for row in _rows(table)]
    types = table.schema.types
    numeric = [pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t) for t in types]
    widths = [max([_cells(name), *(_cells(row[i]) for row in rows)]) for i, name in enumerate(table.column_names)]
    if width is not None and rows and sum(widths) + 2 * (len(widths) - 1) > width:
        return _lines(table)

    def line(cells: Sequence[str]) -> str:
        padded = []
        for cell, room, right in zip(cells, widths, numeric, strict=True):
            space = " " * (room - _cells(cell))
            padded.append(space + cell if right else cell + space)
        return "  ".join(padded).rstrip()

    out = io.StringIO()
    for cells in (table.column_names, ["─" * room for room in widths], *rows):
        out.write(line(cells) + "\n")
    return out.getvalue() + _count(len(rows))


def _lines(table: pa.Table) -> str:
    """One value per line, for rows that are wider than the terminal."""
    room = max(map(_cells, table.column_names), default=0)
    out = io.StringIO()
    rows = _rows(table)
    for number, row in enumerate(rows, 1):
        out.write(f"── row {number} ──\n")
        for name, value in zip(table.column_names, row, strict=True):
            out.write(f"{name}{' ' * (room - _cells(name))}  {_shown(value, None)}".rstrip() + "\n")
    return out.getvalue() + _count(len(rows))


def _count(rows: int) -> str:
    return f"({rows:,} row{'' if rows == 1 else 's'})\n"


def _shown(value: Any, widest: int | None) -> str:
    """A value on one line: what would move a terminal's cursor is written as its code."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    text = " ".join(_scalar_text(value).splitlines())
    text = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return text if widest is None or len(text) <= widest else text[: widest - 1] + "…"


def _cells(text: str) -> int:
    """Columns that a text takes in a terminal: two for a wide character, none for a mark over the one before."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
