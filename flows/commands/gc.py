"""`lifespan gc`: show or remove what no kept run needs."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.command import friendly_errors


def gc(
    keep: Annotated[int, typer.Option(min=1, help="Keep what the newest N runs of each profile need.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only listed.")] = False,
) -> None:
    """List what no kept run needs, and remove it with --yes. Table rows stay."""
    with friendly_errors():
        from flows.runs.removal import removable
        from storage.home import Home

        found = list(removable(Home.from_env(), keep))
        for thing in found:
            typer.echo(f"{thing.num_bytes / 1e6:10.2f} MB  {thing.what}")
            if yes:
                thing.remove()
        size = f"{len(found)} {'item' if len(found) == 1 else 'items'}, {sum(t.num_bytes for t in found) / 1e6:.2f} MB"
        typer.echo(f"removed {size}" if yes else f"{size}; `lifespan gc --keep {keep} --yes` removes them")
