"""`lifespan query`: SQL from the command line, from a file, or by name."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.command import friendly_errors

if TYPE_CHECKING:
    from storage.home import Home
    from storage.named import NamedQuery
    from storage.output import Format
    from storage.queries import Limits


def query(
    sql: Annotated[str | None, typer.Argument(help="A SELECT over the tables; `SHOW TABLES` lists them.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file of SQL; - reads standard input.")] = None,
    named: Annotated[str | None, typer.Option(metavar="NAME", help="A query that comes with Lifespan.")] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="Value of $NAME; may be repeated.")
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the named queries and their parameters.")] = False,
    format: Annotated[
        str | None, typer.Option(help="table, lines, csv, json or parquet; by default from the extension of --output.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write to this file.", dir_okay=False)] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which the query is stopped.")] = 300.0,
) -> None:
    """Query the tables in SQL. It can only read: no files, no network."""
    with friendly_errors():
        from storage.home import Home
        from storage.named import listing, named_queries
        from storage.queries import Limits

        if show_list:
            sys.stdout.write(listing(list(named_queries().values())))
            return
        given = parse_parameters(param or [])
        run_query(Home.from_env(), wanted_query(sql, file, named), given, format, output, Limits(seconds=timeout))


def wanted_query(sql: str | None, file: Path | None, name: str | None) -> NamedQuery:
    """The query that the command line gives as text, as a file or by name.

    Raises:
        QueryError: none or more than one of the three is given, or the file cannot be read.
    """
    from storage.named import NamedQuery, find, parse
    from storage.sql_guard import QueryError

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
        raise QueryError(f"{file}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#x}") from None
    except OSError as error:
        raise QueryError(f"{file}: {error.strerror or error}") from None


def parse_parameters(pairs: Sequence[str]) -> dict[str, str]:
    """`-p name=value` as a mapping.

    Raises:
        QueryError: a pair without `=`, or a name that is given twice.
    """
    from storage.sql_guard import QueryError

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
    """Print the result of the query, or of each of its statements in turn, or write it to a file.

    Raises:
        QueryError: see `storage.queries.query` and `storage.named.values`; or an unsuitable format.
    """
    from storage.named import named_queries, values
    from storage.output import format_of
    from storage.queries import query
    from storage.sql_guard import QueryError
    from storage.sql_text import is_blank, parameter_names, split_statements

    try:
        kind = format_of(format, output)
        if output and home.keeps(output):
            inside = f"lies inside the sealed artifacts or tables of {home.shown}: name another file"
            raise ValueError(f"output {output}: {inside}")
    except ValueError as error:
        raise QueryError(f"--{error}") from None
    finished, rest = split_statements(named.sql)
    statements = [*finished, *([] if is_blank(rest) and finished else [rest])]
    if len(statements) > 1 and (output or kind not in ("table", "lines")):
        raise QueryError(f"{named.name} has {len(statements)} statements: only --format table and lines allow several")
    typed: dict[str, Any] = dict(given)
    if named.parameters or named.name in named_queries():
        typed = values(home, named, given)
    elif unknown := set(given) - parameter_names(named.sql):  # undeclared ones are text: DuckDB casts where it can
        known = ", ".join(sorted(parameter_names(named.sql))) or "none"
        raise QueryError(f"unknown parameter {', '.join(sorted(unknown))}; the query has {known}")
    for number, statement in enumerate(statements):
        if number:
            sys.stdout.write("\n")
        wanted = {name: value for name, value in typed.items() if name in parameter_names(statement)}
        write(query(home, statement, wanted or None, limits=limits), kind, output)


def write(table: Any, kind: Format, output: Path | None) -> None:
    """Write a result; it is no error when the reader has gone (`| head`)."""
    from storage.output import write_result
    from storage.sql_guard import QueryError

    try:
        width = os.get_terminal_size(sys.stdout.fileno()).columns if output is None and sys.stdout.isatty() else 0
        write_result(table, kind, output or sys.stdout, width or None)
        sys.stdout.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError as error:
        raise QueryError(f"--format {kind}: {error}") from None
