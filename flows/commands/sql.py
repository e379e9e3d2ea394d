"""`lifespan sql`: a shell for SQL over the tables."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.command import friendly_errors


def sql(
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds after which a query is stopped.")] = 300.0,
) -> None:
    """Open a SQL shell over the tables, with completion; it also reads statements from a pipe."""
    with friendly_errors():
        from flows.commands.sql_shell import shell
        from storage.home import Home
        from storage.queries import Limits

        shell(Home.from_env(), Limits(seconds=timeout))
