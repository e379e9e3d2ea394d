"""The last runs of a home and how they ended."""

from __future__ import annotations

from typing import Any

from flows.runs.registry import running
from storage.home import Home
from storage.queries import query

_RECENT = "SELECT * FROM latest_runs ORDER BY started_at DESC LIMIT $limit"


def recent_runs(home: Home, limit: int = 10) -> list[dict[str, Any]]:
    """The last rows of the view `latest_runs`, newest first. The status of a run that has not ended is `running` while
    its process lives and `killed` afterwards."""
    rows: list[dict[str, Any]] = query(home, _RECENT, {"limit": limit}).to_pylist()
    alive = running(home)
    for row in rows:
        if row["run_id"] in alive:
            row["status"] = "running"
        elif row["ended_at"] is None:
            row["status"] = "killed"
    return rows
