"""Speed of the hot paths beside a named peer, both sides in this run, medians: `make bench`.

No time is asserted anywhere: the table is for reading. Sides alternate, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint


@dataclass(frozen=True)
class Race:
    """One comparison: units of work a call of each side, and what a unit is."""

    work: str
    peer: str
    unit: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    repeats: int = 5


def rate(side: Callable[[], float]) -> float:
    """Units a second of one call."""
    began = time.perf_counter()
    units = side()
    return units / (time.perf_counter() - began)


def run(race: Race) -> tuple[float, float]:
    """Median rates of both sides, taken in turn after one warm-up each."""
    race.ours(), race.theirs()
    pairs = [(rate(race.ours), rate(race.theirs)) for _ in range(race.repeats)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def law_fit() -> Race:
    law, rng = ChinchillaLaw(1.69, 406.4, 410.7, 0.34, 0.28), np.random.default_rng(0)
    points = [
        ScalingPoint(n, d, law.loss(n, d) * float(np.exp(rng.normal(0, 0.005))), f"{n}")
        for n in np.geomspace(1e7, 1e10, 10)
        for d in np.geomspace(1e9, 1e12, 10)
    ]
    log_n, log_d, log_loss = (np.log([getattr(p, f) for p in points]) for f in ("num_params", "tokens", "loss"))

    def ours() -> float:
        fit_chinchilla(points, ChinchillaFitConfig(method="none"))
        return 1

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        predicted = np.logaddexp(np.logaddexp(a - alpha * log_n, b - beta * log_d), e)
        gap = np.abs(predicted - log_loss)
        return float(np.where(gap < 1e-3, gap**2 / 2, 1e-3 * (gap - 5e-4)).sum())

    def theirs() -> float:
        starts = [
            (a, b, e, x, y) for a in (0, 10) for b in (0, 10) for e in (0, 1) for x in (0.2, 0.8) for y in (0.2, 0.8)
        ]
        min((minimize(objective, s, method="L-BFGS-B") for s in starts), key=lambda r: r.fun)
        return 1

    return Race("fit a law, 100 points", "scipy L-BFGS-B from 32 starts", "fits/s", ours, theirs, repeats=3)


def metric_rows(folder: Path, points: int = 5000) -> Race:
    from datetime import UTC, datetime
    from itertools import count

    import mlflow
    from mlflow.entities import Metric

    from storage.tables import Tables

    tables, parts = Tables(str(folder / "tables")), count()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    client = mlflow.MlflowClient()
    mlflow_run = client.create_run("0")
    names = {"run_id": "r", "key": "k", "stage": "s", "name": "loss", "time": datetime.now(UTC)}

    def ours() -> float:
        tables.write("metrics", f"part{next(parts)}", [{**names, "step": i, "value": 1.0} for i in range(points)])
        return points

    def theirs() -> float:
        first = next(parts) * points
        for start in range(0, points, 1000):
            metrics = [Metric("loss", 1.0, 0, first + start + i) for i in range(1000)]
            client.log_batch(mlflow_run.info.run_id, metrics)
        return points

    return Race("log metrics", "mlflow log_batch on SQLite", "points/s", ours, theirs, repeats=3)


def races(folder: Path) -> Iterator[Race]:
    yield law_fit()
    yield metric_rows(folder)


def main() -> None:
    torch.set_num_threads(1)
    print(f"{'work':<24} {'ours':>12} {'peer':>12} {'ratio':>7}  unit      peer is")
    with tempfile.TemporaryDirectory() as folder:
        for race in races(Path(folder)):
            ours, theirs = run(race)
            print(f"{race.work:<24} {ours:>12,.1f} {theirs:>12,.1f} {ours / theirs:>6.2f}x  {race.unit:<9} {race.peer}")


if __name__ == "__main__":
    main()
