"""`lifespan status`: what runs now in a home, and how its last runs ended."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flows.engine.progress import LOOK, clock
from flows.runs.registry import running
from storage.home import Home

RECENT = """
    SELECT s.run_id, s.name, s.profile, s.time AS started,
           coalesce(e.status, 'killed') AS status, epoch(e.time) - epoch(s.time) AS seconds,
           count(*) FILTER (g.status = 'ran') AS ran, count(*) FILTER (g.status = 'cached') AS cached,
           count(*) FILTER (g.status = 'failed') AS failed
    FROM runs s
    LEFT JOIN runs e ON e.run_id = s.run_id AND e.event = 'ended'
    LEFT JOIN stages g ON g.run_id = s.run_id
    WHERE s.event = 'started'
    GROUP BY ALL ORDER BY started DESC LIMIT $limit
"""
STAGES = """
    SELECT label, "group", status, seconds, reason FROM stages WHERE run_id = $run_id ORDER BY started_at, label
"""


def recent_runs(home: Home, limit: int = 10) -> list[dict[str, Any]]:
    """The last runs, newest first; one that goes on has status `running`, one without an end `killed`."""
    from storage.queries import query

    rows: list[dict[str, Any]] = query(home, RECENT, {"limit": limit}).to_pylist()
    now_running = running(home)
    for row in rows:
        if row["run_id"] in now_running:
            row["status"] = "running"
    return rows


def stages_of(home: Home, run_id: str) -> list[dict[str, Any]]:
    """The stages of a run that ended, in order."""
    from storage.queries import query

    rows: list[dict[str, Any]] = query(home, STAGES, {"run_id": run_id}).to_pylist()
    return rows


def render(home: Home) -> RenderableType:
    """What `lifespan status` prints."""
    parts: list[RenderableType] = []
    for run_id, board in running(home).items():
        parts.append(Text(f"run {run_id} goes on since {clock(board['seconds'])} (process {board['pid']})", "bold"))
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("stage", "state", "time", ""):
            table.add_column(column)
        for row in board["stages"]:
            share = f"{row['done'] / row['total']:.0%} " if row["state"] == "running" and row["total"] else ""
            took = clock(row["seconds"]) if row["seconds"] else ""
            state = Text(row["state"], LOOK[row["state"]][1])
            table.add_row(Text(row["label"]), state, took, Text(share + row["details"]))
        parts.append(table)
    runs = recent_runs(home)
    if not runs:
        return Group(*parts, Text(f"no runs yet in {home.shown}: start one with `lifespan run`"))
    table = Table(title=f"runs in {home.shown}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in ("run", "name", "profile", "started (UTC)", "status", "time", "ran", "cached", "failed"):
        table.add_column(column, justify="right" if column in ("time", "ran", "cached", "failed") else "left")
    for run in runs:
        took = clock(run["seconds"]) if run["seconds"] is not None else ""
        cells = (run["run_id"], run["name"], run["profile"], f"{run['started']:%Y-%m-%d %H:%M}", run["status"], took)
        table.add_row(*(Text(cell or "") for cell in cells), *(str(run[name]) for name in ("ran", "cached", "failed")))
    return Group(*parts, table)
