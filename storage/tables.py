"""The tables: append-only Parquet, one folder a table, one part file a producer.

A part is named by who produced it (an artifact key, or an event of a run), so writing it again replaces it: re-running
is idempotent, and writers never share a file. `compact` merges parts into `_compacted.parquet`, whose extra column
`part` remembers where a row came from. A part that stands as a file of its own always wins over its merged rows; that
keeps every state between two steps of a compaction, and any rewrite after it, free of doubles.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from storage import durable
from storage.plain import plain_json

COMPACTED = "_compacted.parquet"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "time": pa.timestamp("us", tz="UTC"),
}


def _schema(columns: str) -> pa.Schema:
    """Schema from "name:type name:type? …"; `?` marks what a row may leave out or leave null."""
    fields = []
    for column in columns.split():
        name, kind = column.split(":")
        fields.append(pa.field(name, _TYPES[kind.rstrip("?")], nullable=kind.endswith("?")))
    return pa.schema(fields)


# `key` is the artifact's key and `run_id` the run that produced the row: a later run that finds the artifact cached
# has only its own `stages` row with the same key, so reports join `stages USING (key)`.
SCHEMAS: dict[str, pa.Schema] = {
    # event: started | ended; status: running | completed | failed | interrupted
    "runs": _schema(
        "run_id:str event:str status:str name:str? profile:str? time:time config_json:str? host_json:str?"
    ),
    # label: unique in the run, "ppo[beta=0.1]"; status: ran | cached | failed; seconds: wall clock
    # group: data | pretraining | sft | rlhf | scaling | emergence | moe | reasoning | cost | report
    "stages": _schema(
        "run_id:str stage:str label:str key:str kind:str? status:str reason:str? started_at:time? ended_at:time? "
        "seconds:float? facts_json:str? config_json:str? inputs_json:str? group:str?"
    ),
    "metrics": _schema("run_id:str key:str stage:str step:int name:str value:float? time:time?"),
    "costs": _schema(
        "run_id:str key:str stage:str group:str? tokens:int? flops:float? seconds:float? cpu_seconds:float? "
        "energy_joules:float? usd:float? hardware:str?"
    ),
    # one row an answered item
    "evals": _schema(
        "run_id:str key:str stage:str suite:str model:str strategy:str item_id:str difficulty:int? prompt:str? "
        "answer:str? target:str? correct:bool? score:float? prompt_tokens:int? completion_tokens:int? seconds:float? "
        "details_json:str?"
    ),
    "samples": _schema(
        "run_id:str key:str stage:str step:int? prompt:str? completion:str? scores_json:str? tokens:int?"
    ),
    "preferences": _schema(
        "run_id:str key:str pair_id:str prompt:str chosen:str rejected:str annotator:str? gold_margin:float? "
        "agrees_with_gold:bool? details_json:str?"
    ),
    "quarantine": _schema("run_id:str key:str source:str? file:str? line:int? reason:str excerpt:str?"),
    # sweep: dense | emergence | moe | forecast; loss: nats a token
    "scaling_points": _schema(
        "run_id:str key:str sweep:str variant:str? seed:int? num_params:int num_params_kind:str? tokens:int? "
        "flops:float? loss:float? details_json:str?"
    ),
    "scaling_fits": _schema(
        "run_id:str key:str sweep:str law:str parameter:str value:float? low:float? high:float? n:int? method:str?"
    ),
    "forecasts": _schema(
        "run_id:str key:str sweep:str target:str num_params:int? tokens:int? predicted:float? low:float? high:float? "
        "observed:float? made_at:time? scored_at:time?"
    ),
    # peak_flops: FLOP/s; memory_bandwidth: bytes/s; date: ISO
    "hardware": _schema(
        "name:str kind:str? peak_flops:float? memory_bandwidth:float? power_watts:float? source:str? date:str?"
    ),
    "prices": _schema("hardware:str usd_per_hour:float provider:str? date:str? source:str?"),
}


class TableError(ValueError):
    """Rows that do not fit a table, a table that does not exist, or a part file that cannot be read."""


@dataclass(frozen=True)
class Snapshot:
    """A table as it lay when it was listed: datasets of the single parts and of the merged rows that still count."""

    parts: pads.Dataset
    merged: pads.Dataset | None
    part_names: tuple[str, ...]


class Tables:
    """The tables under a local folder or any fsspec URL.

    Args:
        url: folder or URL; made at the first write.
        locks: local folder for the locks of `compact`; by default beside the tables.
    """

    def __init__(self, url: str | os.PathLike[str], locks: str | os.PathLike[str] | None = None) -> None:
        self.url = os.fspath(url)
        self.is_remote = "://" in self.url and not self.url.startswith("file://")
        if self.is_remote:
            import fsspec  # here: local tables need not pay for the import

            self._fs, root = fsspec.core.url_to_fs(self.url)
            self._root = str(root).rstrip("/")
            self._arrow_fs: Any = pa.fs.PyFileSystem(pa.fs.FSSpecHandler(self._fs))
            self._locks = Path(locks) if locks else None
        else:
            self._root = str(Path(self.url.removeprefix("file://")).expanduser().absolute())
            self._arrow_fs = pa.fs.LocalFileSystem()
            self._locks = Path(locks) if locks else Path(self._root) / ".locks"

    def __repr__(self) -> str:
        return f"Tables({self.url!r})"

    def path(self, table: str) -> Path:
        """Folder of a table's Parquet files.

        Raises:
            TableError: no such table, or the tables are not on a local disk.
        """
        _check_table(table)
        if self.is_remote:
            raise TableError(f"{self.url}: these tables are remote and have no local folder; read them through queries")
        return Path(self._root) / table

    def write(self, table: str, part: str, rows: Sequence[Mapping[str, Any]] | pa.Table) -> int:
        """Write the rows of one producer, replacing what it wrote before. Returns the number of rows.

        Args:
            table: a name of SCHEMAS.
            part: the producer: an artifact key, or the id of a run's event.
            rows: dicts, or an Arrow table. Columns that the schema allows to be null may be left out. Values of
                `*_json` columns may be dicts or lists; times must carry a time zone.

        Raises:
            TableError: unknown table or column, missing or null value, wrong type; names row and column.
            OSError: the disk is full; the part's earlier rows are untouched.
        """
        schema = _check_table(table)
        if not _PART.fullmatch(part):
            raise TableError(f"{table}: part name {part!r}: takes letters, digits and . _ - (an artifact key, a run id)")
        content = _from_table(table, schema, rows) if isinstance(rows, pa.Table) else _from_rows(table, schema, rows)
        if self.is_remote:
            sink = pa.BufferOutputStream()
            pq.write_table(content, sink, compression="zstd")
            self._fs.makedirs(f"{self._root}/{table}", exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{table}/{part}.parquet", sink.getvalue().to_pybytes())
        else:
            with self._compaction_lock(table, shared=True), durable.replacing(self.path(table) / f"{part}.parquet") as f:
                pq.write_table(content, f, compression="zstd")
        return content.num_rows

    def snapshot(self, table: str) -> Snapshot:
        """The table's files as they are now, unread. A compaction may remove one before it is read: list again then."""
        schema = _check_table(table)
        folder = f"{self._root}/{table}"
        names = sorted(n for n in self._names(folder) if n.endswith(".parquet") and not n.startswith("."))
        singles = [name for name in names if name != COMPACTED]
        parts = self._dataset([f"{folder}/{name}" for name in singles], schema)
        merged = None
        if len(singles) < len(names):
            merged = self._dataset([f"{folder}/{COMPACTED}"], _with_part(schema))
        return Snapshot(parts, merged, tuple(name.removesuffix(".parquet") for name in singles))

    def read(self, table: str, columns: Sequence[str] | None = None, where: pads.Expression | None = None) -> pa.Table:
        """Rows of a table in no particular order: those of `where`, or all.

        Raises:
            TableError: no such table, or a part file that cannot be read; names it.
        """
        columns = list(columns) if columns is not None else _check_table(table).names
        for attempt in range(5):
            snapshot = self.snapshot(table)
            try:
                found = [snapshot.parts.to_table(columns=columns, filter=where)]
                if snapshot.merged is not None:
                    standing = pads.field("part").isin(pa.array(snapshot.part_names, pa.string()))
                    keep = ~standing if where is None else ~standing & where
                    found.append(snapshot.merged.to_table(columns=columns, filter=keep))
                return pa.concat_tables(found)
            except FileNotFoundError:
                if attempt == 4:
                    raise
            except (pa.ArrowInvalid, OSError) as error:
                raise TableError(self.damage(table) or f"{table}: cannot be read: {error}") from error
        raise AssertionError("unreachable")

    def damage(self, table: str) -> str | None:
        """A message that names the files of a table that are no readable Parquet; None when all are."""
        folder = f"{self._root}/{table}"
        broken = []
        for name in self._names(folder):
            if name.endswith(".parquet") and not name.startswith("."):
                try:
                    with self._arrow_fs.open_input_file(f"{folder}/{name}") as stream:
                        pq.ParquetFile(stream).metadata  # noqa: B018 - opening it checks the footer
                except FileNotFoundError:
                    continue
                except (pa.ArrowException, OSError) as error:
                    broken.append(f"{folder}/{name} ({str(error).splitlines()[0]})")
        if not broken:
            return None
        return f"table {table}: damaged: {'; '.join(broken)}. Move it away; a new run of its stage writes it again."

    def compact(self, tables: Sequence[str] | None = None) -> dict[str, int]:
        """Merge the parts of each table into one file. Safe beside readers and, on a local disk, beside writers.

        Returns the number of parts merged, by table. Of remote tables run one compaction at a time, with no run going.
        """
        return {table: self._compact(table, _check_table(table)) for table in tables or SCHEMAS}

    def _compact(self, table: str, schema: pa.Schema) -> int:
        with self._compaction_lock(table, shared=False):
            snapshot = self.snapshot(table)
            names = snapshot.part_names
            if len(names) < 2 and not (names and snapshot.merged is not None):
                return 0
            folder = f"{self._root}/{table}"
            full = _with_part(schema)
            with self._replacing(f"{folder}/{COMPACTED}") as sink, pq.ParquetWriter(sink, full, compression="zstd") as out:
                if snapshot.merged is not None:
                    standing = pads.field("part").isin(pa.array(names, pa.string()))
                    for batch in snapshot.merged.to_batches(filter=~standing):
                        if batch.num_rows:
                            out.write_batch(batch)
                for name in names:
                    rows = self._dataset([f"{folder}/{name}.parquet"], schema).to_table()
                    out.write_table(rows.append_column(full.field("part"), pa.array([name] * rows.num_rows, pa.string())))
            for name in names:
                self._remove(f"{folder}/{name}.parquet")
            return len(names)

    # Where local and remote differ

    def _names(self, folder: str) -> list[str]:
        try:
            if not self.is_remote:
                return os.listdir(folder)
            self._fs.invalidate_cache()
            return [str(path).rsplit("/", 1)[1] for path in self._fs.ls(folder, detail=False)]
        except FileNotFoundError:
            return []

    def _dataset(self, paths: list[str], schema: pa.Schema) -> pads.Dataset:
        # Nullable whatever the schema says: a part from before a column was added has nulls there.
        loose = pa.schema([field.with_nullable(True) for field in schema])
        if not paths:
            return pads.dataset(pa.Table.from_batches([], loose))
        return pads.FileSystemDataset.from_paths(
            paths, schema=loose, format=pads.ParquetFileFormat(), filesystem=self._arrow_fs
        )

    def _compaction_lock(self, table: str, *, shared: bool) -> contextlib.AbstractContextManager[None]:
        if self.is_remote or self._locks is None:
            return contextlib.nullcontext()
        return durable.lock(self._locks / f"table-{table}.lock", shared=shared)

    @contextlib.contextmanager
    def _replacing(self, path: str) -> Any:
        if not self.is_remote:
            with durable.replacing(Path(path)) as temporary:
                yield str(temporary)
        else:
            sink = pa.BufferOutputStream()
            yield sink
            self._fs.pipe_file(path, sink.getvalue().to_pybytes())

    def _remove(self, path: str) -> None:
        if self.is_remote:
            self._fs.rm_file(path)
        else:
            os.unlink(path)


def _check_table(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise TableError(f"no table {table!r}: there are {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def _with_part(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*(field.with_nullable(True) for field in schema), pa.field("part", pa.string())])


def _check_columns(table: str, schema: pa.Schema, names: Sequence[str], where: str) -> None:
    if unknown := [name for name in names if name not in schema.names]:
        raise TableError(f"{where}: unknown column {', '.join(map(repr, unknown))}; {table} has {', '.join(schema.names)}")
    required = [field.name for field in schema if not field.nullable]
    if missing := [name for name in required if name not in names]:
        raise TableError(f"{where}: missing column {', '.join(map(repr, missing))}; {table} needs {', '.join(required)}")


def _from_table(table: str, schema: pa.Schema, rows: pa.Table) -> pa.Table:
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


def _from_rows(table: str, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
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


def _integer(value: Any) -> int:
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        whole = int(value)
    elif isinstance(value, float) and value.is_integer():
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
    _TYPES["str"]: _text,
    _TYPES["int"]: _integer,
    _TYPES["float"]: _number,
    _TYPES["bool"]: _truth,
    _TYPES["time"]: _moment,
}
_NAMES = dict(zip(_CONVERTERS, ("a string", "a whole number", "a number", "true or false", "a time"), strict=True))
