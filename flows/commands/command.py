"""What the commands share: arguments, printing, and one message and an exit code in place of a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FAILED, BAD_INPUT, WAITS, INTERRUPTED = 1, 2, 3, 130

Profile = Annotated[str, typer.Argument(help="Name of a profile, or path of your own TOML file.", show_default=True)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; may be repeated.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="STAGE", help="Only this stage or group and what it needs; may be repeated."),
]
Host = Annotated[str, typer.Option(help="Address to listen on; one that other machines can reach requires a token.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="File with the token that clients must present; by default LIFESPAN_TOKEN, if set.")
]
ModelName = Annotated[
    str,
    typer.Argument(
        help="A label of the newest run (base, sft, grpo, …), an artifact's key, or a saved model: its folder, a .gguf "
        "file, package:NAME, or owner/model[@revision] of the hub."
    ),
]


def print_error(message: str) -> None:
    """Print one line on standard error, without secrets."""
    from storage.redaction import masked

    typer.echo(f"error: {masked(message)}", err=True)


@contextlib.contextmanager
def friendly_errors() -> Iterator[None]:
    """One message and the right exit code instead of a traceback, for every error that the user can fix."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except RuntimeError as error:
        from flows.runs.removal import RunInProgress
        from flows.services.server_process import ServerFailed

        if not isinstance(error, (RunInProgress, ServerFailed)):
            raise
        print_error(str(error))
        raise typer.Exit(FAILED) from None
    except (ValueError, OSError, LookupError) as error:
        from components.data.sources import SourceError
        from flows.services.sockets import CannotListen
        from flows.settings import ConfigError
        from storage.annotations import AnnotationError
        from storage.home import HomeError
        from storage.tables import TableError

        bad_input = (AnnotationError, CannotListen, ConfigError, HomeError, SourceError, TableError)
        if not isinstance(error, (OSError, *bad_input)):
            raise
        print_error(str(error))
        raise typer.Exit(BAD_INPUT if isinstance(error, bad_input) else FAILED) from None


def exit_at_once(code: int) -> NoReturn:
    """End the program without unloading what was imported, which takes Python another second or two."""
    if Path(sys.argv[0]).name in ("lifespan", "cli.py"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def wide_console(width: int = 200) -> Console:
    """The terminal, or `width` columns where the output goes to a file or a pipe."""
    from rich.console import Console

    console = Console(markup=False)  # what is shown may have brackets of its own
    console.width = console.width if console.is_terminal else width
    return console


def plain_table(*columns: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """A table without lines; the columns named in `right` are aligned to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table
