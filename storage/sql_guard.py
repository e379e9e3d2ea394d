"""What a query may be, one statement that only reads the tables, and the error messages for everything else.

DuckDB parses the statement, and this module checks the syntax tree against a list of what is allowed. That the
connection can only open the files of the tables is the second line of defence (`storage.queries`), not the first: a new
version of DuckDB may bring functions that nobody here has heard of.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.rows import TableError

# Functions that may be used as tables: they make rows from their arguments only.
TABLE_FUNCTIONS = frozenset({"generate_series", "json_each", "json_tree", "range", "repeat", "repeat_row", "unnest"})
# They reveal the connection (paths of files, settings) or write to DuckDB's log.
FORBIDDEN_FUNCTIONS = frozenset({"current_setting", "getenv", "getvariable", "pg_get_viewdef", "write_log"})
_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_SHOWN = frozenset({"tables", "databases", "__show_tables_expanded"})  # SHOW TABLES, DATABASES, ALL TABLES
_CATALOG = frozenset({"information_schema.columns", "information_schema.tables"})
_EXPLAIN = re.compile(r"(?is)\A(?:\s|--[^\n]*\n|/\*.*?\*/)*EXPLAIN\b(\s+ANALYZE\b)?")
_CLOSE = 0.6  # difflib's similarity above which a name counts as misspelled


class QueryError(TableError):
    """A statement that is not a single SELECT, or that DuckDB rejects; the message says why and where."""


@dataclass(frozen=True)
class Checked:
    """A statement that only reads.

    Attributes:
        sql: what to run.
        tables: the tables and views that it names.
        catalog: it asks which tables exist.
        columns: where each column name occurs first, as an offset in the statement's UTF-8.
    """

    sql: str
    tables: tuple[str, ...] = ()
    catalog: bool = False
    columns: Mapping[str, int] = field(default_factory=dict)


def check(
    sql: str, parse: Callable[[str], str], kinds: Callable[[str], Sequence[str]], names: Sequence[str]
) -> Checked:
    """Check that `sql` is one statement that only reads tables and views among `names`.

    Args:
        sql: the statement.
        parse: DuckDB's `json_serialize_sql`.
        kinds: DuckDB's names of the kinds of the statements in a text.
        names: what it may read.

    Raises:
        QueryError: it is not; says what was found and where.
    """
    explain = _EXPLAIN.match(sql)
    body = sql[explain.end() :] if explain else sql
    shift = len(sql[: explain.end()].encode()) if explain else 0
    try:
        tree = json.loads(parse(body))
    except RecursionError:
        raise QueryError("this query is nested too deeply") from None
    if tree["error"] and tree["error_type"] == "parser":
        raise QueryError(_syntax(tree, sql, shift))
    found = kinds(body)
    if len(found) != 1:
        raise QueryError(f"a query is one SELECT statement; got {f'{len(found)} statements' if found else 'none'}")
    if tree["error"]:
        hint = " (give PIVOT its values: ON column IN (…))" if "pivot" in sql.lower() else ""
        raise QueryError(f"a query only reads: use SELECT; got {found[0]}{hint}")
    nodes = list(_walk(tree["statements"][0]))
    maps = [node["map"] for node in nodes if isinstance(node.get("map"), list)]
    ctes = {entry["key"].lower() for entries in maps for entry in entries if "key" in entry}
    columns: dict[str, int] = {}
    tables, catalog = [], False
    for node in nodes:
        kind = node.get("type", "")
        if not isinstance(kind, str):
            continue
        at = node.get("query_location", -1 - shift) + shift
        if kind.endswith("_NODE") and kind not in _NODES:
            what = kind.removesuffix("_NODE").removesuffix("_QUERY")
            raise QueryError(f"a query only reads; got {what} within it")
        if kind == "BASE_TABLE":
            tables += _known_table(node, ctes, names, sql, at)
            catalog |= "information_schema" in node.get("qualified_name", {}).get("path", ())
        elif kind == "SHOW_REF" and (name := node.get("table_name", "").strip('"')):
            catalog |= name in _SHOWN
            if name not in _SHOWN:
                tables += _known_table(node, ctes, names, sql, at)
        elif kind == "TABLE_FUNCTION":
            name = node["function"].get("function_name", "").lower()
            if name not in TABLE_FUNCTIONS:
                allowed = ", ".join(sorted(TABLE_FUNCTIONS))
                reason = f"queries see the tables only, no files and no network: the function {name} is not allowed"
                raise QueryError(f"{_at(sql, at)}{reason} (allowed: {allowed}){_caret(sql, at)}")
        elif kind == "FUNCTION" and node.get("function_name", "").lower() in FORBIDDEN_FUNCTIONS:
            reason = f"queries see the tables only: the function {node['function_name']} is not allowed"
            raise QueryError(f"{_at(sql, at)}{reason}{_caret(sql, at)}")
        elif kind == "COLUMN_REF" and node.get("column_names"):
            columns.setdefault(node["column_names"][-1].lower(), at)
    if explain:  # run what was checked, not what stood between
        body = f"EXPLAIN{' ANALYZE' if explain[1] else ''} {body}"
    return Checked(body, tuple(tables), catalog, columns)


def advice(error: Exception, statement: Checked, sql: str, columns_of: Callable[[str], Sequence[str]]) -> str:
    """DuckDB's error about a statement, with its position and the nearest existing names."""
    text = str(error).strip()
    first = re.sub(r"^[A-Z][A-Za-z ]{2,30} Error: ", "", text.split("\n\nLINE ")[0]).strip()
    column = re.search(r'column "([^"]+)" not found|does not have a column named "([^"]+)"', first)
    if column:
        name = column[1] or column[2]
        at = statement.columns.get(name.lower(), -1)
        own = {table: columns_of(table) for table in dict.fromkeys(statement.tables)}
        near = nearest(name, sorted({each for columns in own.values() for each in columns}))
        there = [f"{table}.{each}" for each in near for table, columns in own.items() if each in columns]
        if there:
            hint = f"; nearest: {', '.join(there[:4])}"
        else:
            hint = "".join(f"\n{table} has {', '.join(columns)}" for table, columns in own.items())
        return f"{_at(sql, at)}unknown column {name!r}{hint}{_caret(sql, at)}"
    position = re.search(r"LINE \d+: ", text)
    return f"{first}\n{text[position.start() :]}" if position else first


def nearest(name: str, names: Sequence[str], count: int = 3) -> list[str]:
    """The names most similar to `name`, or that begin with it; none where nothing is close."""
    low = {each.lower(): each for each in names}
    close = difflib.get_close_matches(name.lower(), low, count, _CLOSE)
    begun = [each for each in low if len(name) > 1 and each.startswith(name.lower())]
    return [low[each] for each in dict.fromkeys([*close, *begun])][:count]


def _known_table(node: Mapping[str, Any], ctes: set[str], names: Sequence[str], sql: str, at: int) -> list[str]:
    parts = node.get("qualified_name", {}).get("path", [node.get("table_name", "")])
    path = [part.strip('"').lower() for part in parts]
    name, where = path[-1], ".".join(path[:-1])
    if where in ("", "main", "memory.main", "memory") and name in names:
        return [name]
    if (not where and name in ctes) or f"{where}.{name}" in _CATALOG:
        return []
    shown = node.get("table_name", name).strip('"')
    near = nearest(shown, [*names, *ctes])
    if near:
        hint = f"nearest: {', '.join(near)}"
    else:
        hint = f"there are {', '.join(names)}"
    files = " (queries see the tables only, no files)" if re.search(r"[./\\]", shown) else ""
    raise QueryError(f"{_at(sql, at)}unknown table {shown!r}{files}; {hint}{_caret(sql, at)}")


def _syntax(tree: Mapping[str, Any], sql: str, shift: int) -> str:
    at = int(tree["position"]) + shift if "position" in tree else -1
    hint = ""
    if re.search(r"(?i)(?<![\"\w])group\b(?!\s+by)(?!\")", sql):
        hint = '\nThe column "group" needs its quotes.'
    return f"{_at(sql, at)}{tree['error_message']}{_caret(sql, at)}{hint}"


def _walk(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree, without recursion: a query may be nested as deeply as it likes."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(reversed(list(node.values())))
        elif isinstance(node, list):
            stack.extend(reversed(node))


def _place(sql: str, at: int) -> tuple[int, int, str]:
    before = sql.encode()[:at].decode(errors="ignore")
    line = before.count("\n")
    return line, len(before) - (before.rfind("\n") + 1), sql.split("\n")[line]


def _at(sql: str, at: int) -> str:
    if at < 0:
        return ""
    line, column, _ = _place(sql, at)
    return f"line {line + 1}, column {column + 1}: "


def _caret(sql: str, at: int) -> str:
    """The line with a mark under the position; of a long line, the part around it."""
    if at < 0:
        return ""
    _, column, text = _place(sql, at)
    begin = max(0, column - 60)
    shown = text[begin : begin + 100].replace("\t", " ")
    return f"\n  {shown}\n  {' ' * (column - begin)}^"
