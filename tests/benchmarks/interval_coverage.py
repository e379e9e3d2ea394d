"""How often 95% intervals of a small sweep hold the truth: simulated sweeps of a known law, fitted as a life does.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/interval_coverage.py [--sweeps 200] [--noise 0.01] [--runs 4]

Runs at five token counts each, law and sizes as in the default life; `--flat` takes one whose exponents are about half
of these. Noise is relative: of a run as a whole, and of each point, both of `--noise`. Beside the posterior's stand, of
a quarter of the sweeps, the intervals of a bootstrap over runs. A next run has twice the largest size, a far run ten
times size and tokens; both are observed with their own noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np

from components.scaling.chinchilla_fit import PARAMETERS, ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint, point_arrays
from components.scaling.posterior import sample_posterior
from components.statistics import Interval, wilson

LAW = ChinchillaLaw(E=0.72, A=9.6, B=7200.0, alpha=0.31, beta=0.81)
FLAT = ChinchillaLaw(E=0.5, A=2.2, B=4.4, alpha=0.13, beta=0.157)
TOKENS = (142e3, 200e3, 283e3, 400e3, 566e3)
BATCH = 50


def swept(rng: np.random.Generator, law: ChinchillaLaw, noise: float, num_runs: int) -> list[ScalingPoint]:
    """The points of one sweep."""
    points = []
    for run, size in enumerate(np.geomspace(10_192, 151_072, num_runs).tolist()):
        of_run = rng.normal(0.0, noise)
        for tokens in TOKENS:
            off = np.exp(of_run + rng.normal(0.0, noise))
            points.append(ScalingPoint(size, tokens, float(law.loss(size, tokens)) * float(off), f"run-{run}"))
    return points


def posterior_coverage(
    sweeps: int, noise: float, num_runs: int, law: ChinchillaLaw = LAW, seed: int = 0
) -> dict[str, Interval]:
    """Share of the sweeps in which the posterior's intervals hold the truth, and the run to come; with its interval."""
    rng = np.random.default_rng(seed)
    held: dict[str, int] = dict.fromkeys(("E", "alpha", "beta", "exponent", "next run", "far run"), 0)
    for first in range(0, sweeps, BATCH):
        batch = [swept(rng, law, noise, num_runs) for _ in range(min(BATCH, sweeps - first))]
        fits = [fit_chinchilla(points, ChinchillaFitConfig(method="none")).law for points in batch]
        start = np.array([[getattr(fit, name) for name in PARAMETERS] for fit in fits])
        losses = np.array([[point.loss for point in points] for points in batch])
        drawn = sample_posterior(
            point_arrays(batch[0], 6, "the law"), losses, start, walkers=48, steps=2400, seed=first
        )
        a, b, e, alpha, beta = np.moveaxis(drawn.laws, -1, 0)
        spread = np.hypot(drawn.noise[..., 0], drawn.noise[..., 1])
        largest, longest = batch[0][-1].num_params, TOKENS[-1]
        judged = {
            "E": (e, np.full(len(batch), law.E)),
            "alpha": (alpha, np.full(len(batch), law.alpha)),
            "beta": (beta, np.full(len(batch), law.beta)),
            "exponent": (beta / (alpha + beta), np.full(len(batch), law.params_exponent)),
        }
        for name, n, d in (("next run", 2 * largest, longest), ("far run", 10 * largest, 10 * longest)):
            forecast = (e + a * n**-alpha + b * d**-beta) * np.exp(spread * rng.standard_normal(spread.shape))
            observed = float(law.loss(n, d)) * np.exp(noise * rng.standard_normal((len(batch), 2)).sum(axis=1))
            judged[name] = forecast, observed
        for name, (draws, truth) in judged.items():
            low, high = np.quantile(draws, [0.025, 0.975], axis=1)
            held[name] += int(((low <= truth) & (truth <= high)).sum())
    return {name: wilson(count, sweeps) for name, count in held.items()}


def bootstrap_coverage(
    sweeps: int, noise: float, num_runs: int, law: ChinchillaLaw = LAW, seed: int = 0
) -> Mapping[str, Interval]:
    """The same of a bootstrap over runs, for the parameters."""
    rng = np.random.default_rng(seed)
    held = dict.fromkeys(("E", "alpha", "beta"), 0)
    for sweep in range(sweeps):
        config = ChinchillaFitConfig(method="bootstrap", resamples=200, seed=sweep)
        fit = fit_chinchilla(swept(rng, law, noise, num_runs), config)
        for name in held:
            held[name] += fit.intervals[name].contains(getattr(law, name))
    return {name: wilson(count, sweeps) for name, count in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--flat", action="store_true")
    options = parser.parse_args()
    law, sweeps = FLAT if options.flat else LAW, options.sweeps
    for method, count, measured in (
        ("posterior", sweeps, posterior_coverage),
        ("bootstrap", max(1, sweeps // 4), bootstrap_coverage),
    ):
        for name, x in measured(count, options.noise, options.runs, law).items():
            print(f"{method}, {name}: holds in {x.value:.1%} [{x.low:.1%}, {x.high:.1%}] of {count}", flush=True)


if __name__ == "__main__":
    main()
