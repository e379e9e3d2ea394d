"""`lifespan sync`: bring MLflow up to date with the tables."""

from __future__ import annotations

import typer

from flows.commands.command import FAILED, friendly_errors, print_error


def sync() -> None:
    """Bring MLflow up to date with the tables, after an outage of the tracking server."""
    with friendly_errors():
        from flows.services import hermetic
        from storage.home import Home

        home = Home.from_env()
        hermetic.apply(home.local)
        from storage import tracker
        from storage.redaction import masked_addresses

        result = tracker.sync(home)
        if result.problem:
            print_error(result.problem)
            raise typer.Exit(FAILED)
        added = f"{result.runs} runs, {result.stages} stages, {result.metrics} metrics"
        typer.echo(f"MLflow at {masked_addresses(home.mlflow_uri)}: {added} added")
