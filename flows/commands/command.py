"""What commands share: arguments, and how they end: one message instead of a traceback, and a telling exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

FAILED, BAD_INPUT, WAITS, INTERRUPTED = 1, 2, 3, 130

Profile = Annotated[str, typer.Argument(help="A profile's name, or a path to your own TOML file.", show_default=True)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a setting; may be repeated.")
]


def complain(message: str) -> None:
    from storage.redaction import masked

    typer.echo(f"error: {masked(message)}", err=True)


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """One message and the right exit code instead of a traceback, for what a user can put right."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except RuntimeError as error:
        from flows.services.server_process import ServerFailed

        if not isinstance(error, ServerFailed):
            raise
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except (ValueError, OSError, LookupError) as error:
        from components.data.sources import SourceError
        from flows.settings import ConfigError
        from storage.annotations import AnnotationError
        from storage.home import HomeError
        from storage.tables import TableError

        if isinstance(error, (AnnotationError, ConfigError, HomeError, SourceError, TableError)):
            complain(str(error))
            raise typer.Exit(BAD_INPUT) from None
        if isinstance(error, OSError):
            complain(str(error))
            raise typer.Exit(FAILED) from None
        raise


def leave(code: int) -> None:
    """End at once where this is the program: to clear away all that was imported takes Python another second or two."""
    if Path(sys.argv[0]).name in ("lifespan", "cli.py"):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)
