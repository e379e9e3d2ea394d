"""Bounded queries for pages: rows as columns that become JSON as they are, and the SQL as a person would type it."""

from __future__ import annotations

import datetime
import functools
import json
import math
import threading
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from dashboards.run_data import RunRows, read_run
from storage.home import Home
from storage.layout import literal
from storage.queries import Limits, query

MIB = 2**20
PAGE = Limits(seconds=10.0, memory_bytes=1024 * MIB, result_bytes=64 * MIB)

KEPT, MOST_KEPT = 64, 50_000  # answers, and values of one of them

Columns = dict[str, list[Any]]
_answers: dict[tuple[str, ...], tuple[tuple[Any, ...], Columns]] = {}
_lock = threading.Lock()


def ask(home: Home, sql: str, params: Mapping[str, Any] | None = None) -> Columns:
    """The columns of a query, within the limits of a page. Raises as `storage.queries.query` does.

    An answer is kept while no table changes: a slider that is dragged asks for the same rows again and again.
    """
    stamp = home.tables.stamp()
    if stamp is None or "live_metrics" in sql:
        return plain(query(home, sql, params or None, limits=PAGE))
    key = (home.root, str(home.local), sql, json.dumps(params, sort_keys=True))
    with _lock:
        kept = _answers.pop(key, None)
        if kept is not None and kept[0] == stamp:
            _answers[key] = kept
            return dict(kept[1])
    found = plain(query(home, sql, params or None, limits=PAGE))
    if sum(map(len, found.values())) <= MOST_KEPT:
        with _lock:
            _answers[key] = stamp, found
            while len(_answers) > KEPT:
                del _answers[next(iter(_answers))]
    return dict(found)


def plain(table: pa.Table) -> Columns:
    """Columns that JSON can hold: times in milliseconds since 1970, None for what is not finite."""
    return {name: [_value(value) for value in table[name].to_pylist()] for name in table.column_names}


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, int) and abs(value) > 2**53:
        return float(value)
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    if isinstance(value, dict):
        return {str(name): _value(one) for name, one in value.items()}
    return str(value)


def typed(sql: str, params: Mapping[str, Any]) -> str:
    """The statement with its parameters written out, for the editor of SQL."""
    text = "\n".join(line[8:] if line.startswith("        ") else line for line in sql.strip("\n").splitlines()).strip()
    for name in sorted(params, key=len, reverse=True):
        text = text.replace(f"${name}", _literal(params[name]))
    return text


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return "NULL" if value is None else str(value)


def life(home: Home, run_id: str) -> RunRows:
    """The rows of a run as the report reads them; kept while no table changes. Raises UnknownRun."""
    return _life(home.root, str(home.local), run_id, home.tables.stamp() or datetime.datetime.now().timestamp())


@functools.lru_cache(maxsize=4)
def _life(root: str, local: str, run_id: str, stamp: Any) -> RunRows:
    return read_run(Home(root, local), run_id)


def newest(home: Home) -> str | None:
    """Id of the run that started last."""
    found = ask(home, "SELECT run_id FROM runs WHERE event = 'started' ORDER BY time DESC, run_id LIMIT 1")["run_id"]
    return str(found[0]) if found else None


def run_names(home: Home, at_most: int = 200) -> tuple[tuple[str, str], ...]:
    """The newest runs as options: id, and what people read."""
    found = ask(home, f"SELECT run_id, name, profile, status FROM latest_runs LIMIT {at_most}")
    return tuple(
        (run, f"{run} · {name or profile or ''} · {status}")
        for run, name, profile, status in zip(*found.values(), strict=True)
    )
