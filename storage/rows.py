"""Rows on their way into a table: dicts or Arrow tables, checked value by value against the table's schema."""

from __future__ import annotations

import datetime
import json
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage.json_values import plain_json
from storage.redaction import masked, masked_json

TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}


class TableError(ValueError):
    """Rows that do not match a table, a table that does not exist, or a part file that cannot be read."""


def _check_columns(table: str, schema: pa.Schema, names: Sequence[str], where: str) -> None:
    if unknown := [name for name in names if name not in schema.names]:
        raise TableError(
            f"{where}: unknown column {', '.join(map(repr, unknown))}; {table} has {', '.join(schema.names)}"
        )
    required = [field.name for field in schema if not field.nullable]
    if missing := [name for name in required if name not in names]:
        raise TableError(
            f"{where}: missing column {', '.join(map(repr, missing))}; {table} needs {', '.join(required)}"
        )


def from_table(table: str, schema: pa.Schema, rows: pa.Table) -> pa.Table:
    """`rows` with exactly the columns and types of `schema`.

    Raises:
        TableError: an unknown or missing column, a null where none may be, a type that does not cast; names it.
    """
    _check_columns(table, schema, rows.column_names, table)
    columns = []
    for field in schema:
        if field.name not in rows.column_names:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        column = rows[field.name]
        if not field.nullable and column.null_count:
            raise TableError(f"{table}, column {field.name}: {column.null_count} values are null; it takes none")
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            found = f"{table}, column {field.name}: got {column.type}, takes {field.type}"
            raise TableError(f"{found} ({str(error).splitlines()[0]})") from error
    return pa.Table.from_arrays(columns, schema=schema)


def from_rows(table: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Dicts as an Arrow table; values of `*_json` columns may be dicts or lists, times must carry a time zone.

    Raises:
        TableError: as `from_table`; names the row too.
    """
    known = set(schema.names)
    required = {field.name for field in schema if not field.nullable}
    for number, row in enumerate(rows):
        if not (required <= row.keys() <= known):
            _check_columns(table, schema, list(row), f"{table} row {number}")
    columns = []
    for field in schema:
        convert = _CONVERTERS[field.type]
        if field.name.endswith("_json"):
            convert = _json_text
        values: list[Any] = []
        for number, row in enumerate(rows):
            value = row.get(field.name)
            try:
                values.append(None if value is None else convert(value))
                if value is None and not field.nullable:
                    raise TypeError("it must not be empty")
            except (TypeError, ValueError, OverflowError) as error:
                shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}…"
                found = f"{table} row {number}, column {field.name}: got {shown} ({type(value).__name__})"
                raise TableError(f"{found}, takes {_NAMES[field.type]}: {error}") from error
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def without_secrets(rows: pa.Table) -> pa.Table:
    """The rows with secrets masked in every text."""
    for index, field in enumerate(rows.schema):
        if field.type == TYPES["str"]:
            mask = masked_json if field.name.endswith("_json") else masked
            texts = [text if text is None else mask(text) for text in rows.column(index).to_pylist()]
            rows = rows.set_column(index, field, pa.array(texts, field.type))
    return rows


def _integer(value: Any) -> int:
    if (isinstance(value, numbers.Integral) and not isinstance(value, bool)) or (
        isinstance(value, float) and value.is_integer()
    ):
        whole = int(value)
    else:
        raise TypeError("not a whole number")
    if not -(2**63) <= whole < 2**63:
        raise OverflowError("does not fit 64 bits")
    return whole


def _number(value: Any) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError("not a number")
    return float(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value.encode("utf-8", "replace").decode()  # a lone surrogate (half a character) is not UTF-8


def _truth(value: Any) -> bool:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise TypeError("not True or False")
    return bool(value)


def _moment(value: Any) -> datetime.datetime:
    if not isinstance(value, datetime.datetime) or value.tzinfo is None:
        raise TypeError("not a datetime with a time zone, such as datetime.now(UTC)")
    return value


def _json_text(value: Any) -> str:
    if isinstance(value, str):
        return _text(value)
    return json.dumps(plain_json(value, "value"), sort_keys=True)


_CONVERTERS: dict[pa.DataType, Callable[[Any], Any]] = {
    TYPES["str"]: _text,
    TYPES["int"]: _integer,
    TYPES["float"]: _number,
    TYPES["bool"]: _truth,
    TYPES["time"]: _moment,
}
_NAMES = dict(zip(_CONVERTERS, ("a string", "a whole number", "a number", "true or false", "a time"), strict=True))
