"""The shell of `lifespan sql`: with completion and history at a terminal, without them from a pipe."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from flows.commands.query import parse_parameters, write
from storage.home import Home
from storage.layout import identifier
from storage.named import find, listing, named_queries, values
from storage.output import FORMATS, Format, format_of
from storage.queries import Limits, query, relations
from storage.reference import meanings
from storage.sql_guard import QueryError, nearest
from storage.sql_text import end_of_statement, is_blank, split_statements
from storage.tables import SCHEMAS

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completion
    from prompt_toolkit.document import Document

HELP = """\
end a statement with ;    Ctrl-C stops it, Ctrl-D quits
.tables                   list the tables and views
.schema NAME              show the columns of a table or view
.named [NAME p=value …]   list the queries that come with Lifespan, or run one
.mode FORMAT              print results as table, lines, csv or json
.quit                     leave the shell
"""
COMMANDS = (".help", ".mode", ".named", ".quit", ".schema", ".tables")
MODES = tuple(format for format in FORMATS if format != "parquet")
SHOWN_ROWS = 500  # at a terminal; a pipe gets all rows
KEYWORDS = tuple(
    re.findall(
        r"\w+",
        """SELECT FROM WHERE GROUP BY ORDER LIMIT HAVING QUALIFY JOIN LEFT USING ON AS AND OR NOT NULL IS IN LIKE ILIKE
        BETWEEN CASE WHEN THEN ELSE END DISTINCT UNION ALL WITH OVER PARTITION FILTER DESC ASC DESCRIBE SUMMARIZE
        EXPLAIN SHOW TABLES count sum avg min max median quantile_cont arg_max arg_min round coalesce string_agg
        row_number date_trunc""",
    )
)


@dataclass(frozen=True)
class State:
    """What the shell remembers from one statement to the next."""

    mode: Format = "table"
    ended: bool = False


def shell(home: Home, limits: Limits) -> None:
    """Read statements and commands until the end; from a pipe, the first mistake ends the shell.

    Raises:
        QueryError: from a pipe only; at a terminal, mistakes are printed and the shell continues.
    """
    if not sys.stdin.isatty():
        state = State()
        for text in pieces(sys.stdin.read()):
            state = execute(home, text, state, limits)
            if state.ended:
                return
        return
    session = prompt_session(home)
    print(f"tables of {home.shown}; type .help for help")
    state = State()
    while not state.ended:
        try:
            text = session.prompt("lifespan> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        try:
            for piece in pieces(text):
                state = execute(home, piece, state, limits, shown=SHOWN_ROWS)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        except (ValueError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)


def pieces(text: str) -> Iterator[str]:
    """Commands (a line that begins with a dot where a statement could begin) and statements, in order."""
    while not is_blank(text):
        if text.lstrip().startswith("."):
            command, _, text = text.lstrip().partition("\n")
            yield command.strip()
            continue
        end = end_of_statement(text)
        statement, text = (text, "") if end is None else (text[:end], text[end + 1 :])
        if not is_blank(statement):
            yield statement


def execute(home: Home, text: str, state: State, limits: Limits, shown: int | None = None) -> State:
    """Execute one command or statement; returns what the shell remembers.

    Raises:
        QueryError: a mistake in it.
    """
    if not text.startswith("."):
        print_result(home, text, None, state, limits, shown)
        return state
    try:
        command, *words = shlex.split(text)
    except ValueError as error:
        raise QueryError(f"{text}: {error}") from None
    if command == ".quit":
        return replace(state, ended=True)
    if command == ".help":
        print(HELP, end="")
    elif command == ".tables":
        views = [name for name in relations(home) if name not in SCHEMAS]
        print(f"tables  {', '.join(SCHEMAS)}\nviews   {', '.join(views)}")
    elif command == ".schema":
        if len(words) != 1:
            raise QueryError(".schema takes the name of a table or view; .tables lists them")
        write(described(home, words[0], limits), state.mode, None)
    elif command == ".mode":
        if len(words) != 1 or words[0] not in MODES:
            raise QueryError(f".mode takes {', '.join(MODES)}; now it is {state.mode}")
        return replace(state, mode=format_of(words[0]))
    elif command == ".named":
        if not words:
            print(listing(list(named_queries().values())), end="")
        else:
            named = find(words[0])
            print_result(home, named.sql, values(home, named, parse_parameters(words[1:])), state, limits, shown)
    else:
        near = nearest(command, COMMANDS, 1)
        raise QueryError(
            f"unknown command {command}{f', nearest: {near[0]}' if near else ''}; .help lists the commands"
        )
    return state


def described(home: Home, name: str, limits: Limits) -> pa.Table:
    """The columns of a table or view: name, type and meaning."""
    found = query(home, f"DESCRIBE {identifier(name)}", limits=limits)
    known = meanings(name)
    about = [known.get(column, "") for column in found["column_name"].to_pylist()]
    return pa.table({"column": found["column_name"], "type": found["column_type"], "meaning": about})


def print_result(
    home: Home, sql: str, params: Mapping[str, Any] | None, state: State, limits: Limits, shown: int | None
) -> None:
    began = time.monotonic()
    table = query(home, sql, params or None, limits=limits)
    seconds = time.monotonic() - began
    cut = shown is not None and table.num_rows > shown
    write(table.slice(0, shown) if cut else table, state.mode, None)
    if cut:
        print(f"the first {shown} of {table.num_rows:,} rows; `lifespan query --output FILE` writes all of them")
    elif shown is not None and seconds >= 0.5:
        print(f"{seconds:.1f} s")


# --- at a terminal ------------------------------------------------------------------------------------------------


def prompt_session(home: Home) -> PromptSession[str]:
    """The prompt: completion, colours, history in the home; Enter submits a complete statement."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.application import get_app
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.history import FileHistory
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers.sql import SqlLexer

    columns = relations(home)

    class Names(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            from prompt_toolkit.completion import Completion

            text, word = document.text_before_cursor, document.get_word_before_cursor(pattern=re.compile(r"[.\w]+"))
            typed = word.rpartition(".")[2] if not text.lstrip().startswith(".") else word
            for name, kind in suggestions(text, document.text, columns):
                if name.lower().startswith(typed.lower()) and name != typed:
                    yield Completion(name, -len(typed), display_meta=kind)

    home.local.mkdir(parents=True, exist_ok=True)
    return PromptSession(
        history=FileHistory(str(home.local / "sql_history")),
        completer=Names(),
        complete_while_typing=True,
        lexer=PygmentsLexer(SqlLexer),
        multiline=Condition(lambda: not is_complete(get_app().current_buffer.text)),
        prompt_continuation=lambda width, line, soft: " " * (width - 4) + "... ",
    )


def is_complete(text: str) -> bool:
    """Whether a text is a command, blank, or statements that end with `;`."""
    return text.lstrip().startswith(".") or is_blank(split_statements(text)[1])


def suggestions(before: str, whole: str, columns: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Words that fit at the cursor and what kind each is, the most likely first.

    Args:
        before: the text before the cursor.
        whole: the whole text: tables are often named after the columns.
        columns: the columns of every table and view.
    """
    start = before.lstrip()
    if start.startswith("."):
        command, *words = re.split(r"\s+", start)
        if not words:
            yield from ((name, "command") for name in COMMANDS)
        elif command == ".schema":
            yield from ((name, "table" if name in SCHEMAS else "view") for name in columns)
        elif command == ".mode":
            yield from ((name, "format") for name in MODES)
        elif command == ".named" and len(words) == 1:
            yield from ((name, one.answers) for name, one in named_queries().items())
        elif command == ".named" and words[0] in named_queries():
            yield from ((f"{one.name}=", one.about) for one in named_queries()[words[0]].parameters)
        return
    aliases = dict(re.findall(r"(?i)\b(?:from|join)\s+(\w+)\s+(?:as\s+)?(\w+)", whole))
    tables = {alias: table for table, alias in aliases.items()} | {name: name for name in columns}
    if owner := re.search(r"(\w+)\.\w*\Z", before):
        yield from ((name, "column") for name in columns.get(tables.get(owner[1], ""), ()))
        return
    everything = [(name, "table" if name in SCHEMAS else "view") for name in columns]
    if re.search(r"(?i)\b(?:from|join|describe|summarize)\s+\w*\Z", before):
        yield from everything
        return
    named = [name for name in columns if re.search(rf"\b{name}\b", whole)]
    seen = dict.fromkeys(column for name in named or SCHEMAS for column in columns[name])
    yield from ((f'"{name}"' if name == "group" else name, "column") for name in seen)
    yield from ((word, "") for word in KEYWORDS)
    yield from everything
