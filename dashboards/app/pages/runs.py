"""The runs of a home: what runs now, and a table in which runs are found, chosen and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dashboards.app.address import Address
from dashboards.app.outside import Outside
from dashboards.app.rows import Columns, ask
from dashboards.app.view import Bar, Bars, Block, Column, Note, Table, Tool, View
from storage.home import Home

MOST = 5000
SQL = f"""
        SELECT run_id, name, profile, status, started_at, seconds, usd, held_out_loss, accuracy, accuracy_low,
               accuracy_high, accuracy_n, model, strategy, gold, gold_low, gold_high, forecast_error, alarms, seen,
               not_seen, failed
        FROM run_summary ORDER BY started_at DESC, run_id LIMIT {MOST}"""

_COLUMNS = (
    Column("run_id", "run", href="/run?run={run_id}"),
    Column("name", "name"),
    Column("status", "state", "status"),
    Column("started_at", "started, UTC", "time"),
    Column(
        "accuracy",
        "best accuracy",
        "percent",
        low="accuracy_low",
        high="accuracy_high",
        href="/reasoning?run={run_id}",
        help="of a strategy that asks no verifier, with its 95% interval",
    ),
    Column(
        "held_out_loss", "held-out loss", "number", href="/training?run={run_id}", help="of pretraining, nats per token"
    ),
    Column("spark", "training loss", "spark"),
    Column(
        "gold",
        "gold",
        "number",
        low="gold_low",
        high="gold_high",
        href="/alignment?run={run_id}",
        help="of the best policy, over the model that it began as",
    ),
    Column("usd", "dollars", "dollars", href="/cost?run={run_id}", help="of everything in it, cached stages included"),
    Column("seconds", "took", "duration"),
    Column(
        "forecast_error", "forecast error", "number", href="/scaling?run={run_id}", help="predicted minus observed loss"
    ),
    Column("alarms", "alarms", "count", help="policies for which the watch raised the alarm of reward hacking"),
    Column("seen", "claims seen", "count", href="/run?run={run_id}"),
    Column("not_seen", "not seen", "count", href="/run?run={run_id}"),
)


def runs_page(home: Home, address: Address, outside: Outside) -> View:
    """Runs, newest first. Charts are drawn on demand alone: a table of a thousand runs is there at once."""
    found = ask(home, SQL)
    boards = outside.running()
    found["status"] = [
        "killed" if status == "running" and run not in boards else status
        for run, status in zip(found["run_id"], found["status"], strict=True)
    ]
    blocks: list[Block] = []
    if boards:
        blocks.append(Bars("Running now", tuple(_bar(run, board, bool(outside.stop)) for run, board in boards.items())))
    if not found["run_id"]:
        blocks.append(
            Note(
                f"No run yet in {home.shown}. `lifespan run` lives the life of a small model in about ten minutes, "
                "`lifespan run smoke` in one.",
                "muted",
            )
        )
    else:
        table = Table(
            "runs",
            f"{len(found['run_id']):,} runs",
            _COLUMNS,
            {**found, "spark": [None] * len(found["run_id"])},
            sql=SQL.replace("        ", "").strip(),
            select="run_id",
            filter=True,
        )
        blocks.append(table)
    if outside.start:
        blocks.append(Tool("start", {"profiles": list(outside.profiles)}))
    return View("Runs", tuple(blocks), refresh=2.0 if boards else 0.0, address=address.used)


def _bar(run: str, board: dict[str, Any], stoppable: bool) -> Bar:
    stages: Sequence[dict[str, Any]] = board.get("stages", ())
    running = [stage for stage in stages if stage["state"] == "running"]
    over = sum(stage["state"] not in ("waiting", "running") for stage in stages)
    part = sum(stage["done"] / stage["total"] for stage in running if stage["total"])
    share = (over + part) / len(stages) if stages else None
    doing = "; ".join(f"{stage['label']}: {stage['details']}".rstrip(": ") for stage in running[:3])
    text = f"{over} of {len(stages)} stages{' · ' + doing if doing else ''} · {board.get('status') or 'running'}"
    return Bar(str(board.get("title", run)), share, text, f"/training?run={run}", run if stoppable else "")


SPARK_POINTS = 24
_SPARKS = """
        WITH wanted AS (
            SELECT s.run_id, s.key FROM stages s
            WHERE s.run_id IN (SELECT unnest($runs)) AND s.label = 'pretrain' AND s.status IN ('ran', 'cached')),
        m AS (SELECT w.run_id, step, value FROM metrics JOIN wanted w USING (key)
              WHERE name = 'loss' AND isfinite(value)),
        w AS (SELECT run_id, max(step) + 1 AS width FROM m GROUP BY run_id)
        SELECT run_id, list(value ORDER BY bucket) AS values FROM (
            SELECT run_id, step * $points // width AS bucket, avg(value) AS value
            FROM m JOIN w USING (run_id) GROUP BY ALL)
        GROUP BY run_id"""


def sparks(home: Home, runs: Sequence[str]) -> Columns:
    """The training loss of each run in a few points, for the rows that are in sight."""
    return ask(home, _SPARKS, {"runs": list(runs), "points": SPARK_POINTS})
