"""`lifespan compact`: merge the part files of the tables."""

from __future__ import annotations

import typer

from flows.commands.command import friendly_errors


def compact() -> None:
    """Merge the tables' part files so that queries open fewer of them; safe while runs are in progress."""
    with friendly_errors():
        from storage.home import Home

        for table, parts in Home.from_env().tables.compact().items():
            if parts:
                typer.echo(f"{table}: {parts} parts merged")
