"""`lifespan status`: the runs in progress in a home, and how its last runs ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.commands.command import friendly_errors, plain_table, wide_console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from storage.home import Home


def status() -> None:
    """Show the runs in progress in this home, and how the last runs ended."""
    with friendly_errors():
        from storage.home import Home

        console = wide_console()
        for part in sections(Home.from_env()):
            console.print(part)


def sections(home: Home) -> list[RenderableType]:
    """A table for each run in progress, and one of the last runs."""
    from rich.text import Text

    from flows.engine.progress import clock
    from flows.runs.history import recent_runs
    from flows.runs.registry import running

    parts: list[RenderableType] = []
    for run_id, board in running(home).items():
        took = f"running for {clock(board['seconds'])} (process {board['pid']})"
        parts += [Text(f"run {run_id}: {took}", "bold"), _stages(board["stages"])]
    if runs := recent_runs(home):
        parts.append(_runs(runs, f"runs in {home.shown}"))
    else:
        parts.append(Text(f"no runs yet in {home.shown}: start one with `lifespan run`"))
    return parts


def _stages(stages: list[dict[str, Any]]) -> RenderableType:
    from rich.text import Text

    from flows.engine.progress import LOOK, clock

    table = plain_table("stage", "state", "time", "")
    for row in stages:
        share = f"{row['done'] / row['total']:.0%} " if row["state"] == "running" and row["total"] else ""
        took = clock(row["seconds"]) if row["seconds"] else ""
        table.add_row(Text(row["label"]), Text(row["state"], LOOK[row["state"]][1]), took, Text(share + row["details"]))
    return table


def _runs(runs: list[dict[str, Any]], title: str) -> RenderableType:
    from rich.text import Text

    from flows.engine.progress import clock

    counts = ("ran", "cached", "failed")
    columns = ("run", "name", "profile", "started (UTC)", "status", "time", *counts)
    table = plain_table(*columns, right=("time", *counts), title=title)
    for run in runs:
        took = clock(run["seconds"]) if run["seconds"] is not None else ""
        cells = (run["run_id"], run["name"], run["profile"], f"{run['started_at']:%Y-%m-%d %H:%M}", run["status"], took)
        table.add_row(*(Text(cell or "") for cell in cells), *(str(run[name]) for name in counts))
    return table
