"""`lifespan down`: stop the services of a home."""

from __future__ import annotations

import typer

from flows.commands.command import friendly_errors


def down() -> None:
    """Stop what `lifespan up` started, and the runs of its worker."""
    with friendly_errors():
        from flows.runs.registry import end_flow_runs
        from flows.services import services
        from storage.home import Home

        home = Home.from_env()
        stopped = [services.down(home), *end_flow_runs(home)]
        typer.echo("stopped" if any(stopped) else "nothing was running")
