"""`lifespan ui`: the pages of MLflow and Prefect."""

from __future__ import annotations

import typer

from flows.commands.command import Host, TokenFile, friendly_errors
from flows.commands.up import print_services
from flows.services.sockets import LOOPBACK


def ui(host: Host = LOOPBACK, token_file: TokenFile = None) -> None:
    """Serve the pages of MLflow and Prefect until Ctrl-C."""
    with friendly_errors():
        from flows.runs.start import terminable
        from flows.services import services
        from flows.services.access import requested_access
        from flows.services.servers import serve_pages
        from storage.home import Home

        home, access = Home.from_env(), requested_access(host, token_file)
        if found := services.running(home):
            print_services(services.check_access(found, access), access)
            return
        with terminable():
            serve_pages(home, typer.echo, access)
