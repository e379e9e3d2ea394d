"""Queries with a name and typed parameters: `storage/named_queries/*.sql`, or a user's own file of SQL.

The comments at the top of a file say what it answers and which parameters it takes:

    -- In which runs does a metric end best?
    -- @metric text = loss: name of the metric
    -- @best low|high = low: which end of the scale is the good one
    -- @run run: a run, or the beginning of its id
    SELECT …  WHERE name = $metric

Kinds: text, int, float, bool, time (ISO 8601, UTC if it names no zone), run (the beginning of a run's id, or `newest`),
or the allowed words, separated by |. A parameter without a default is required; the default `null` means no value.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from storage.home import Home
from storage.queries import query
from storage.sql_guard import QueryError, nearest

_FOLDER = Path(__file__).parent / "named_queries"
_PARAMETER = re.compile(r"--\s*@(\w+)\s+([\w|]+)\s*(?:=\s*([^:]*?))?\s*(?::\s*(.*))?")
NEWEST = "newest"


@dataclass(frozen=True)
class Parameter:
    """One parameter: `$name` in the SQL. `default` is None when a value is required."""

    name: str
    kind: str
    default: str | None = None
    about: str = ""

    def __str__(self) -> str:
        return f"{self.name}={'…' if self.default is None else self.default}"


@dataclass(frozen=True)
class NamedQuery:
    """A SELECT, the question that it answers, and its parameters."""

    name: str
    answers: str
    parameters: tuple[Parameter, ...]
    sql: str


@cache
def named_queries() -> Mapping[str, NamedQuery]:
    """The queries that come with Lifespan, by name."""
    return {file.stem: parse(file.read_text(encoding="utf-8"), file.stem) for file in sorted(_FOLDER.glob("*.sql"))}


def find(name: str) -> NamedQuery:
    """The query of that name.

    Raises:
        QueryError: there is none; suggests the nearest names.
    """
    queries = named_queries()
    if name not in queries:
        near = nearest(name, list(queries)) or list(queries)
        raise QueryError(f"no query named {name!r}; nearest: {', '.join(near)}")
    return queries[name]


def parse(text: str, name: str) -> NamedQuery:
    """The query in a file of SQL.

    Raises:
        QueryError: a parameter is declared twice, or has an unknown kind.
    """
    about: list[str] = []
    parameters: list[Parameter] = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("--"):
            break
        if not line.startswith("-- @"):
            about.append(line.lstrip("- "))
            continue
        found = _PARAMETER.fullmatch(line)
        if not found or not ("|" in found[2] or found[2] in _KINDS):
            kinds = ", ".join(_KINDS)
            raise QueryError(
                f"{name}, line {number}: {line!r} is not a valid parameter: write `-- @name kind = default: "
                f"what it is`, with one of the kinds {kinds}, or words separated by |"
            )
        if any(one.name == found[1] for one in parameters):
            raise QueryError(f"{name}, line {number}: the parameter {found[1]} is declared twice")
        parameters.append(Parameter(found[1], found[2], found[3], found[4] or ""))
    return NamedQuery(name, " ".join(about).strip(), tuple(parameters), text)


def values(home: Home, named: NamedQuery, given: Mapping[str, str]) -> dict[str, Any]:
    """The values of the parameters, from the text that was typed.

    Raises:
        QueryError: an unknown or missing parameter, a value of the wrong kind, or an unknown run; says what it takes.
    """
    declared = {one.name: one for one in named.parameters}
    for name in given:
        if name not in declared:
            takes = ", ".join(declared) or "none"
            near = nearest(name, list(declared), 1)
            raise QueryError(
                f"{named.name} has no parameter {name!r}{f', nearest: {near[0]}' if near else ''}; it takes {takes}"
            )
    result: dict[str, Any] = {}
    for one in named.parameters:
        text = given.get(one.name, one.default)
        if text is None:
            raise QueryError(f"{named.name} needs -p {one.name}=… ({one.kind}{one.about and f': {one.about}'})")
        if text == "null" and one.name not in given:
            result[one.name] = None
        elif one.kind == "run":
            result[one.name] = find_run(home, text, one.name)
        else:
            result[one.name] = _typed(named, one, text)
    return result


def answer(home: Home, name: str, **given: str) -> list[dict[str, Any]]:
    """The rows of the query of that name, by column. Raises QueryError as `find` and `values` do."""
    named = find(name)
    rows: list[dict[str, Any]] = query(home, named.sql, values(home, named, given) or None).to_pylist()
    return rows


def find_run(home: Home, text: str, parameter: str = "run") -> str:
    """The id of the newest run, or of the one run whose id begins with `text`.

    Raises:
        QueryError: there is no such run, or more than one.
    """
    if text == NEWEST:
        found = query(home, "SELECT run_id FROM current_run").column(0).to_pylist()
        if not found:
            raise QueryError(f"{parameter}: no runs yet in {home.shown}; start one with `lifespan run`")
        return str(found[0])
    sql = "SELECT DISTINCT run_id FROM runs WHERE starts_with(run_id, ?) ORDER BY run_id = ? DESC, run_id DESC LIMIT 6"
    found = query(home, sql, [text, text]).column(0).to_pylist()
    if len(found) == 1 or text in found[:1]:
        return str(found[0])
    if found:
        raise QueryError(f"{parameter}: more than one run begins with {text!r}: {', '.join(found)}")
    newest = query(home, "SELECT DISTINCT run_id FROM runs ORDER BY run_id DESC LIMIT 3").column(0).to_pylist()
    raise QueryError(f"{parameter}: no run begins with {text!r}; the newest are {', '.join(newest) or 'none yet'}")


def _typed(named: NamedQuery, parameter: Parameter, text: str) -> Any:
    if "|" in parameter.kind:
        words = parameter.kind.split("|")
        if text in words:
            return text
        takes = f"takes {', '.join(words)}"
    else:
        convert, takes = _KINDS[parameter.kind]
        try:
            return convert(text)
        except ValueError:
            takes = f"takes {takes}"
    raise QueryError(f"{named.name}, parameter {parameter.name}: got {text!r}, {takes}")


def _truth(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else bool(_refuse(text))


def _refuse(text: str) -> int:
    raise ValueError(text)


def _whole(text: str) -> int:
    value = int(text)
    return value if -(2**63) <= value < 2**63 else _refuse(text)


def _moment(text: str) -> datetime.datetime:
    value = datetime.datetime.fromisoformat(text)
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)


_KINDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "text": (str, "any text"),
    "int": (_whole, "a whole number"),
    "float": (float, "a number"),
    "bool": (_truth, "true or false"),
    "time": (_moment, "a time such as 2026-11-22T14:03"),
    "run": (str, "a run's id"),
}


def listing(queries: Sequence[NamedQuery]) -> str:
    """Names, parameters and answered questions, for people."""
    blocks = []
    for one in queries:
        lines = [one.name, f"    {one.answers}"]
        room = max((len(str(parameter)) for parameter in one.parameters), default=0)
        kinds = max((len(parameter.kind) for parameter in one.parameters), default=0)
        for parameter in one.parameters:
            lines.append(f"    -p {parameter!s:<{room}}  {parameter.kind:<{kinds}}  {parameter.about}".rstrip())
        blocks.append("\n".join(lines))
    return "\n".join(blocks) + "\n"
