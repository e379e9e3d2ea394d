"""`lifespan schedule`: run flows at certain times."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.command import Overrides, friendly_errors, plain_table, wide_console
from flows.deployment.catalogue import FLOWS

schedule = typer.Typer(no_args_is_help=True, help="Run flows on a schedule: add, list, pause, resume, remove.")
Slug = Annotated[str, typer.Argument(help="Name of a schedule, as `lifespan schedule list` shows it.")]


@schedule.command("add")
def add(
    flow: Annotated[str, typer.Argument(help=f"One of: {', '.join(FLOWS)}.")],
    cron: Annotated[str, typer.Option(help='When, as a cron expression: "0 2 * * *" is every night at two.')] = "",
    every: Annotated[float, typer.Option(help="Instead of --cron: the interval in seconds.")] = 0.0,
    timezone: Annotated[str, typer.Option(help="Time zone of the cron expression.")] = "UTC",
    profile: Annotated[str, typer.Option(help="Name of a profile, or path of your own TOML file.")] = "laptop",
    overrides: Overrides = None,
    name: Annotated[str, typer.Option(help="Name of the schedule; by default the flow and a number.")] = "",
) -> None:
    """Run a flow at certain times."""
    with friendly_errors():
        from flows.deployment.deploy import add_schedule
        from storage.home import Home

        home = Home.from_env()
        settings = {"timezone": timezone, "profile": profile, "settings": overrides, "slug": name}
        typer.echo(add_schedule(home, flow, cron, every=every, **settings))  # type: ignore[arg-type]


@schedule.command("list")
def list_schedules() -> None:
    """List the schedules: when, which flow, with which profile."""
    with friendly_errors():
        from flows.deployment.deploy import schedules
        from storage.home import Home

        table = plain_table("name", "flow", "when", "", "profile", "settings")
        for found in schedules(Home.from_env()):
            settings = " ".join(found.parameters.get("settings", []))
            state = "active" if found.active else "paused"
            table.add_row(found.slug, found.flow, found.when, state, found.parameters.get("profile", ""), settings)
        wide_console().print(table)


@schedule.command("pause")
def pause(name: Slug) -> None:
    """Start no more runs, but keep the schedule."""
    _change(name, "paused", active=False)


@schedule.command("resume")
def resume(name: Slug) -> None:
    """Start runs again."""
    _change(name, "active", active=True)


@schedule.command("remove")
def remove(name: Slug) -> None:
    """Delete a schedule."""
    _change(name, "removed", remove=True)


def _change(name: str, done: str, **change: bool) -> None:
    with friendly_errors():
        from flows.deployment.deploy import change_schedule
        from storage.home import Home

        found = change_schedule(Home.from_env(), name, **change)
        typer.echo(f"{name} ({found.flow}, {found.when}) {done}")
