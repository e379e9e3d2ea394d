"""SQL over the tables beside MLflow's own search and history API on the same metric points: part of `make bench`.

    python tests/benchmarks/sql_speed.py          10⁶ points of 10³ runs, about a minute
    python tests/benchmarks/sql_speed.py --full   10⁷ points of 10⁴ runs, several minutes and 4 GB of disk

Every run has 10 metrics of 100 steps. MLflow's SQLite database is filled by SQL, for its API would need an hour; its
answers are checked against ours first. Sides alternate, medians are shown, no time is asserted.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flows.engine.metric_buffer import Points
from flows.engine.work import Work
from storage.home import Home
from storage.named import find, values
from storage.queries import query

METRICS = ("accuracy", "entropy", "grad_norm", "kl", "loss", "lr", "margin", "reward", "seconds", "tokens_per_second")
STEPS = 100
START = datetime(2026, 11, 22, tzinfo=UTC)
RUNS_A_PART = 100


@dataclass(frozen=True)
class Race:
    """One question to both sides; `unit` is what the figures are, milliseconds or a rate."""

    question: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    repeats: int = 5


def names(runs: int) -> list[tuple[str, str]]:
    """Run ids and artifact keys."""
    return [(f"{number:08d}-run", hashlib.sha256(str(number).encode()).hexdigest()) for number in range(runs)]


def points(run: int) -> np.ndarray:
    """Values of one run's metrics: metric × step."""
    return np.random.default_rng(run).random((len(METRICS), STEPS))


def fill_home(home: Home, runs: int) -> float:
    """Write runs, stages and metrics as runs do, a part file a hundred runs. Returns the seconds of the metrics."""
    ids, seconds = names(runs), 0.0
    events, stages = [], []
    for number, (run, key) in enumerate(ids):
        at = START + timedelta(minutes=number)
        events.append({"run_id": run, "event": "started", "status": "running", "time": at})
        stage = {"run_id": run, "stage": "pretrain", "label": "pretrain", "key": key, "status": "ran"}
        stages.append({**stage, "started_at": at, "ended_at": at})
    home.tables.write("runs", "all", events)
    home.tables.write("stages", "all", stages)
    size = len(METRICS) * STEPS
    for first in range(0, runs, RUNS_A_PART):
        some = range(first, min(first + RUNS_A_PART, runs))
        columns = {
            "run_id": np.repeat([ids[run][0] for run in some], size),
            "key": np.repeat([ids[run][1] for run in some], size),
            "stage": pa.repeat(pa.scalar("pretrain"), size * len(some)),
            "step": np.tile(np.repeat(np.arange(STEPS), len(METRICS)), len(some)),
            "name": np.tile(METRICS, STEPS * len(some)),
            "value": np.concatenate([points(run).T.ravel() for run in some]),
            "time": pa.repeat(pa.scalar(START, pa.timestamp("us", tz="UTC")), size * len(some)),
        }
        rows = pa.table(columns)
        began = time.perf_counter()
        home.tables.write("metrics", f"part-{first:08d}", rows)
        seconds += time.perf_counter() - began
    return seconds


def fill_mlflow(folder: Path, runs: int) -> tuple[Any, str]:
    """A migrated MLflow database with the same points. Returns its client and the experiment's id."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.create_experiment("bench", artifact_location=str(folder / "artifacts"))
    ids = names(runs)
    with closing(sqlite3.connect(folder / "mlflow.db", isolation_level=None)) as database:
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -500000"):
            database.execute(statement)
        found = database.execute("SELECT name, sql FROM sqlite_master WHERE tbl_name = 'metrics' AND type = 'index'")
        indexes = [(name, sql) for name, sql in found.fetchall() if sql]
        for name, _ in indexes:
            database.execute(f'DROP INDEX "{name}"')
        database.execute("BEGIN")
        database.executemany(
            "INSERT INTO runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id, user_id, "
            "source_type, artifact_uri) VALUES (?, ?, 'FINISHED', ?, ?, 'active', ?, 'u', 'LOCAL', '')",
            [(run, run, number * 60_000, number * 60_000, int(experiment)) for number, (run, _) in enumerate(ids)],
        )
        every = np.stack([points(run) for run in range(runs)])  # run × metric × step
        for number, metric in enumerate(METRICS):  # in the order of the primary key: key, timestamp, step, run
            last = [(metric, float(every[run, number, -1]), 0, ids[run][0], STEPS - 1) for run in range(runs)]
            insert = "(key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)"
            database.executemany(f"INSERT INTO latest_metrics {insert}", last)
            for step in range(STEPS):
                rows = zip(every[:, number, step].tolist(), ids, strict=True)
                database.executemany(
                    f"INSERT INTO metrics {insert}", [(metric, value, 0, run, step) for value, (run, _) in rows]
                )
        for _, sql in indexes:
            database.execute(sql)
        database.execute("COMMIT")
        database.execute("ANALYZE")
    return client, experiment


def races(home: Home, client: Any, experiment: str, runs: int) -> Iterator[Race]:
    leaderboard, ids = find("leaderboard"), [run for run, _ in names(runs)]
    rng = np.random.default_rng(1)
    drawn = [ids[place] for place in rng.integers(0, runs, 1000)]
    turns = count()
    curve = "SELECT step, value FROM metrics WHERE run_id = ? AND name = 'loss' ORDER BY step"
    many = "SELECT run_id, step, value FROM metrics WHERE run_id IN (SELECT unnest(?)) AND name = 'loss' ORDER BY ALL"

    def best(limit: int) -> list[tuple[str, float]]:
        found = query(home, leaderboard.sql, values(home, leaderboard, {"limit": str(limit)}))
        return list(zip(found["run_id"].to_pylist(), found["value"].to_pylist(), strict=True))

    def their_best(limit: int) -> list[tuple[str, float]]:
        found: list[tuple[str, float]] = []
        token = None
        while len(found) < limit:
            page = client.search_runs(
                [experiment], max_results=min(limit, 5000), order_by=["metrics.loss ASC"], page_token=token
            )
            found += [(run.info.run_id, run.data.metrics["loss"]) for run in page]
            token = page.token
            if not token:
                break
        return found

    def history(run: str) -> list[tuple[int, float]]:
        found = query(home, curve, [run])
        return list(zip(found["step"].to_pylist(), found["value"].to_pylist(), strict=True))

    def their_history(run: str) -> list[tuple[int, float]]:
        return sorted((metric.step, metric.value) for metric in client.get_metric_history(run, "loss"))

    def histories(some: list[str]) -> int:
        return int(query(home, many, [some]).num_rows)

    if best(runs) != their_best(runs) or history(drawn[0]) != their_history(drawn[0]):
        raise SystemExit("the two sides do not hold the same points")
    yield Race(f"leaderboard of last values, all {runs:,} runs", lambda: best(runs), lambda: their_best(runs), 2)
    yield Race("leaderboard of last values, best 20", lambda: best(20), lambda: their_best(20))
    yield Race(
        "one metric's curve of one run",
        lambda: history(drawn[next(turns) % 1000]),
        lambda: their_history(drawn[next(turns) % 1000]),
        15,
    )
    for some in (sorted(set(drawn))[:100], ids[:1000], *([ids] if runs > 1000 else [])):
        yield Race(
            f"one metric's curves of {len(some):,} runs",
            lambda some=some: histories(some),
            lambda some=some: [their_history(run) for run in some],
            3 if len(some) == 100 else 1,
        )


def timed(side: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Milliseconds of one call."""
    began = clock()
    side()
    return (clock() - began) * 1e3


def both_clocks(side: Callable[[], Any]) -> tuple[float, float]:
    """Milliseconds of one call: wall clock, and processor time of all threads."""
    cpu = time.process_time()
    wall = timed(side)
    return wall, (time.process_time() - cpu) * 1e3


def ingest(home: Home, client: Any, experiment: str, folder: Path) -> None:
    """Points a second from a training loop's memory into what survives a power cut; and the call in the loop."""
    from mlflow.entities import Metric

    held, parts = Points(), count()
    for step in range(250_000):
        held.add(step, {"loss": 1.0, "lr": 0.1, "grad_norm": 2.0, "tokens_per_second": 3.0}, 1.79e9 + step)
    run = client.create_run(experiment).info.run_id

    def ours() -> int:
        part = f"ingest-{next(parts)}"
        return home.tables.write("metrics", part, held.table("ingest", part, "pretrain"))

    def theirs() -> int:
        first = next(parts) * 10_000
        for start in range(first, first + 5000, 1000):
            client.log_batch(run, [Metric("loss", 1.0, 0, start + step) for step in range(1000)])
        return 5000

    pairs = [(ours() / timed(ours) * 1e3, theirs() / timed(theirs) * 1e3) for _ in range(3)]
    mine, peer = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    print(f"{'ingest, points/s (beside log_batch)':<48} {mine:>20,.0f} {peer:>22,.0f} {mine / peer:>7,.0f}x")
    work = Work(folder / "out", folder / "state")
    logged = {"loss": 1.0, "lr": 0.1, "grad_norm": 2.0, "tokens_per_second": 3.0}
    calls = [timed(lambda: [work.log(step, logged) for step in range(5000)]) / 5000 * 1e3 for _ in range(15)]
    print(f"{'a call of work.log with 4 metrics, µs':<48} {statistics.median(calls):>20,.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="10⁷ points of 10⁴ runs")
    runs = 10_000 if parser.parse_args().full else 1000
    total = runs * len(METRICS) * STEPS
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        home = Home(folder / "home")
        seconds = fill_home(home, runs)
        print(f"{total:,} points of {runs:,} runs written at {total / seconds:,.0f} points/s", flush=True)
        began = time.perf_counter()
        home.tables.compact()
        print(f"compacted in {time.perf_counter() - began:.1f} s", flush=True)
        began = time.perf_counter()
        client, experiment = fill_mlflow(folder, runs)
        print(f"the same in MLflow's SQLite in {time.perf_counter() - began:.1f} s, by SQL\n", flush=True)
        print(f"{'milliseconds (of processor time in brackets)':<48} {'Lifespan':>20} {'MLflow':>22} {'ratio':>8}")
        for race in races(home, client, experiment, runs):
            race.ours()
            rounds = [(*both_clocks(race.ours), *both_clocks(race.theirs)) for _ in range(race.repeats)]
            ours, our_cpu, theirs, their_cpu = (statistics.median(one[side] for one in rounds) for side in range(4))
            sides = f"{ours:>11,.1f} ({our_cpu:>6,.1f}) {theirs:>11,.1f} ({their_cpu:>8,.1f})"
            print(f"{race.question:<48} {sides} {theirs / ours:>7,.1f}x", flush=True)
        ingest(home, client, experiment, folder)


if __name__ == "__main__":
    main()
