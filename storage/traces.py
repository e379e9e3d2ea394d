"""Strategies of several requests as MLflow traces: a tree of spans, from the rows of the table `trees`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.home import Home
from storage.queries import query
from storage.tracker import connected

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MOST = 20  # traces of an evaluation: a sample, evenly over strategies, of what the table has whole


def show_trees(home: Home, run_id: str, key: str, experiment: str, most: int = MOST) -> int:
    """Show some trees of an evaluation in its experiment; the number of traces, 0 where they are there already.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    chosen = query(
        home,
        """SELECT strategy, item_id FROM (SELECT DISTINCT strategy, item_id FROM trees WHERE key = ?)
        QUALIFY row_number() OVER (PARTITION BY strategy ORDER BY hash(item_id)) <=
            greatest(1, ? // (SELECT count(DISTINCT strategy) FROM trees WHERE key = ?))
        ORDER BY strategy, item_id LIMIT ?""",
        [key, most, key, most],
    ).to_pylist()
    if not chosen:
        return 0
    with home.lock("mlflow-sync"), connected(home) as client:
        import mlflow

        before = mlflow.get_tracking_uri()
        mlflow.set_tracking_uri(home.mlflow_uri)  # the exporter of spans knows no other way to be told
        try:
            found = client.get_experiment_by_name(experiment)
            if found is None or _there(client, found.experiment_id, key):
                return 0
            for one in chosen:
                rows = query(
                    home,
                    "SELECT * FROM trees WHERE key = ? AND strategy = ? AND item_id = ? ORDER BY node",
                    [key, one["strategy"], one["item_id"]],
                ).to_pylist()
                _log(client, found.experiment_id, run_id, key, rows)
            mlflow.flush_trace_async_logging()
        finally:
            mlflow.set_tracking_uri(before)
    return len(chosen)


def _there(client: MlflowClient, experiment: str, key: str) -> bool:
    wanted = f"tags.`lifespan.key` = '{key}'"
    return bool(client.search_traces(locations=[experiment], filter_string=wanted, max_results=1))


def _log(client: MlflowClient, experiment: str, run_id: str, key: str, rows: list[dict[str, Any]]) -> None:
    first = rows[0]
    root = client.start_trace(
        first["strategy"],
        inputs={"item": first["item_id"]},
        tags={"lifespan.run_id": run_id, "lifespan.key": key, "lifespan.strategy": first["strategy"]},
        experiment_id=experiment,
    )
    spans: dict[int, str] = {}
    for row in rows:
        parent = root.span_id if row["parent"] is None else spans[row["parent"]]
        facts = {name: row[name] for name in ("value", "tokens", "status", "depth") if row[name] is not None}
        span = client.start_span(row["kind"], root.trace_id, parent_id=parent, attributes=facts)
        spans[row["node"]] = span.span_id
        client.end_span(root.trace_id, span.span_id, outputs={"text": row["text"]})
    client.end_trace(root.trace_id, outputs={"steps": len(rows)})
