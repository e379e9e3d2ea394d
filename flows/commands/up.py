"""`lifespan up`: start the services of a home in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from flows.commands.command import Host, TokenFile, friendly_errors
from flows.services.sockets import LOOPBACK, local_url

if TYPE_CHECKING:
    from flows.services.access import Access
    from flows.services.services import Running


def up(host: Host = LOOPBACK, token_file: TokenFile = None) -> None:
    """Start Prefect's server and scheduler, a worker, and MLflow in the background; `lifespan down` stops them."""
    with friendly_errors():
        from flows.services import services
        from flows.services.access import requested_access
        from storage.home import Home

        access = requested_access(host, token_file)
        print_services(services.up(Home.from_env(), typer.echo, access), access)


def print_services(group: Running, access: Access) -> None:
    """The address of each service, and who can reach them."""
    from flows.services.access import access_notes
    from flows.services.servers import newest_runs

    for service in group.services:
        port = service.url.rpartition(":")[2]
        page = newest_runs(local_url(group.host, int(port)), access) if service.name == "MLflow" else ""
        typer.echo(f"{service.name:8} {service.url + page or f'process {service.pid}'}")
    for line in access_notes(group.host, group.needs_token):
        typer.echo(line)
