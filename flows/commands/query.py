"""`lifespan query`: SQL from the command line, from a file, or by name."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from storage.home import Home
from storage.named import NamedQuery, find, listing, named_queries, parse, values
from storage.output import Format, format_of, write_result
from storage.queries import Limits, query
from storage.sql_guard import QueryError

# Quotes and comments whole, unfinished ones to the end, so that a `;` within them ends nothing.
_TOKEN = re.compile(
    r"""'(?:[^']|'')*(?:'|\Z)|"(?:[^"]|"")*(?:"|\Z)|--[^\n]*|/\*.*?(?:\*/|\Z)|\$(\w*)\$.*?(?:\$\1\$|\Z)|;|.""", re.S
)


def split(text: str) -> tuple[list[str], str]:
    """The statements of a text, each without its `;`, and the unfinished rest."""
    statements = []
    while (end := end_of_statement(text)) is not None:
        statements.append(text[:end])
        text = text[end + 1 :]
    return [statement for statement in statements if not is_blank(statement)], text


def end_of_statement(text: str) -> int | None:
    """Where the first `;` stands that is in no quotes and no comment."""
    return next((token.start() for token in _TOKEN.finditer(text) if token[0] == ";"), None)


def is_blank(text: str) -> bool:
    """Nothing but white space and comments."""
    return not re.sub(r"--[^\n]*|/\*.*?(?:\*/|\Z)", "", text, flags=re.S).strip()


def asked(sql: str | None, file: Path | None, name: str | None) -> NamedQuery:
    """The query that the command line means.

    Raises:
        QueryError: none or more than one of the three is given, or the file cannot be read.
    """
    if sum(one is not None for one in (sql, file, name)) != 1:
        raise QueryError(
            "give one of: SQL, --file FILE, --named NAME (`lifespan query --list` shows the names). "
            "`lifespan query 'SHOW TABLES'` lists the tables"
        )
    if name is not None:
        return find(name)
    if file is None:
        return NamedQuery("the query", "", (), sql or "")
    if str(file) == "-":
        return parse(sys.stdin.read(), "standard input")
    try:
        return parse(file.read_text(encoding="utf-8"), str(file))
    except UnicodeDecodeError as error:
        raise QueryError(f"{file}: no UTF-8 text: byte {error.start} is {error.object[error.start]:#x}") from None
    except OSError as error:
        raise QueryError(f"{file}: {error.strerror or error}") from None


def parameters(pairs: Sequence[str]) -> dict[str, str]:
    """`-p name=value` as a mapping.

    Raises:
        QueryError: a pair without `=`, or a name twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise QueryError(f"-p {pair}: write -p name=value")
        if name in found:
            raise QueryError(f"-p {pair}: {name} is given twice")
        found[name] = value
    return found


def run_query(
    home: Home, named: NamedQuery, given: Mapping[str, str], format: str | None, output: Path | None, limits: Limits
) -> None:
    """Answer the query, or each of its statements in turn, on standard output or in a file.

    Raises:
        QueryError: see `storage.queries.query` and `storage.named.values`; or a format that does not fit.
    """
    try:
        kind = format_of(format, output)
        if output and home.keeps(output):
            told = f"lies among the sealed artifacts or tables of {home.shown}: name another file"
            raise ValueError(f"output {output}: {told}")
    except ValueError as error:
        raise QueryError(f"--{error}") from None
    finished, rest = split(named.sql)
    statements = [*finished, *([] if is_blank(rest) and finished else [rest])]
    if len(statements) > 1 and (output or kind not in ("table", "lines")):
        raise QueryError(f"{named.name} has {len(statements)} statements: only --format table and lines take several")
    typed: dict[str, Any] = dict(given)
    if named.parameters or named.name in named_queries():
        typed = values(home, named, given)
    elif unknown := set(given) - names_in(named.sql):  # what is not declared is text: DuckDB casts where it can
        taken = ", ".join(sorted(names_in(named.sql))) or "none"
        raise QueryError(f"the query has no parameter {', '.join(sorted(unknown))}; it has {taken}")
    for number, statement in enumerate(statements):
        if number:
            sys.stdout.write("\n")
        wanted = {name: value for name, value in typed.items() if name in names_in(statement)}
        write(query(home, statement, wanted or None, limits=limits), kind, output)


def names_in(sql: str) -> set[str]:
    """The parameters, `$name`, that a statement has."""
    return set(re.findall(r"\$([A-Za-z_]\w*)", sql))


def write(table: Any, kind: Format, output: Path | None) -> None:
    """Write a result; a reader that has gone (`| head`) is no error."""
    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns if output is None and sys.stdout.isatty() else 0
        write_result(table, kind, output or sys.stdout, width or None)
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        raise QueryError(f"--format {kind}: {error}") from None


def write_listing() -> None:
    """The named queries: name, what it answers, parameters."""
    sys.stdout.write(listing(list(named_queries().values())))
