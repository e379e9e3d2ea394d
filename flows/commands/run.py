"""`lifespan run`: run a profile and say how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.command import FAILED, INTERRUPTED, WAITS, Only, Overrides, Profile, exit_at_once, friendly_errors

if TYPE_CHECKING:
    from rich.console import Console

    from flows.runs.run import RunResult


def run(
    profile: Profile = "laptop",
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Worker processes; 0 runs everything in one.")] = None,
    only: Only = None,
) -> None:
    """Run the whole life of a model; artifacts that are already sealed are reused."""
    with friendly_errors():
        from rich.console import Console

        from flows.runs.start import starting
        from flows.settings import read_profile

        console = Console()
        read_profile(profile)  # reports a wrong name or broken TOML at once
        with starting(profile, console) as start:
            start.board.say("reading the settings")
            from flows.config import load_config

            settings = [*(overrides or []), *([f"compute.workers={workers}"] if workers is not None else [])]
            cfg = load_config(profile, settings)
            from flows.lifecycle import run_lifecycle

            result = run_lifecycle(cfg, start, profile=profile, only=only)
        if result.report is not None:
            from dashboards.terminal import render_terminal

            console.print(render_terminal(result.report))
        print_ending(result, console)
    exit_at_once({"completed": 0, "waiting": WAITS, "interrupted": INTERRUPTED}.get(result.status, FAILED))


def print_ending(result: RunResult, console: Console) -> None:
    """How the run ended: what happened, what went wrong, where to look next."""

    def show(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    style = "bold" if result.status == "completed" else "bold yellow"
    show(f"run {result.run_id} {result.status}: {result.summary}", style)
    for message in result.waiting.values():
        show(message, "yellow")
    for message in result.failures.values():
        show(message, "red")
    if result.failures:
        show("sealed artifacts are kept: fix the problem and run again; everything else comes from the cache")
    if result.status == "interrupted":
        show("sealed artifacts are kept, and stages with a saved state resume: `lifespan run` continues from here")
    for warning in result.warnings:
        show(f"warning: {warning}", "yellow")
    if result.report is not None:
        from storage.home import Home

        show(f"report   {Home.from_env().report(result.run_id)}")
    show("browse   lifespan ui")
    show("query    lifespan query 'SELECT stage, sum(seconds) AS seconds, sum(usd) AS usd FROM costs GROUP BY ALL'")
