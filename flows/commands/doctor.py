"""`lifespan doctor`: check the installation and the home."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands.command import FAILED, friendly_errors

STYLES = {"ok": "green", "note": "yellow", "bad": "bold red"}


def doctor(
    deep: Annotated[bool, typer.Option("--deep", help="Read every artifact and compare its checksums.")] = False,
    mend: Annotated[bool, typer.Option("--mend", help="Repair what can be repaired.")] = False,
) -> None:
    """Check the installation and the home for problems."""
    with friendly_errors():
        from rich.console import Console

        from flows.runs.health import examine
        from storage.home import Home

        console, num_bad = Console(), 0
        for finding in examine(Home.from_env(), deep=deep, mend=mend):
            num_bad += finding.level == "bad"
            advice = f"\n      {finding.advice}" if finding.advice else ""
            console.print(f"{finding.level:5}", style=STYLES[finding.level], end=" ", highlight=False)
            console.print(finding.what + advice, markup=False, highlight=False, soft_wrap=True)
    if num_bad:
        raise typer.Exit(FAILED)
