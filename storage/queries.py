"""SQL over the tables: DuckDB in memory, read only, without access to other files or the network.

Each table of `storage.tables` is a view of that name, `last_values` has the last value of every metric, and
`storage.views` adds the most frequent questions. Times are UTC.

    from storage.queries import query
    query(Home(".lifespan"), "SELECT * FROM leaderboard", as_="pandas")
"""

from __future__ import annotations

import atexit
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, overload

import duckdb
import pyarrow as pa

from storage.home import Home
from storage.layout import literal, pattern, select, select_last_values
from storage.live import live_files, select_live
from storage.sql_guard import Checked, QueryError, advice, check
from storage.tables import SCHEMAS
from storage.views import VIEWS

GIB = 2**30
NAMES = (*SCHEMAS, "last_values", *VIEWS)  # everything that a query can read
_BATCH = 65_536
_UTC = pa.timestamp("us", tz="UTC")
_WORD = re.compile(r"\w+")
_KEPT_SESSIONS = 4
_KEPT_STATEMENTS = 256
_PATIENCE = 0.1  # seconds of one wait


class QueryTimeout(QueryError):
    """A query exceeded its time limit, or its result the size limit."""


@dataclass(frozen=True)
class Limits:
    """What one query may use.

    Attributes:
        seconds: wall clock; None for no limit.
        memory_bytes: of DuckDB while it works; nothing is spilled to disk.
        result_bytes: of the result, as Arrow.
    """

    seconds: float | None = None
    memory_bytes: int = 4 * GIB
    result_bytes: int = 2 * GIB


@dataclass(frozen=True)
class _Session:
    """A connection to the tables as they were when it was opened; a view is created when the first query names it."""

    stamp: tuple[Any, ...]
    connection: duckdb.DuckDBPyConnection
    definitions: Mapping[str, str]
    made: set[str] = field(default_factory=set)
    checked: dict[str, Checked] = field(default_factory=dict)  # by statement: pages ask the same ones again and again
    lock: Any = field(default_factory=threading.Lock)

    def make(self, names: Iterable[str]) -> None:
        """Create the views of these names, and those that they depend on."""
        for name in names:
            if name not in self.made and name in self.definitions:
                sql = self.definitions[name]
                self.make(word for word in _WORD.findall(VIEWS.get(name, "")) if word != name)
                self.connection.execute(f"CREATE OR REPLACE VIEW {name} AS {sql}")
                self.made.add(name)


_sessions: dict[tuple[int, str, int], _Session] = {}
_sessions_lock = threading.Lock()
atexit.register(_sessions.clear)  # DuckDB complains about connections that outlive the interpreter


@overload
def query(
    home: Home,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    limits: Limits = ...,
) -> pa.Table: ...
@overload
def query(
    home: Home,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    as_: Literal["arrow", "pandas", "polars"],
    limits: Limits = ...,
) -> Any: ...
def query(
    home: Home,
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    as_: Literal["arrow", "pandas", "polars"] = "arrow",
    limits: Limits = Limits(),
) -> Any:
    """Run one SELECT over the tables and return its rows.

    Args:
        home: whose tables.
        sql: one statement that only reads: SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN.
        params: values for `?` or `$name`.
        as_: "arrow" (`pyarrow.Table`), "pandas" or "polars" (a DataFrame; polars is not a dependency of Lifespan).
        limits: of time, memory and the result's size. Ctrl-C ends a query at once.

    Raises:
        QueryError: more than one statement, one that does more than read, or one that DuckDB rejects; says where.
        QueryTimeout: beyond `limits`.
        TableError: a part file is damaged; names it.
        ModuleNotFoundError: polars is requested and not installed.
    """
    convert = _converter(as_)

    def attempt() -> pa.Table:
        # A part that is replaced under a query could give half of each: what was read must still be there afterwards.
        for last in (False, False, False, False, True):
            stamp = _stamp(home)
            try:
                result = _interruptible(partial(_run, home, stamp, sql, params, limits), limits)
            except (duckdb.IOException, duckdb.PermissionException):  # a part that has just gone is taken for a folder
                if last or stamp == _stamp(home):
                    raise
                continue
            if home.tables.is_remote:  # it read copies that never change
                break
            after = _stamp(home)
            if stamp == after or set(stamp) <= set(after):
                break
        return result

    try:
        return convert(home.tables.when_settled(attempt, list(SCHEMAS)))
    except duckdb.Error as error:
        raise QueryError(str(error).strip()) from error


def _run(
    home: Home,
    stamp: tuple[Any, ...],
    sql: str,
    params: Any,
    limits: Limits,
    started: Callable[[duckdb.DuckDBPyConnection], None],
) -> pa.Table:
    session = _session(home, limits, stamp)
    cursor = session.connection.cursor()
    started(cursor)
    statement = session.checked.get(sql)
    if statement is None:
        statement = check(sql, partial(_parse, cursor), partial(_kinds, cursor), NAMES)
        if len(session.checked) < _KEPT_STATEMENTS:
            session.checked[sql] = statement
    try:
        with session.lock:
            session.make(NAMES if statement.catalog else statement.tables)
        return _fetch(cursor, statement, params, limits)
    except duckdb.OutOfMemoryException as error:
        needed = f"this query needs more than {limits.memory_bytes / GIB:.3g} GiB: narrow it, or aggregate earlier"
        raise QueryTimeout(needed) from error
    except duckdb.Error as error:
        if isinstance(error, duckdb.IOException) or ".parquet" in str(error):
            raise  # of a file, not of the statement: it may be gone or damaged, and the caller looks
        raise QueryError(advice(error, statement, sql, partial(_columns, session))) from error


def relations(home: Home) -> dict[str, list[str]]:
    """The columns of every table and view."""
    session = _session(home, Limits(), _stamp(home))
    return {name: _columns(session, name) for name in NAMES}


def _session(home: Home, limits: Limits, stamp: tuple[Any, ...]) -> _Session:
    """A connection to the tables as they are now: the one from before where no file has changed."""
    name = (os.getpid(), home.tables.url, limits.memory_bytes)  # a fork inherits no threads, so no connection
    with _sessions_lock:
        kept = _sessions.pop(name, None)
        if kept is None or kept.stamp != stamp:
            kept = _connect(home, limits, stamp)
        _sessions[name] = kept
        while len(_sessions) > _KEPT_SESSIONS:
            del _sessions[next(iter(_sessions))]
        return kept


def _stamp(home: Home) -> tuple[Any, ...]:
    """Changes whenever a file of a table does, or a stage begins or ends to show its points."""
    return (*home.tables.stamp(), *(("live", str(file)) for file in live_files(home)))


def _connect(home: Home, limits: Limits, stamp: tuple[Any, ...]) -> _Session:
    """An in-memory DuckDB whose configuration is locked; the part files are all that it can open."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",  # variables of this program are not tables
        "memory_limit": f"{limits.memory_bytes}B",
        "temp_directory": "",
    }
    connection = duckdb.connect(":memory:", config=config)
    tables, live = home.tables, live_files(home)
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET parquet_metadata_cache = true")  # a changed file means a new connection: never stale
        layouts = {table: tables.layout(table) for table in SCHEMAS}
        every = [*(file for layout in layouts.values() for file in layout.files), *map(str, live)]
        files = {each for file in every for each in (file, pattern(file))}
        connection.execute(f"SET allowed_paths = [{', '.join(map(literal, sorted(files)))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    definitions = {table: select(layouts[table], schema) for table, schema in SCHEMAS.items()}
    definitions["last_values"] = select_last_values(layouts["metrics"], SCHEMAS["metrics"])
    definitions |= VIEWS
    if live:
        definitions["live_metrics"] += f" UNION ALL {select_live(live)}"
    return _Session(stamp, connection, definitions)


def _parse(cursor: duckdb.DuckDBPyConnection, sql: str) -> str:
    tree = "SELECT json_serialize_sql(?, skip_empty := true, skip_null := true, skip_default := true)"
    return str(cursor.execute(tree, [sql]).fetchall()[0][0])


def _kinds(cursor: duckdb.DuckDBPyConnection, sql: str) -> list[str]:
    return [_kind(statement) for statement in cursor.extract_statements(sql)]


def _kind(statement: duckdb.Statement) -> str:
    try:
        return statement.type.name
    except ValueError:  # one that DuckDB's own Python part does not know, such as UPDATE EXTENSIONS
        return statement.query.split(maxsplit=1)[0].upper()


def _columns(session: _Session, name: str) -> list[str]:
    if name in SCHEMAS:
        return list(SCHEMAS[name].names)
    with session.lock:
        session.make([name])
    return [row[0] for row in session.connection.cursor().execute(f"DESCRIBE {name}").fetchall()]


def _fetch(cursor: duckdb.DuckDBPyConnection, statement: Checked, params: Any, limits: Limits) -> pa.Table:
    reader = cursor.sql(statement.sql, params=params).to_arrow_reader(_BATCH)
    # DuckDB says Etc/UTC. A view, because `cast` would import what takes longer than most queries.
    schema = pa.schema([f.with_type(_UTC) if pa.types.is_timestamp(f.type) and f.type.tz else f for f in reader.schema])
    batches, size = [], 0
    for batch in reader:
        columns = [c.view(f.type) if f.type == _UTC else c for c, f in zip(batch.columns, schema, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
        size += batch.nbytes
        if size > limits.result_bytes:
            cursor.interrupt()
            raise QueryTimeout(f"the result is larger than {limits.result_bytes / GIB:.3g} GiB: add a LIMIT")
    return pa.Table.from_batches(batches, schema)


def _interruptible(work: Callable[[Callable[[duckdb.DuckDBPyConnection], None]], pa.Table], limits: Limits) -> pa.Table:
    """Do `work` in a separate thread, so that Ctrl-C and the time limit end it wherever it is.

    All of DuckDB's work is done there: in the main thread, it would turn Ctrl-C into an error of its own.

    Args:
        work: is handed a function to call with the cursor that the query runs on.
    """
    done: Future[pa.Table] = Future()
    stopped = threading.Event()
    cursors: list[duckdb.DuckDBPyConnection] = []

    def run() -> None:
        try:
            if not stopped.is_set():
                done.set_result(work(cursors.append))
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="lifespan query", daemon=True)
    try:
        thread.start()
        deadline = math.inf if limits.seconds is None else time.monotonic() + limits.seconds
        # In short waits: an interrupt that comes just before a wait begins is seen when the wait is over.
        while not wait([done], min(_PATIENCE, max(0.0, deadline - time.monotonic()))).done:
            if time.monotonic() >= deadline:
                raise TimeoutError
        return done.result()
    except (TimeoutError, KeyboardInterrupt) as error:
        stopped.set()
        while thread.is_alive():  # again and again: an interrupt that comes before the first step is forgotten
            for cursor in cursors:
                cursor.interrupt()
            thread.join(0.05)
        if isinstance(error, KeyboardInterrupt):
            raise
        message = f"this query was stopped after {limits.seconds:g} s: narrow it down, or allow more time"
        raise QueryTimeout(message) from None


def _converter(as_: str) -> Callable[[pa.Table], Any]:
    if as_ == "arrow":
        return lambda table: table
    if as_ == "pandas":
        return lambda table: table.to_pandas()
    if as_ != "polars":
        raise ValueError(f"as_={as_!r}: takes arrow, pandas, polars")
    try:
        import polars
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "as_='polars' needs polars, which is not installed: pip install polars, or take as_='arrow'", name="polars"
        ) from None
    return lambda table: polars.from_arrow(table)
