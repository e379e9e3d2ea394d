"""How often 95% intervals of a small sweep hold the truth: simulated sweeps of a known law, fitted as a life does.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/interval_coverage.py [--sweeps 60] [--noise 0.01]

Four runs at five token counts, sizes and law as in the default life. Noise is relative: of a run as a whole, and of
each point, both of `--noise`.
"""

from __future__ import annotations

import argparse

import numpy as np

from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint
from components.statistics import wilson

LAW = ChinchillaLaw(E=0.72, A=9.6, B=7200.0, alpha=0.31, beta=0.81)
SIZES, TOKENS = (10_192, 40_256, 83_376, 151_072), (142e3, 200e3, 283e3, 400e3, 566e3)


def swept(rng: np.random.Generator, noise: float) -> list[ScalingPoint]:
    """The points of one sweep."""
    points = []
    for run, size in enumerate(SIZES):
        of_run = rng.normal(0.0, noise)
        for tokens in TOKENS:
            off = np.exp(of_run + rng.normal(0.0, noise))
            points.append(ScalingPoint(size, tokens, float(LAW.loss(size, tokens)) * float(off), f"run-{run}"))
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.01)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    held = dict.fromkeys(("E", "alpha", "beta"), 0)
    for seed in range(options.sweeps):
        fit = fit_chinchilla(swept(rng, options.noise), ChinchillaFitConfig(resamples=200, seed=seed))
        for name in held:
            held[name] += fit.intervals[name].contains(getattr(LAW, name))
    for name, count in held.items():
        x = wilson(count, options.sweeps)
        print(f"{name}: 95% intervals hold the truth in {x.value:.0%} [{x.low:.0%}, {x.high:.0%}] of {options.sweeps}")


if __name__ == "__main__":
    main()
