"""`lifespan ui`: the dashboard, with MLflow and Prefect behind it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import Host, TokenFile, friendly_errors
from flows.services.sockets import DASHBOARD_PORT, LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashboards.app.outside import Outside
    from flows.services.access import Access
    from flows.services.dashboard_server import Links
    from storage.home import Home


def ui(
    host: Host = LOOPBACK,
    token_file: TokenFile = None,
    port: Annotated[
        int, typer.Option(min=0, help="Where to listen; another free port when this one is in use.")
    ] = DASHBOARD_PORT,
) -> None:
    """Serve the dashboard until Ctrl-C; MLflow's and Prefect's pages come up behind it."""
    with friendly_errors():
        from flows.runs.start import terminable
        from flows.services.access import access_notes, requested_access
        from flows.services.dashboard_server import serve_dashboard
        from storage.home import Home

        home, access = Home.from_env(), requested_access(host, token_file)
        with terminable():
            for line in access_notes(access.host, bool(access.token)):
                typer.echo(line)
            serve_dashboard(home, access, port, _outside(home, access), _other_pages(home, access), typer.echo)


def _outside(home: Home, access: Access) -> Outside:
    """What the pages can do beside reading."""
    from dashboards.app.outside import Outside
    from flows.runs.models import model_names, open_model
    from flows.runs.registry import running
    from flows.services.dashboard_server import answerer, preferrer, starter, stopper
    from flows.services.servers import page_of_run
    from flows.settings import profile_names

    profiles = tuple(profile_names())
    return Outside(
        running=lambda: running(home),
        profiles=profiles,
        start=starter(home, profiles),
        stop=stopper(lambda: running(home)),
        models=lambda: model_names(home),
        answer=answerer(lambda name: open_model(home, name)),
        prefer=preferrer(home),
        tracked=lambda mlflow, run: page_of_run(mlflow, run, access),
    )


def _other_pages(home: Home, access: Access) -> Callable[[ExitStack, Links], None]:
    """Where the pages of MLflow and Prefect are: those of `lifespan up`, or servers that end with this process."""

    def start(stack: ExitStack, links: Links) -> None:
        from flows.services import services
        from flows.services.servers import pages

        if found := services.running(home):
            links += [(one.name, one.url) for one in services.check_access(found, access).services if one.url]
            return
        said: list[str] = []
        for server in stack.enter_context(pages(home, said.append, access)):
            links.append((server.name, server.url))
        for line in said:
            typer.echo(line)

    return start
