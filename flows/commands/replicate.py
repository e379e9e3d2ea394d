"""`lifespan replicate`: what several trainings say, which one training cannot."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.command import FAILED, Overrides, Profile, exit_at_once, friendly_errors


def replicate(
    profile: Profile = "laptop",
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=2, help="How many trainings.")] = 5,
    first_seed: Annotated[int, typer.Option(min=0, help="The first seed; the others follow it.")] = 0,
    at_once: Annotated[int, typer.Option(min=1, help="Lives side by side, each with its own workers.")] = 1,
    output: Annotated[Path | None, typer.Option(help="A Markdown file for the table.", dir_okay=False)] = None,
) -> None:
    """Run a life per seed and report every claim with an interval over trainings."""
    with friendly_errors():
        from rich.console import Console

        from dashboards.claims import settings_digest
        from dashboards.replication import NothingToCompare, render_markdown, render_terminal, replication
        from flows.config import load_config
        from flows.engine.wire import travelling
        from flows.runs import replicate as lives
        from flows.settings import ConfigError
        from storage.durable import write_bytes
        from storage.home import Home

        given = list(overrides or [])
        if any(override.split("=", 1)[0].strip() == "seed" for override in given):
            raise ConfigError("--set seed=…: replicate sets the seed itself; --first-seed says where to begin")
        cfg, home = load_config(profile, given), Home.from_env()
        wanted = range(first_seed, first_seed + seeds)
        ended = lives.replicate(home, profile, given, wanted, typer.echo, at_once=at_once)
        try:
            found = replication(home, settings_digest(travelling(cfg)), wanted)
        except NothingToCompare as error:
            typer.echo(f"error: {error}", err=True)
            exit_at_once(FAILED)
        console = Console()
        console.width = console.width if console.is_terminal else 160
        console.print(render_terminal(found))
        if output:
            parts = ["lifespan", "replicate", profile, *(p for o in given for p in ("--set", o)), "--seeds", str(seeds)]
            parts += ["--first-seed", str(first_seed)] if first_seed else []
            write_bytes(output, render_markdown(found, shlex.join(parts)).encode())
            typer.echo(f"written to {output}")
    exit_at_once(FAILED if any(life.code for life in ended) else 0)
