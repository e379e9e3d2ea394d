"""The tables: append-only Parquet, one folder a table, one part file a producer.

A part is named by who produced it (an artifact key, or an event of a run), so writing it again replaces it: re-running
is idempotent, and writers never share a file. The column `part` remembers where a row came from. `compact` merges parts
into `compacted-N.parquet`. Only the highest N counts, and a part that stands as a file of its own wins over its merged
rows; so every state between two steps of a compaction, and any rewrite after it, is free of doubles.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from storage import durable
from storage.layout import COMPACTED, Layout
from storage.mirror import Mirror
from storage.remote import write_object
from storage.rows import TYPES, TableError, from_rows, from_table, without_secrets

if TYPE_CHECKING:
    import pyarrow.dataset as pads

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PART_COLUMN = pa.field("part", pa.string())


def _schema(columns: str) -> pa.Schema:
    """Schema from "name:type name:type? …"; `?` marks what a row may leave out or leave null."""
    fields = []
    for column in columns.split():
        name, kind = column.split(":")
        fields.append(pa.field(name, TYPES[kind.rstrip("?")], nullable=kind.endswith("?")))
    return pa.schema(fields)


_COSTS = (
    "run_id:str key:str stage:str group:str? tokens:int? flops:float? seconds:float? cpu_seconds:float? "
    "energy_joules:float? usd:float? hardware:str? label:str? ended_at:time? prompt_tokens:int? generated_tokens:int? "
    "flops_6nd:float? device_seconds:float? mfu:float? peak_memory_bytes:int? energy_basis:str? carbon_grams:float?"
)
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
    "costs": _schema(_COSTS),
    # one row an attempt that made nothing; outcome: failed | killed | interrupted | waiting | repeated | saved
    "waste": _schema(f"{_COSTS} attempt:int outcome:str reason:str?"),
    # one row per answered item; strategy…greedy: a reasoning strategy's record, see components/reasoning/strategy.py
    "evals": _schema(
        "run_id:str key:str stage:str suite:str model:str strategy:str strategy_family:str? strategy_size:int? "
        "needs_verifier:bool? greedy:bool? item_id:str difficulty:int? prompt:str? answer:str? target:str? "
        "correct:bool? score:float? prompt_tokens:int? completion_tokens:int? seconds:float? details_json:str?"
    ),
    "samples": _schema(
        "run_id:str key:str stage:str step:int? prompt:str? completion:str? scores_json:str? tokens:int? model:str? "
        "sample:int? seed:int? status:str? prompt_tokens:int? seconds:float?"
    ),
    # one row a step of a strategy of several requests, the root at node 0
    "trees": _schema(
        "run_id:str key:str stage:str strategy:str item_id:str node:int parent:int? depth:int kind:str text:str? "
        "value:float? tokens:int? status:str?"
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
    # one row a source and step with what it left and changed; and one for each reason why some went
    "funnel": _schema(
        "run_id:str key:str source:str position:int step:str documents:int? bytes:int? changed:int? reason:str? "
        "removed:int?"
    ),
    # up to 20 examples for each source, step and reason; detail: what was found, as the words of an evaluation item
    "removals": _schema(
        "run_id:str key:str source:str document_id:str origin:str? step:str reason:str detail:str? excerpt:str?"
    ),
    # a random sample of each source's documents that stayed; language_score: 0 to 1
    "documents": _schema(
        "run_id:str key:str source:str document_id:str origin:str? split:str language:str? language_score:float? "
        "chars:int? excerpt:str?"
    ),
    "quarantine": _schema("run_id:str key:str source:str? file:str? line:int? reason:str excerpt:str?"),
    # sweep: dense | emergence | moe | moe_text | architecture; loss: nats per token
    "scaling_points": _schema(
        "run_id:str key:str sweep:str variant:str? seed:int? num_params:int num_params_kind:str? tokens:int? "
        "flops:float? loss:float? details_json:str?"
    ),
    # one row per layer, expert and source: the share of the source's held-out assignments that the expert takes
    "routing": _schema(
        "run_id:str key:str variant:str seed:int? layer:int expert:int source:str assignments:int share:float? "
        "windows:int?"
    ),
    "scaling_fits": _schema(
        "run_id:str key:str sweep:str law:str parameter:str value:float? low:float? high:float? n:int? method:str?"
    ),
    "forecasts": _schema(
        "run_id:str key:str sweep:str target:str method:str? num_params:int? tokens:int? extrapolation:float? "
        "predicted:float? low:float? high:float? observed:float? made_at:time? scored_at:time?"
    ),
    # one row a checkpoint and evaluation; checkpoint, before: labels of the stages that made it and what it began from;
    # unit: bits_per_byte | accuracy; change: against the checkpoint at position 0, paired by window or item
    "forgetting": _schema(
        "run_id:str key:str checkpoint:str position:int before:str? evaluation:str unit:str value:float low:float? "
        "high:float? n:int? change:float? change_low:float? change_high:float?"
    ),
    # one row per claim that a run's report puts on trial; side: above | below | covers (what the interval must do)
    "claims": _schema(
        "run_id:str claim:str title:str verdict:str seed:int profile:str? settings:str code:str value:float? "
        "low:float? high:float? n:int? unit:str? side:str? margin:float? numbers:str? time:time"
    ),
    # peak_flops: FLOP/s; memory_bandwidth: bytes/s; date: ISO
    "hardware": _schema(
        "name:str kind:str? peak_flops:float? fp8_flops:float? fp4_flops:float? memory_bandwidth:float? "
        "memory_bytes:float? memory_type:str? interconnect:str? interconnect_bandwidth:float? power_watts:float? "
        "source:str? date:str?"
    ),
    # commitment: on demand | reserved | spot; origin: catalogue | imported
    "prices": _schema(
        "hardware:str usd_per_hour:float provider:str? date:str? source:str? commitment:str? region:str? "
        "usd_low:float? usd_high:float? origin:str?"
    ),
    # of hosted models, as `lifespan prices import` reads them
    "api_prices": _schema(
        "model:str provider:str usd_per_million_input:float usd_per_million_output:float "
        "usd_per_million_cached:float? date:str source:str?"
    ),
}


_SETTINGS_OR_MESSAGES = ("runs", "stages", "quarantine", "waste")  # may name addresses with credentials in them
_PARTS = b"lifespan.parts"  # names of the merged parts, in the metadata of a compacted file
_LAST = ".last"  # folder of last values: hidden, so that nobody who reads the tables' folders takes it for one
_ATTEMPTS = 5
_T = TypeVar("_T")


class Tables:
    """The tables under a local folder or any fsspec URL.

    Args:
        url: folder or URL; made at the first write.
        locks: local folder for the locks of `compact`; by default beside the tables.
        cache: local folder for copies of remote tables' files; by default one for temporary files.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        locks: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        self.url = os.fspath(url)
        self.is_remote = "://" in self.url and not self.url.startswith("file://")
        self.filesystem: Any = None  # of remote tables: fsspec's
        if self.is_remote:
            import fsspec  # here: local tables need not pay for the import

            self.filesystem, root = fsspec.core.url_to_fs(self.url)
            self._root = str(root).rstrip("/")
            self._locks = Path(locks) if locks else None
            default = Path(tempfile.gettempdir(), "lifespan-cache", hashlib.sha256(self.url.encode()).hexdigest()[:12])
            self._mirror: Mirror | None = Mirror(self.filesystem, self._root, Path(cache) if cache else default)
        else:
            self._mirror = None
            self._root = str(Path(self.url.removeprefix("file://")).expanduser().absolute())
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
        if not _PART.fullmatch(part) or COMPACTED.fullmatch(f"{part}.parquet"):
            raise TableError(
                f"{table}: part name {part!r}: takes letters, digits and . _ - (an artifact key, a run id)"
            )
        content = from_table(table, schema, rows) if isinstance(rows, pa.Table) else from_rows(table, schema, rows)
        if table in _SETTINGS_OR_MESSAGES:
            content = without_secrets(content)
        content = content.append_column(_PART_COLUMN, pa.repeat(pa.scalar(part), content.num_rows))
        texts = [field.name for field in content.schema if field.type == pa.string()]
        if self.is_remote:
            sink = pa.BufferOutputStream()
            pq.write_table(content, sink, compression="zstd", use_dictionary=texts)
            write_object(self.filesystem, f"{self._root}/{table}/{part}.parquet", sink.getvalue().to_pybytes())
        else:
            with (
                self._compaction_lock(table, shared=True),
                durable.replacing(self.path(table) / f"{part}.parquet") as f,
            ):
                pq.write_table(content, f, compression="zstd", use_dictionary=texts)
        return int(content.num_rows)

    def layout(self, table: str) -> Layout:
        """The files of a table as they lie now; of remote tables, as `stamp` or `read` last saw them.

        A compaction may take one away before it is read; `when_settled` looks again then.
        """
        _check_table(table)
        names = self._listing(table)
        merged = _merged_file(names)
        parts, columns = self._merged_parts(table, merged)
        singles = [name for name in names if not COMPACTED.fullmatch(name)]
        last = f"{table}-{COMPACTED.fullmatch(merged)[1]}.parquet" if merged else ""  # type: ignore[index]
        return Layout(
            parts=tuple(self._here(table, singles)),
            merged=self._here(table, [merged])[0] if merged else None,
            merged_columns=columns,
            outdated=tuple(sorted(parts & {name.removesuffix(".parquet") for name in singles})),
            last_values=self._here(_LAST, [last])[0] if last and last in self._listing(_LAST) else None,
        )

    def stamp(self) -> tuple[Any, ...]:
        """Changes whenever a file of any table does. Of remote tables one request lists all files."""
        if self._mirror:
            self._mirror.refresh()
            return self._mirror.stamp()
        found: list[Any] = []
        for table in SCHEMAS:
            with contextlib.suppress(FileNotFoundError), os.scandir(f"{self._root}/{table}") as entries:
                for entry in entries:
                    if entry.name.endswith(".parquet") and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):
                            seen = entry.stat()
                            found.append((table, entry.name, seen.st_ino, seen.st_mtime_ns, seen.st_size))
        return tuple(sorted(found))

    def read(self, table: str, columns: Sequence[str] | None = None, where: pads.Expression | None = None) -> pa.Table:
        """Rows of a table in no particular order: those of `where`, or all.

        Raises:
            TableError: no such table, or a part file that cannot be read; names it.
        """
        schema = _check_table(table)
        return self.when_settled(lambda: self._read(table, schema, columns, where), [table])

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
        broken = [f"{self._root}/{table}/{name} ({reason})" for name, reason in self._broken(table)]
        if not broken:
            return None
        advice = "`lifespan doctor --mend` sets it aside; what a stage wrote the next run writes again."
        return f"table {table}: damaged: {'; '.join(broken)}. {advice}"

    def set_damaged_aside(self, table: str) -> list[str]:
        """Move the files of a table that cannot be read into `damaged/` beside the tables; where they lie now."""
        moved = []
        for name, _ in self._broken(table):
            target = f"{self._root}/damaged/{table}-{durable.unique_suffix()}-{name}"
            if self.is_remote:
                self.filesystem.makedirs(f"{self._root}/damaged", exist_ok=True)
                self.filesystem.mv(f"{self._root}/{table}/{name}", target)
            else:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                with self._compaction_lock(table, shared=False), contextlib.suppress(FileNotFoundError):
                    (Path(self._root) / table / name).rename(target)
            moved.append(target)
        return moved

    def _broken(self, table: str) -> list[tuple[str, str]]:
        """Name of each file that is no readable Parquet, and why."""
        _check_table(table)
        self._look(table)
        broken = []
        for name in self._listing(table):
            try:
                with Path(*self._here(table, [name])).open("rb") as stream:
                    pq.ParquetFile(stream).read()  # all of it: a page in the middle may be what is torn
            except FileNotFoundError:
                continue
            except (pa.ArrowException, OSError) as error:
                broken.append((name, str(error).splitlines()[0]))
        return broken

    def compact(self, tables: Sequence[str] | None = None, *, above: int = 1) -> dict[str, int]:
        """Merge the parts of each table into one file. Safe beside readers and, on a local disk, beside writers.

        Args:
            tables: which; all by default.
            above: leave a table alone that has no more part files than this.

        Returns the number of parts merged, by table. Of remote tables run one compaction at a time, with no run going.

        Raises:
            TableError: no such table, or a part file that cannot be read; names it.
        """
        merged = {}
        for table in tables or SCHEMAS:
            schema = _check_table(table)
            try:
                merged[table] = self._compact(table, schema, above)
            except Exception as error:
                if damage := self.damage(table):
                    raise TableError(damage) from error
                raise
        return merged

    def _compact(self, table: str, schema: pa.Schema, above: int) -> int:
        self._look(table)
        names = self._listing(table)
        leftovers = sum(bool(COMPACTED.fullmatch(name)) for name in names) > 1
        if len(names) <= max(above, 1) and not leftovers:
            return 0
        from storage.compaction import merge, merge_last_values  # here: writers need no DuckDB

        with self._compaction_lock(table, shared=False):
            self._look(table)
            names = self._listing(table)
            layout = self.layout(table)
            singles = [name for name in names if not COMPACTED.fullmatch(name)]
            if not singles and len(names) < 2:
                return 0  # another process was faster
            merged = _merged_file(names)
            parts = self._merged_parts(table, merged)[0] | {name.removesuffix(".parquet") for name in singles}
            generation = int(COMPACTED.fullmatch(merged)[1]) + 1 if merged else 1  # type: ignore[index]
            folder = f"{self._root}/{table}"
            with self._workplace(table) as scratch:
                rows, last = scratch / "rows.parquet", scratch / "last.parquet"
                metadata = {_PARTS.decode(): json.dumps(sorted(parts))}
                with durable.explain_full_disk(Path(folder)):
                    merge(layout, schema, rows, metadata)
                    if table == "metrics":
                        merge_last_values(rows, last)
                # The last values first: a compacted file without them is slower, one with another's would be wrong.
                if table == "metrics":
                    self._move_in(last, f"{self._root}/{_LAST}", f"{table}-{generation:06}.parquet")
                self._move_in(rows, folder, f"compacted-{generation:06}.parquet")
            for name in names:
                self._remove(f"{folder}/{name}")
            self._look(_LAST)
            for name in self._listing(_LAST):
                if name.startswith(f"{table}-") and name != f"{table}-{generation:06}.parquet":
                    self._remove(f"{self._root}/{_LAST}/{name}")
            return len(singles)

    def _read(
        self, table: str, schema: pa.Schema, columns: Sequence[str] | None, where: pads.Expression | None
    ) -> pa.Table:
        import pyarrow.dataset as pads  # here: its import takes half a second, and queries do not need it
        import pyarrow.fs as pafs

        self._look(table)
        layout = self.layout(table)
        # Nullable whatever the schema says: a part from before a column was added has nulls there.
        loose = pa.schema([field.with_nullable(True) for field in schema])
        kinds = {"format": pads.ParquetFileFormat(), "filesystem": pafs.LocalFileSystem()}
        found = []
        if layout.parts:
            single = pads.FileSystemDataset.from_paths(list(layout.parts), schema=loose, **kinds)
            found.append(single.to_table(columns=columns, filter=where))
        if layout.merged:
            whole = pads.FileSystemDataset.from_paths([layout.merged], schema=loose.append(_PART_COLUMN), **kinds)
            keep = ~pads.field("part").isin(pa.array(layout.outdated, pa.string())) if layout.outdated else None
            both = where if keep is None else keep if where is None else where & keep
            found.append(whole.to_table(columns=columns or loose.names, filter=both))
        return pa.concat_tables(found) if found else pads.dataset(loose.empty_table()).to_table(columns=columns)

    def _merged_parts(self, table: str, merged: str | None) -> tuple[set[str], tuple[str, ...]]:
        """The parts that a compacted file holds, and its columns."""
        if merged is None:
            return set(), ()
        with Path(*self._here(table, [merged])).open("rb") as stream:
            schema = pq.read_schema(stream)
        return set(json.loads((schema.metadata or {})[_PARTS])), tuple(schema.names)

    # Where local and remote differ

    def _look(self, table: str) -> None:
        """See the files of a remote table as they are now."""
        if self._mirror:
            self._mirror.refresh(table)

    def _here(self, table: str, names: Sequence[str]) -> list[str]:
        """Where these files of a table lie on this disk."""
        if self._mirror:
            return [str(path) for path in self._mirror.paths(table, names)]
        return [f"{self._root}/{table}/{name}" for name in names]

    def _listing(self, table: str) -> list[str]:
        """Names of a table's Parquet files, sorted; temporary ones start with a dot."""

        def once() -> list[str]:
            try:
                found = [path.name for path in Path(self._root, table).iterdir()]
            except FileNotFoundError:
                return []
            return sorted(name for name in found if name.endswith(".parquet") and not name.startswith("."))

        if self._mirror:
            return self._mirror.names(table)
        names = once()
        # A folder that changes while it is listed may show neither the old file nor the new: look until it holds still.
        while names != (again := once()):
            names = again
        return names

    def _compaction_lock(self, table: str, *, shared: bool) -> contextlib.AbstractContextManager[None]:
        if self.is_remote or self._locks is None:
            return contextlib.nullcontext()
        return durable.lock(self._locks / f"table-{table}.lock", shared=shared)

    @contextlib.contextmanager
    def _workplace(self, table: str) -> Iterator[Path]:
        """A local folder for one compaction, called as the table; a killed one's leftovers are gone."""
        if self.is_remote:
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch, table)
                folder.mkdir()
                yield folder
            return
        folder = Path(self._root, ".compacting", table)  # beside its target: a rename moves it in
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _move_in(self, file: Path, folder: str, name: str) -> None:
        if self.is_remote:
            write_object(self.filesystem, f"{folder}/{name}", file)
            return
        Path(folder).mkdir(exist_ok=True)
        durable.fsync_file(file)
        file.replace(Path(folder, name))
        durable.fsync_folder(Path(folder))

    def _remove(self, path: str) -> None:
        if self.is_remote:
            self.filesystem.rm_file(path)
        else:
            Path(path).unlink()


def _merged_file(names: list[str]) -> str | None:
    """Name of the newest compaction; an older one is a leftover of a killed `compact`."""
    found = [name for name in names if COMPACTED.fullmatch(name)]
    return max(found, key=lambda name: int(COMPACTED.fullmatch(name)[1]), default=None)  # type: ignore[index]


def _check_table(table: str) -> pa.Schema:
    if table not in SCHEMAS:
        raise TableError(f"no table {table!r}: there are {', '.join(SCHEMAS)}")
    return SCHEMAS[table]
