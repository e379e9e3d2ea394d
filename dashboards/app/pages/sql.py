"""The editor of SQL: a statement that only reads, its rows as table and chart, named queries, and files to keep."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from typing import Any

from dashboards.app.address import Address
from dashboards.app.outside import Outside
from dashboards.app.rows import PAGE, plain
from dashboards.app.view import Tool, View
from storage.home import Home
from storage.named import find, named_queries, values
from storage.output import write_result
from storage.queries import query, relations
from storage.reference import about, meanings
from storage.sql_guard import QueryError
from storage.sql_text import parameter_names

MOST_ROWS = 5000  # that are shown; files hold all
START = "SELECT * FROM run_summary"
KINDS = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}


def sql_page(home: Home, address: Address, outside: Outside) -> View:
    """The editor, filled in from the address."""
    name = address.text("named")
    sql = address.text("q")
    queries = named_queries()
    if not sql:
        sql = queries[name].sql if name in queries else START
    schema = {
        table: {"columns": columns, "about": about(table), "meanings": meanings(table)}
        for table, columns in relations(home).items()
    }
    named = [
        {
            "name": one.name,
            "answers": one.answers,
            "sql": one.sql,
            "parameters": [
                {"name": p.name, "kind": p.kind, "default": p.default, "about": p.about} for p in one.parameters
            ],
        }
        for one in queries.values()
    ]
    return View(
        "SQL", (Tool("sql", {"sql": sql, "schema": schema, "named": named, "name": name}),), address=address.used
    )


def run_sql(home: Home, sql: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Columns, types and rows of a statement, at most `MOST_ROWS` of them, and the milliseconds that it took.

    Raises QueryError for what is no query, as `lifespan query` explains it.
    """
    began = time.perf_counter()
    table = _answer(home, sql, given)
    return {
        "names": table.column_names,
        "types": [str(field.type) for field in table.schema],
        "rows": plain(table.slice(0, MOST_ROWS)),
        "count": table.num_rows,
        "ms": round(1000 * (time.perf_counter() - began), 1),
    }


def export(home: Home, sql: str, given: Mapping[str, str], kind: str) -> tuple[bytes, str]:
    """All rows as a file: its bytes and media type. Raises QueryError."""
    if kind not in KINDS:
        raise QueryError(f"format: takes {', '.join(KINDS)}; got {kind!r}")
    table = _answer(home, sql, given)
    if kind == "csv":
        text = io.StringIO()
        write_result(table, "csv", text, None)
        return text.getvalue().encode(), KINDS[kind]
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue(), KINDS[kind]


def _answer(home: Home, sql: str, given: Mapping[str, str]) -> Any:
    wanted = parameter_names(sql)
    named = next((one for one in named_queries().values() if one.sql.strip() == sql.strip()), None)
    typed: dict[str, Any] = {name: value for name, value in given.items() if name in wanted}
    if named is not None:
        typed = values(
            home, find(named.name), {name: value for name, value in given.items() if value and name in wanted}
        )
    elif lacking := sorted(wanted - typed.keys()):
        raise QueryError(f"the query has {', '.join('$' + name for name in lacking)}: fill it in below the editor")
    return query(home, sql, typed or None, limits=PAGE)
