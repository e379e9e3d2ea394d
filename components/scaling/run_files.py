"""The cells of a stranger's table, by column: CSV as spreadsheets write it, JSON, Parquet, plain or gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.scaling.run_columns import RunTableError, parse_number

_SEPARATORS = ",;\t|"


class TornRow(str):
    """In place of each cell of a row whose cells cannot be told apart: the reason."""


def read_file(path: Path) -> dict[str, list[Any]]:
    """Cells by column of a file; see `read_bytes`. Raises OSError for one that cannot be read."""
    return read_bytes(path.read_bytes(), str(path))


def read_bytes(content: bytes, source: str) -> dict[str, list[Any]]:
    """Cells by column of Parquet, JSON (rows, lines of rows, or columns) or CSV, told apart by what is in them; gzipped
    or not.

    Raises RunTableError as `read_csv` does, and for a file that is broken.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise RunTableError(f"{source}: a broken gzip file: {error}") from None
    if content[:4] != b"PAR1":
        text = _text(content, source)
        return _read_json(text, source) if text.lstrip()[:1] in ("{", "[") else read_csv(text, source)
    try:
        return arrow_cells(pq.read_table(pa.BufferReader(content)), source)
    except (pa.ArrowException, OSError) as error:
        raise RunTableError(f"{source}: a broken Parquet file: {str(error).splitlines()[0]}") from None


def arrow_cells(table: pa.Table, source: str) -> dict[str, list[Any]]:
    """Cells by column of an Arrow table. Raises RunTableError where it has no rows."""
    if not table.num_rows:
        raise RunTableError(f"{source}: no rows")
    return {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}


def read_csv(text: str, source: str) -> dict[str, list[Any]]:
    """Cells by column, as text. The separator is a comma, semicolon, tab or bar, whichever the header has most of, or
    blanks where it has none of these. Lines of `#` above the header are no part of the table.

    Raises RunTableError for a file without a header or rows, and names that come twice.
    """
    text = _below_comments(text)
    if not text:
        raise RunTableError(f"{source}: the table is empty")
    first = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    if separator in first:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
            parted = [row for row in rows if any(cell.strip() for cell in row)]
        except csv.Error as error:
            raise RunTableError(f"{source}: not CSV: {error}") from None
    else:
        parted = [line.split() for line in text.splitlines() if line.strip()]
    if not parted:
        raise RunTableError(f"{source}: the table is empty")
    header = [name.strip() for name in parted[0]]
    if all(isinstance(parse_number(name), float) for name in header):
        raise RunTableError(f"{source}: the first line holds numbers, {first.strip()[:60]!r}: a header is needed")
    if twice := {name for name in header if name and header.count(name) > 1}:
        raise RunTableError(f"{source}: the header has {sorted(twice)[0]!r} twice")
    body: list[list[Any]] = [[*line, *[""] * (len(header) - len(line))] for line in parted[1:]]
    if separator == ";" and separator in first:  # then a comma may be the decimal one
        body = [[cell.replace(",", ".") if cell.count(",") == 1 else cell for cell in line] for line in body]
    for place, line in enumerate(body):
        if len(line) > len(header):
            body[place] = [TornRow(f"the row has {len(line)} cells, the header {len(header)}")] * len(header)
    return {name: [line[i] for line in body] for i, name in enumerate(header) if name}


def _text(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise RunTableError(f"{source}: not UTF-8 text: byte {error.start} is {content[error.start]:#x}") from None


def _below_comments(text: str) -> str:
    """The text from its header on. A line such as `#params,tokens,loss` is a header, and no comment: it has as many
    separators as the line after it."""
    comment = ""
    while text := text.lstrip():
        line, _, rest = text.partition("\n")
        if not line.startswith("#"):
            separator = max(_SEPARATORS, key=line.count)
            is_header = 0 < line.count(separator) == comment.count(separator)
            return f"{comment}\n{text}" if is_header else text
        comment, text = line, rest
    return ""


def _read_json(text: str, source: str) -> dict[str, list[Any]]:
    """Rows as objects, in an array or one a line, or an object of equally long columns; names of nested objects are
    joined with a stroke."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as of_whole:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except json.JSONDecodeError:
            raise RunTableError(f"{source}: neither JSON nor JSON lines: {of_whole}") from None
    if isinstance(found, dict):
        columns = {str(name): values for name, values in found.items() if isinstance(values, list)}
        if columns and len(columns) == len(found):
            if len({len(values) for values in columns.values()}) > 1:
                raise RunTableError(f"{source}: its columns differ in length")
            return columns
        found = [found]
    if not found or not all(isinstance(row, Mapping) for row in found):
        raise RunTableError(f"{source}: its JSON is no table: give one object a row")
    rows = [dict(_flat(row)) for row in found]
    return {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}


def _flat(row: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}/")
        else:
            yield f"{above}{name}", value
