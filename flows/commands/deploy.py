"""`lifespan deploy`: register the flows with a Prefect server."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.command import Profile, friendly_errors


def deploy(
    profile: Profile = "laptop",
    webhook: Annotated[
        str | None,
        typer.Option(
            envvar="LIFESPAN_WEBHOOK",
            show_envvar=True,
            help="URL to notify of failed runs and of cost drift; by default the current one is kept.",
        ),
    ] = None,
) -> None:
    """Register every flow with the Prefect server, so that it can be started and scheduled there."""
    with friendly_errors():
        from flows.config import load_config
        from flows.deployment.deploy import deploy as register
        from storage.home import Home

        load_config(profile, [])
        for name in register(Home.from_env(), profile, webhook):
            typer.echo(name)
