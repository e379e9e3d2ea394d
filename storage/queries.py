"""SQL over the tables: DuckDB in memory, read only, with no way to a file or to the network.

Each table of `storage.tables` is a view of its name; `VIEWS` adds what people ask for most. Times are UTC.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from storage.home import Home
from storage.tables import SCHEMAS, TableError

# Views over views: `run_costs` and `run_leaderboard` tell of every run, `stage_costs` and `leaderboard` of the newest.
VIEWS: dict[str, str] = {
    # One row a run, newest first. A run that was killed has no end: its status stays 'running'.
    "latest_runs": """
        WITH counts AS (
            SELECT run_id, count(*) FILTER (status = 'ran') AS ran, count(*) FILTER (status = 'cached') AS cached,
                   count(*) FILTER (status = 'failed') AS failed
            FROM stages GROUP BY run_id)
        SELECT s.run_id, s.name, s.profile, coalesce(e.status, s.status) AS status, s.time AS started_at,
               e.time AS ended_at, epoch(e.time) - epoch(s.time) AS seconds, coalesce(ran, 0) AS ran,
               coalesce(cached, 0) AS cached, coalesce(failed, 0) AS failed
        FROM (SELECT * FROM runs WHERE event = 'started'
              QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY time DESC) = 1) s
        LEFT JOIN (SELECT * FROM runs WHERE event = 'ended'
                   QUALIFY row_number() OVER (PARTITION BY run_id ORDER BY time DESC) = 1) e USING (run_id)
        LEFT JOIN counts USING (run_id)
        ORDER BY started_at DESC, run_id""",
    # The run that started last, whether it has ended or not.
    "current_run": "SELECT * FROM latest_runs ORDER BY started_at DESC, run_id LIMIT 1",
    # Last word on each stage of each run: a stage that failed and then ran has two rows in `stages`.
    "run_stages": """
        SELECT * FROM stages
        QUALIFY row_number() OVER (
            PARTITION BY run_id, label ORDER BY ended_at DESC NULLS LAST, started_at DESC) = 1
        ORDER BY run_id, started_at, label""",
    # What each stage of each run cost when its artifact was made, by this run or by an earlier one.
    # A key that two labels share was paid for once.
    "run_costs": """
        SELECT s.run_id, s.stage, s.label, s."group", s.status, s.key, c.run_id AS paid_by_run,
               c.* EXCLUDE (run_id, key)
        FROM (SELECT * FROM run_stages WHERE status IN ('ran', 'cached')
              QUALIFY row_number() OVER (PARTITION BY run_id, key ORDER BY started_at, label) = 1) s
        JOIN (SELECT key, max(run_id) AS run_id, sum(tokens)::BIGINT AS tokens, sum(flops) AS flops,
                     sum(seconds) AS seconds, sum(cpu_seconds) AS cpu_seconds, sum(energy_joules) AS energy_joules,
                     sum(usd) AS usd, string_agg(DISTINCT hardware, ', ' ORDER BY hardware) AS hardware
              FROM costs GROUP BY key) c USING (key)
        ORDER BY s.started_at, s.label""",
    "stage_costs": "SELECT * FROM run_costs WHERE run_id IN (SELECT run_id FROM current_run)",
    # Accuracy with its Wilson 95% interval (Wilson 1927; z = 1.959964), per suite, model and strategy.
    "run_leaderboard": """
        WITH answered AS (
            SELECT s.run_id, suite, model, strategy, count(correct) AS n, count(*) FILTER (correct) AS num_correct,
                   avg(score) AS score, avg(completion_tokens) AS tokens_per_item, avg(e.seconds) AS seconds_per_item
            FROM (SELECT DISTINCT run_id, key FROM run_stages WHERE status <> 'failed') s JOIN evals e USING (key)
            GROUP BY ALL),
        wilson AS (
            SELECT *, num_correct / nullif(n, 0) AS p, 1.959963984540054 AS z, 1 + z * z / nullif(n, 0) AS scale,
                   (p + z * z / (2 * nullif(n, 0))) / scale AS middle,
                   z * sqrt(p * (1 - p) / nullif(n, 0) + z * z / (4 * nullif(n, 0) ** 2)) / scale AS half
            FROM answered)
        SELECT run_id, suite, model, strategy, n, p AS accuracy, if(n > 0, greatest(0, middle - half), NULL) AS low,
               if(n > 0, least(1, middle + half), NULL) AS high, score, tokens_per_item, seconds_per_item
        FROM wilson ORDER BY suite, accuracy DESC, tokens_per_item, model, strategy""",
    "leaderboard": "SELECT * FROM run_leaderboard WHERE run_id IN (SELECT run_id FROM current_run)",
    # Metrics of the newest run's alignment and reasoning stages that tell of reward and its price, long form.
    "reward_curves": """
        SELECT s.run_id, s.label, s.stage, s.key, m.step, m.name, m.value
        FROM (SELECT * FROM run_stages WHERE run_id IN (SELECT run_id FROM current_run)) s JOIN metrics m USING (key)
        WHERE regexp_matches(lower(m.name), '(^|[._/ ])(reward|score|gold|proxy|kl|margin|exact_match|accuracy)')
          AND s."group" IN ('rlhf', 'reasoning')
        ORDER BY s.label, m.name, m.step""",
}

Format = Literal["table", "csv", "json", "parquet"]
FORMATS: tuple[Format, ...] = ("table", "csv", "json", "parquet")


# Errors that lie in the statement, never in the files beneath.
_USERS_FAULT = (duckdb.ParserException, duckdb.CatalogException, duckdb.BinderException, duckdb.PermissionException)


class QueryError(TableError):
    """A statement that is not one plain SELECT, or that DuckDB rejects; the message says why."""


def connect(home: Home) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with one view a table (tables without rows too) and the views of `VIEWS`.

    The configuration is locked: no file, no network, no extension, no attached database. The views read the part
    files that stood when this was called; connect again to see later ones.
    """
    connection = duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        for table in SCHEMAS:
            connection.register(table, home.tables.dataset(table))
        for name, sql in VIEWS.items():
            connection.execute(f"CREATE VIEW {name} AS {sql}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def query(home: Home, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pa.Table:
    """Run one SELECT over the tables and return its rows.

    Args:
        home: whose tables.
        sql: one statement that only reads: SELECT, WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN.
        params: values for `?` or `$name`.

    Raises:
        QueryError: more than one statement, one that does more than read, or one that DuckDB rejects.
        TableError: a part file is damaged; names it.
    """

    def run() -> pa.Table:
        with connect(home) as connection:
            try:
                _check_reads_only(connection, sql)
                return connection.sql(sql, params=params).to_arrow_table()
            except _USERS_FAULT as error:
                raise QueryError(_advice(error, sql)) from error

    try:
        return home.tables.when_settled(run, list(SCHEMAS))
    except duckdb.Error as error:
        raise QueryError(_advice(error, sql)) from error


def _check_reads_only(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        found = f"{len(statements)} statements" if statements else "no statement"
        raise QueryError(f"a query is one SELECT statement; got {found}")
    kind = statements[0].type
    if kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        hint = " (give PIVOT its values: ON column IN (…))" if "pivot" in sql.lower() else ""
        raise QueryError(f"a query only reads: use SELECT; got a statement of kind {kind.name}{hint}")


def _advice(error: duckdb.Error, sql: str) -> str:
    text = str(error).strip()
    if isinstance(error, duckdb.PermissionException):
        return f"queries see the tables only, no files and no network: {text}"
    if isinstance(error, duckdb.ParserException) and re.search(r"(?i)(?<!\")\bgroup\b(?!\s+by)(?!\")", sql):
        return f'{text}\nThe column "group" needs its quotes.'
    if isinstance(error, duckdb.CatalogException) and "Table with name" in text:
        return f"{text}\nTables: {', '.join(SCHEMAS)}. Views: {', '.join(VIEWS)}."
    return text


# Output


def format_table(table: pa.Table, format: Format, out: IO[Any] | str | Path) -> None:
    """Write a query's result for people or programs.

    Args:
        table: what to write.
        format: "table" (aligned text), "csv" (a header line; null is empty), "json" (an array of objects; NaN and
            infinities are null), or "parquet". Times are ISO 8601, UTC.
        out: a path, or an open stream: text for all but parquet, which takes a binary one or the one beneath a
            redirected `sys.stdout`.

    Raises:
        ValueError: unknown format, or parquet to a terminal.
    """
    if format not in FORMATS:
        raise ValueError(f"format {format!r}: takes {', '.join(FORMATS)}")
    if isinstance(out, (str, Path)):
        binary = format == "parquet"
        with Path(out).open("wb" if binary else "w", encoding=None if binary else "utf-8") as stream:
            format_table(table, format, stream)
        return
    if format == "parquet":
        if getattr(out, "isatty", lambda: False)():
            raise ValueError("parquet is binary: redirect the output to a file")
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        getattr(out, "buffer", out).write(sink.getvalue().to_pybytes())
    elif format == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(table.column_names)
        for row in _rows(table):
            writer.writerow(["" if cell is None else _scalar_text(cell) for cell in row])
    elif format == "json":
        names = _unique(table.column_names)
        lines = [json.dumps(dict(zip(names, map(_json_cell, row), strict=True))) for row in _rows(table)]
        out.write("[" + ",\n ".join(lines) + "]\n")
    else:
        out.write(_aligned(table))


def _rows(table: pa.Table) -> list[tuple[Any, ...]]:
    columns = [column.to_pylist() for column in table.columns]
    return list(zip(*columns, strict=True)) if columns else []


def _unique(names: Sequence[str]) -> list[str]:
    """Names with a number on those that came before: a JSON object has one value a name."""
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return unique


def _json_cell(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _json_cell(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_cell(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, str)) else _scalar_text(value)


def _scalar_text(value: Any) -> str:
    if isinstance(value, (datetime.datetime, datetime.date)):
        return value.isoformat()
    if isinstance(value, (list, tuple, Mapping)):
        return json.dumps(_json_cell(value))
    return str(value)


_WIDEST = 60


def _aligned(table: pa.Table) -> str:
    """Columns side by side, numbers to the right; long texts are cut at 60 characters."""
    rows = [[_table_text(cell) for cell in row] for row in _rows(table)]
    numeric = [pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t) for t in table.schema.types]
    widths = [max([len(name), *(len(row[i]) for row in rows)]) for i, name in enumerate(table.column_names)]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(cells, widths, numeric, strict=True)]
        return "  ".join(padded).rstrip()

    out = io.StringIO()
    for cells in (table.column_names, ["─" * width for width in widths], *rows):
        out.write(line(cells) + "\n")
    out.write(f"({len(rows)} row{'' if len(rows) == 1 else 's'})\n")
    return out.getvalue()


def _table_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    text = " ".join(_scalar_text(value).splitlines()) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
