"""`lifespan ui`, `up`, `down`, `deploy` and `schedule`: the services of a home, and what they run by the clock."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import Overrides, Profile, told_plainly
from flows.deployment.catalogue import FLOWS

if TYPE_CHECKING:
    from flows.services.access import Access
    from flows.services.services import Running

operations = typer.Typer()

Host = Annotated[str, typer.Option(help="Address to listen on; one that others reach needs a token.")]
TokenFile = Annotated[
    Path | None, typer.Option(help="A file with the token that the pages ask for; else LIFESPAN_TOKEN, if set.")
]


@operations.command()
def ui(host: Host = "127.0.0.1", token_file: TokenFile = None) -> None:
    """Show the pages of MLflow and Prefect until Ctrl-C."""
    with told_plainly():
        from flows.runs.start import terminable
        from flows.services import services
        from flows.services.access import asked_for
        from flows.services.servers import serve_pages
        from storage.home import Home

        home, access = Home.from_env(), asked_for(host, token_file)
        if found := services.running(home):
            _tell(services.suits(found, access), access)
            return
        with terminable():
            serve_pages(home, typer.echo, access)


@operations.command()
def up(host: Host = "127.0.0.1", token_file: TokenFile = None) -> None:
    """Start Prefect's server and scheduler, a worker, and MLflow in the background; `lifespan down` ends them."""
    with told_plainly():
        from flows.services import services
        from flows.services.access import asked_for
        from storage.home import Home

        access = asked_for(host, token_file)
        _tell(services.up(Home.from_env(), typer.echo, access), access)


def _tell(group: Running, access: Access) -> None:
    from flows.services.access import near, told
    from flows.services.servers import newest_runs

    for service in group.services:
        port = service.url.rpartition(":")[2]
        place = newest_runs(near(group.host, int(port)), access) if service.name == "MLflow" else ""
        typer.echo(f"{service.name:8} {service.url + place or f'process {service.pid}'}")
    for line in told(group.host, group.asks):
        typer.echo(line)


@operations.command()
def down() -> None:
    """End what `lifespan up` started."""
    with told_plainly():
        from flows.runs.registry import end_flow_runs
        from flows.services import services
        from storage.home import Home

        home = Home.from_env()
        ended = [services.down(home), *end_flow_runs(home)]
        typer.echo("ended" if any(ended) else "nothing was up")


@operations.command()
def deploy(
    profile: Profile = "laptop",
    webhook: Annotated[
        str | None,
        typer.Option(
            envvar="LIFESPAN_WEBHOOK",
            show_envvar=True,
            help="Address that is told of failures and of cost drift; without, it stays as it was.",
        ),
    ] = None,
) -> None:
    """Register every flow with the Prefect server, so that it can be started and scheduled there."""
    with told_plainly():
        from flows.config import load_config
        from flows.deployment.deploy import deploy as register
        from storage.home import Home

        load_config(profile, [])
        for name in register(Home.from_env(), profile, webhook):
            typer.echo(name)


schedule = typer.Typer(no_args_is_help=True, help="Run flows by the clock: add, list, pause, resume, remove.")
Slug = Annotated[str, typer.Argument(help="A schedule's name, as `lifespan schedule list` shows it.")]


@schedule.command("add")
def schedule_add(
    flow: Annotated[str, typer.Argument(help=f"One of {', '.join(FLOWS)}.")],
    cron: Annotated[str, typer.Option(help='When, as a cron line: "0 2 * * *" is every night at two.')] = "",
    every: Annotated[float, typer.Option(help="Or every so many seconds.")] = 0.0,
    timezone: Annotated[str, typer.Option(help="Time zone of the cron line.")] = "UTC",
    profile: Annotated[str, typer.Option(help="A profile's name, or a path to your own TOML file.")] = "laptop",
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="What to call the schedule; by default the flow and a number.")] = "",
) -> None:
    """Run a flow at certain times."""
    with told_plainly():
        from flows.deployment.deploy import add_schedule
        from storage.home import Home

        home = Home.from_env()
        settings = {"timezone": timezone, "profile": profile, "settings": overrides, "slug": name}
        typer.echo(add_schedule(home, flow, cron, every=every, **settings))  # type: ignore[arg-type]


@schedule.command("list")
def schedule_list() -> None:
    """Every schedule: when, which flow, with which profile."""
    with told_plainly():
        from rich.console import Console
        from rich.table import Table

        from flows.deployment.deploy import schedules
        from storage.home import Home

        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("name", "flow", "when", "", "profile", "settings"):
            table.add_column(column)
        for found in schedules(Home.from_env()):
            settings = " ".join(found.parameters.get("settings", []))
            state = "active" if found.active else "paused"
            table.add_row(found.slug, found.flow, found.when, state, found.parameters.get("profile", ""), settings)
        console = Console()
        console.width = console.width if console.is_terminal else 200
        console.print(table)


@schedule.command("pause")
def schedule_pause(name: Slug) -> None:
    """Stop making runs, and keep the schedule."""
    _change(name, "paused", active=False)


@schedule.command("resume")
def schedule_resume(name: Slug) -> None:
    """Make runs again."""
    _change(name, "active", active=True)


@schedule.command("remove")
def schedule_remove(name: Slug) -> None:
    """Forget a schedule."""
    _change(name, "removed", remove=True)


def _change(name: str, done: str, **change: bool) -> None:
    with told_plainly():
        from flows.deployment.deploy import change_schedule
        from storage.home import Home

        found = change_schedule(Home.from_env(), name, **change)
        typer.echo(f"{name} ({found.flow}, {found.when}) {done}")
