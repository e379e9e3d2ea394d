"""How fast laws are fitted, beside scipy's L-BFGS-B from the same kind of starts as Hoffmann et al. (2022) take.

    OMP_NUM_THREADS=1 PYTHONPATH=. .venv/bin/python tests/benchmarks/scaling_speed.py [--starts 4500]

240 points of 40 runs: a fit, and 4,000 resamples over runs (on one core, and on two); 6,000 rows with all checks of a
table; and the grid of 4,500 starts with the analytic gradient. `--starts` takes fewer of them and scales the time up.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.fit_runs import fit_table
from components.scaling.law_fitters import FitOptions
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint
from components.scaling.run_table import run_table

LAW = ChinchillaLaw(E=1.8, A=400.0, B=1500.0, alpha=0.34, beta=0.36)
DELTA = 1e-3


def points(num_runs: int, per_run: int, noise: float = 0.01, seed: int = 0) -> list[ScalingPoint]:
    """A sweep that follows the law up to noise."""
    rng = np.random.default_rng(seed)
    found = []
    for run in range(num_runs):
        n = 10 ** rng.uniform(7.5, 10.0)
        for d in (10 ** rng.uniform(9.0, 11.5, per_run)).tolist():
            loss = float(LAW.loss(n, d)) * float(np.exp(noise * rng.standard_normal()))
            found.append(ScalingPoint(n, d, loss, f"r{run}"))
    return found


def scipy_grid(sweep: list[ScalingPoint], count: int) -> tuple[float, float]:
    """Lowest objective of so many starts of Hoffmann's grid, spread over all of it, and the seconds that they took."""
    x, y, target = (np.log([getattr(p, name) for p in sweep]) for name in ("num_params", "tokens", "loss"))
    logs, exponents = np.arange(0, 30, 5), np.arange(0, 2.5, 0.5)
    grid = list(itertools.product(logs, logs, np.arange(-1, 1.5, 0.5), exponents, exponents))
    chosen = [grid[i] for i in np.linspace(0, len(grid) - 1, count).astype(int)]

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        a, b, e, alpha, beta = theta
        terms = np.stack([a - alpha * x, b - beta * y, np.full_like(x, e)])
        top = terms.max(axis=0)
        share = np.exp(terms - top)
        total = share.sum(axis=0)
        predicted = top + np.log(total)
        share /= total
        off = predicted - target
        size = np.abs(off)
        psi = np.clip(off / DELTA, -1, 1)
        loss = float(np.where(size <= DELTA, 0.5 * size**2 / DELTA, size - 0.5 * DELTA).sum())
        first, second, third = (psi * part for part in share)
        slope = [first.sum(), second.sum(), third.sum(), -(first * x).sum(), -(second * y).sum()]
        return loss, np.array(slope)

    began = time.process_time()
    lowest = min(float(optimize.minimize(objective, start, jac=True, method="L-BFGS-B").fun) for start in chosen)
    return lowest, time.process_time() - began


def seconds(work: Callable[[], object], repeats: int = 3, clock: Callable[[], float] = time.process_time) -> float:
    """The least of several."""
    taken = []
    for _ in range(repeats):
        began = clock()
        work()
        taken.append(clock() - began)
    return min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=4500)
    count = parser.parse_args().starts
    sweep = points(40, 6)
    plain = ChinchillaFitConfig(method="none")
    ours = seconds(lambda: fit_chinchilla(sweep, plain), 7)
    print(f"240 points, one fit: {ours * 1e3:.1f} ms", flush=True)
    many = ChinchillaFitConfig(method="bootstrap", resamples=4000)
    cpu = seconds(lambda: fit_chinchilla(sweep, many), 2)
    wall = seconds(lambda: fit_chinchilla(sweep, many), 2, time.perf_counter)
    print(f"4,000 resamples over runs: {cpu:.2f} s of processor, {wall:.2f} s by the clock", flush=True)
    rows = points(1000, 6)
    cells: dict[str, Any] = {
        "params": [p.num_params for p in rows],
        "tokens": [p.tokens for p in rows],
        "loss": [p.loss for p in rows],
        "run": [p.run for p in rows],
    }
    whole = seconds(lambda: fit_table(run_table(cells, "t"), FitOptions(method="none")), 3)
    print(f"6,000 rows, read, checked and fitted: {whole:.2f} s", flush=True)
    lowest, grid = scipy_grid(sweep, count)
    grid *= 4500 / count
    objective = fit_chinchilla(sweep, plain).objective
    print(f"scipy's grid of 4,500 starts: {grid:.1f} s, {grid / ours:.0f} times as long as ours", flush=True)
    print(f"objective: ours {objective:.9g}, the best of scipy's {lowest:.9g}")


if __name__ == "__main__":
    main()
