"""The tables: append-only Parquet, one folder a table, one part file a producer.

A part is named by who produced it (an artifact key, or an event of a run), so writing it again replaces it: re-running
is idempotent, and writers never share a file. `compact` merges parts into `_compacted-N.parquet`, whose extra column
`part` remembers where a row came from. Only the highest N counts, and a part that stands as a file of its own wins
over its merged rows; so every state between two steps of a compaction, and any rewrite after it, is free of doubles.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import numbers
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from storage import durable
from storage.plain import plain_json

_COMPACTED = re.compile(r"_compacted-(\d+)\.parquet")
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
    # event: started | ended; status: running | completed | waiting | failed | interrupted
    "runs": _schema("run_id:str event:str status:str name:str? profile:str? time:time config_json:str? host_json:str?"),
    # label: unique in the run, "ppo[beta=0.1]"; status: ran | cached | waiting | failed; seconds: wall clock
    # group: data | pretraining | sft | rlhf | scaling | emergence | moe | architecture | reasoning | cost | report
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
        "agrees_with_gold:bool? details_json:str? source:str? confidence:float?"
    ),
    # one row a person's word on an item; `ranks_json` by answer (1 the best, null for a skip), `order_json` as shown.
    # `superseded`: the same annotator judged the item again later. `batch` is in the facts of the stage sample_answers.
    "judgements": _schema(
        "batch:str item_id:str annotator:str submitted_at:time prompt:str answers_json:str? order_json:str? "
        "ranks_json:str? skipped:bool superseded:bool confidence:int? comment:str? seconds:float? "
        "instructions_version:int? instructions_sha256:str?"
    ),
    "quarantine": _schema("run_id:str key:str source:str? file:str? line:int? reason:str excerpt:str?"),
    # sweep: dense | emergence | moe | moe_text | architecture; loss: nats a token
    "scaling_points": _schema(
        "run_id:str key:str sweep:str variant:str? seed:int? num_params:int num_params_kind:str? tokens:int? "
        "flops:float? loss:float? details_json:str?"
    ),
    # one row a layer, expert and source: the share of the source's held-out assignments that the expert takes
    "routing": _schema(
        "run_id:str key:str variant:str seed:int? layer:int expert:int source:str assignments:int share:float? "
        "windows:int?"
    ),
    "scaling_fits": _schema(
        "run_id:str key:str sweep:str law:str parameter:str value:float? low:float? high:float? n:int? method:str?"
    ),
    "forecasts": _schema(
        "run_id:str key:str sweep:str target:str num_params:int? tokens:int? predicted:float? low:float? high:float? "
        "observed:float? made_at:time? scored_at:time?"
    ),
    # one row a checkpoint and evaluation; checkpoint, before: labels of the stages that made it and what it began from;
    # unit: bits_per_byte | accuracy; change: against the checkpoint at position 0, paired by window or item
    "forgetting": _schema(
        "run_id:str key:str checkpoint:str position:int before:str? evaluation:str unit:str value:float low:float? "
        "high:float? n:int? change:float? change_low:float? change_high:float?"
    ),
    # peak_flops: FLOP/s; memory_bandwidth: bytes/s; date: ISO
    "hardware": _schema(
        "name:str kind:str? peak_flops:float? memory_bandwidth:float? power_watts:float? source:str? date:str?"
    ),
    "prices": _schema("hardware:str usd_per_hour:float provider:str? date:str? source:str?"),
}


_PARTS = b"lifespan.parts"  # names of the merged parts, in the metadata of a compacted file
_ATTEMPTS = 5
_T = TypeVar("_T")


class TableError(ValueError):
    """Rows that do not fit a table, a table that does not exist, or a part file that cannot be read."""


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
            self._arrow_fs: Any = pafs.PyFileSystem(pafs.FSSpecHandler(self._fs))
            self._locks = Path(locks) if locks else None
        else:
            self._root = str(Path(self.url.removeprefix("file://")).expanduser().absolute())
            self._arrow_fs = pafs.LocalFileSystem()
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
            raise TableError(
                f"{table}: part name {part!r}: takes letters, digits and . _ - (an artifact key, a run id)"
            )
        content = _from_table(table, schema, rows) if isinstance(rows, pa.Table) else _from_rows(table, schema, rows)
        if self.is_remote:
            sink = pa.BufferOutputStream()
            pq.write_table(content, sink, compression="zstd")
            self._fs.makedirs(f"{self._root}/{table}", exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{table}/{part}.parquet", sink.getvalue().to_pybytes())
        else:
            with (
                self._compaction_lock(table, shared=True),
                durable.replacing(self.path(table) / f"{part}.parquet") as f,
            ):
                pq.write_table(content, f, compression="zstd")
        return int(content.num_rows)

    def dataset(self, table: str) -> pads.Dataset:
        """A table as it lies now, unread.

        A compaction may take one of its files away before it is read: on FileNotFoundError ask for the dataset again.
        """
        return self._as_dataset(table, _check_table(table), self._listing(table))

    def read(self, table: str, columns: Sequence[str] | None = None, where: pads.Expression | None = None) -> pa.Table:
        """Rows of a table in no particular order: those of `where`, or all.

        Raises:
            TableError: no such table, or a part file that cannot be read; names it.
        """
        return self.when_settled(lambda: self.dataset(table).to_table(columns=columns, filter=where), [table])

    def when_settled(self, action: Callable[[], _T], tables: Sequence[str]) -> _T:
        """Do `action`, which reads `tables`, and do it again when a compaction takes files away under it.

        Raises:
            TableError: it fails because a file is damaged; names the file. Other errors pass unchanged.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return action()
            except TableError:
                raise
            except Exception as error:
                gone = isinstance(error, FileNotFoundError) or "No such file or directory" in str(error)
                if gone and attempt < _ATTEMPTS - 1:
                    continue
                for table in tables:
                    if damage := self.damage(table):
                        raise TableError(damage) from error
                raise
        raise AssertionError("unreachable")

    def damage(self, table: str) -> str | None:
        """A message that names the files of a table that are no readable Parquet; None when all are."""
        _check_table(table)
        broken = []
        for name in self._listing(table):
            try:
                with self._arrow_fs.open_input_file(f"{self._root}/{table}/{name}") as stream:
                    pq.ParquetFile(stream).read()  # all of it: a page in the middle may be what is torn
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError) as error:
                broken.append(f"{self._root}/{table}/{name} ({str(error).splitlines()[0]})")
        if not broken:
            return None
        return f"table {table}: damaged: {'; '.join(broken)}. Move it away; a new run of its stage writes it again."

    def compact(self, tables: Sequence[str] | None = None) -> dict[str, int]:
        """Merge the parts of each table into one file. Safe beside readers and, on a local disk, beside writers.

        Returns the number of parts merged, by table. Of remote tables run one compaction at a time, with no run going.
        """
        merged = {}
        for table in tables or SCHEMAS:
            schema = _check_table(table)
            try:
                merged[table] = self._compact(table, schema)
            except (pa.ArrowException, OSError) as error:
                if damage := self.damage(table):
                    raise TableError(damage) from error
                raise
        return merged

    def _compact(self, table: str, schema: pa.Schema) -> int:
        with self._compaction_lock(table, shared=False):
            names = self._listing(table)
            singles = [name for name in names if not _COMPACTED.fullmatch(name)]
            if len(singles) < 2 and len(names) < 2:
                return 0
            old = self._merged_file(names)
            folder = f"{self._root}/{table}"
            parts = {name.removesuffix(".parquet") for name in singles}
            earlier = self._merged_parts(table, names) - parts
            full = _with_part(schema).with_metadata({_PARTS: json.dumps(sorted(earlier | parts))})
            generation = int(_COMPACTED.fullmatch(old)[1]) + 1 if old else 1  # type: ignore[index]
            with (
                self._replacing(f"{folder}/_compacted-{generation:06}.parquet") as sink,
                pq.ParquetWriter(sink, full, compression="zstd") as out,
            ):
                if old:
                    outdated = pads.field("part").isin(pa.array(sorted(parts), pa.string()))
                    for batch in self._files([f"{folder}/{old}"], _with_part(schema)).to_batches(filter=~outdated):
                        if batch.num_rows:
                            out.write_batch(batch.replace_schema_metadata(full.metadata))
                for name in singles:
                    rows = self._files([f"{folder}/{name}"], schema).to_table()
                    part = pa.array([name.removesuffix(".parquet")] * rows.num_rows, pa.string())
                    out.write_table(rows.append_column(full.field("part"), part).replace_schema_metadata(full.metadata))
            for name in names:
                self._remove(f"{folder}/{name}")
            return len(singles)

    def _as_dataset(self, table: str, schema: pa.Schema, names: list[str]) -> pads.Dataset:
        folder = f"{self._root}/{table}"
        singles = [name for name in names if not _COMPACTED.fullmatch(name)]
        merged = [name for name in [self._merged_file(names)] if name]
        outdated = self._merged_parts(table, names) & {name.removesuffix(".parquet") for name in singles}
        if not outdated:
            return self._files([f"{folder}/{name}" for name in [*singles, *merged]], schema)
        # Rewritten since it was merged: rare, and gone with the next compaction, so memory is good enough.
        keep = ~pads.field("part").isin(pa.array(sorted(outdated), pa.string()))
        rest = self._files([f"{folder}/{merged[0]}"], _with_part(schema)).to_table(columns=schema.names, filter=keep)
        files = self._files([f"{folder}/{name}" for name in singles], schema)
        return pads.dataset([files, pads.dataset(rest.cast(files.schema))])

    @staticmethod
    def _merged_file(names: list[str]) -> str | None:
        """Name of the newest compaction; an older one is a leftover of a killed `compact`."""
        return max((name for name in names if _COMPACTED.fullmatch(name)), default=None)

    def _merged_parts(self, table: str, names: list[str]) -> set[str]:
        name = self._merged_file(names)
        if name is None:
            return set()
        with self._arrow_fs.open_input_file(f"{self._root}/{table}/{name}") as stream:
            metadata = pq.read_schema(stream).metadata or {}
        return set(json.loads(metadata[_PARTS]))

    # Where local and remote differ

    def _listing(self, table: str) -> list[str]:
        """Names of a table's Parquet files, sorted; temporary ones start with a dot."""

        def once() -> list[str]:
            try:
                if not self.is_remote:
                    found = [path.name for path in Path(self._root, table).iterdir()]
                else:
                    self._fs.invalidate_cache()
                    found = [str(path).rsplit("/", 1)[1] for path in self._fs.ls(f"{self._root}/{table}", detail=False)]
            except FileNotFoundError:
                return []
            return sorted(name for name in found if name.endswith(".parquet") and not name.startswith("."))

        names = once()
        # A folder that changes while it is listed may show neither the old file nor the new: look until it holds still.
        while not self.is_remote and names != (again := once()):
            names = again
        return names

    def _files(self, paths: list[str], schema: pa.Schema) -> pads.Dataset:
        # Nullable whatever the schema says: a part from before a column was added has nulls there.
        loose = pa.schema([field.with_nullable(True) for field in schema])
        if not paths:
            return pads.dataset(loose.empty_table())
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
            Path(path).unlink()


def _check_table(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise TableError(f"no table {table!r}: there are {', '.join(SCHEMAS)}")
    return SCHEMAS[table]


def _with_part(schema: pa.Schema) -> pa.Schema:
    return pa.schema([*(field.with_nullable(True) for field in schema), pa.field("part", pa.string())])


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
    _TYPES["str"]: _text,
    _TYPES["int"]: _integer,
    _TYPES["float"]: _number,
    _TYPES["bool"]: _truth,
    _TYPES["time"]: _moment,
}
_NAMES = dict(zip(_CONVERTERS, ("a string", "a whole number", "a number", "true or false", "a time"), strict=True))
