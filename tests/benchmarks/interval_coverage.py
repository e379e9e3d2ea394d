"""How often 95% intervals of a sweep hold the truth: simulated sweeps of a known law, fitted as a table of runs is.

    PYTHONPATH=. .venv/bin/python tests/benchmarks/interval_coverage.py [--sweeps 200] [--noise 0.01] [--runs 4]
        [--points 5] [--law life|flat|chinchilla] [--method posterior|bootstrap|both]

`--points` a run, at token counts that all runs share; with 1, each run has its own. Law `life` and its sizes are those
of the default life, `flat` has about half of its exponents, `chinchilla` stands for tables of 10M to 10B parameters.
Noise is relative: of a run as a whole, and of each point, both of `--noise`. The bootstrap over runs is measured on a
quarter of the sweeps. A next run has twice the largest size, a far run ten times size and tokens; both are observed
with their own noise. Width: the mean width of an interval in those of one that knows the noise and the law's
neighbourhood (the curvature of the true likelihood): 1 is as narrow as can be.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.scaling.chinchilla_fit import PARAMETERS, ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint, point_arrays
from components.scaling.posterior import sample_posterior
from components.statistics import Interval, cluster_rows, wilson

FloatArray = NDArray[np.float64]
LAW = ChinchillaLaw(E=0.72, A=9.6, B=7200.0, alpha=0.31, beta=0.81)
FLAT = ChinchillaLaw(E=0.5, A=2.2, B=4.4, alpha=0.13, beta=0.157)
CHINCHILLA = ChinchillaLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # Besiroglu et al. 2024
QUANTITIES = ("E", "alpha", "beta", "exponent", "next run", "far run")
BATCH = 50


@dataclass(frozen=True)
class Design:
    """What is trained: sizes from the first to the last of `sizes`, tokens likewise."""

    law: ChinchillaLaw
    sizes: tuple[float, float]
    tokens: tuple[float, float]


DESIGNS = {
    "life": Design(LAW, (10_192, 151_072), (142e3, 566e3)),
    "flat": Design(FLAT, (10_192, 151_072), (142e3, 566e3)),
    "chinchilla": Design(CHINCHILLA, (1e7, 1e10), (5e8, 1e11)),
}


def swept(
    rng: np.random.Generator, design: Design, noise: float, num_runs: int, per_run: int = 5
) -> list[ScalingPoint]:
    """The points of one sweep. Its sizes and tokens are the same in all."""
    points = []
    lengths = np.geomspace(*design.tokens, max(per_run, 1))
    alone = np.geomspace(*design.tokens, num_runs)[(np.arange(num_runs) * _stride(num_runs)) % num_runs]
    for run, size in enumerate(np.geomspace(*design.sizes, num_runs).tolist()):
        of_run = rng.normal(0.0, noise)
        for tokens in lengths.tolist() if per_run > 1 else [float(alone[run])]:
            off = np.exp(of_run + rng.normal(0.0, noise))
            points.append(ScalingPoint(size, tokens, float(design.law.loss(size, tokens)) * float(off), f"run-{run}"))
    return points


def _stride(n: int) -> int:
    """A step through n places that visits all of them, far from their order."""
    return next(step for step in range(round(0.618 * n), 2 * n) if np.gcd(step, n) == 1)


def truths(design: Design) -> dict[str, float]:
    """What intervals should hold, without noise."""
    law = design.law
    at = {name: law.loss(k * design.sizes[1], d * design.tokens[1]) for name, k, d in _AHEAD}
    known = {"E": law.E, "alpha": law.alpha, "beta": law.beta, "exponent": law.params_exponent}
    return known | {name: float(loss) for name, loss in at.items()}


_AHEAD = (("next run", 2.0, 1.0), ("far run", 10.0, 10.0))


def best_widths(design: Design, noise: float, num_runs: int, per_run: int) -> dict[str, float]:
    """Widths of intervals by the Fisher information of the true law and noise; of runs to come with their noise."""
    points = swept(np.random.default_rng(0), design, 0.0, num_runs, per_run)
    theta = np.array([np.log(design.law.A), np.log(design.law.B), design.law.E, design.law.alpha, design.law.beta])

    def quantities(t: FloatArray) -> dict[str, float]:
        return truths(Design(ChinchillaLaw(t[2], *np.exp(t[:2]).tolist(), *t[3:]), design.sizes, design.tokens))

    def log_losses(t: FloatArray) -> FloatArray:
        law = ChinchillaLaw(t[2], *np.exp(t[:2]).tolist(), *t[3:])
        return np.log([float(law.loss(p.num_params, p.tokens)) for p in points])

    def slopes(of: object) -> FloatArray:
        h = 1e-5
        return np.stack([(np.asarray(of(theta + s)) - np.asarray(of(theta - s))) / (2 * h) for s in h * np.eye(5)])  # type: ignore[operator]

    covariance = noise**2 * np.eye(len(points))
    for rows in cluster_rows([p.run for p in points]):
        covariance[np.ix_(rows, rows)] += noise**2
    jacobian = slopes(log_losses).T
    spread = np.linalg.inv(jacobian.T @ np.linalg.solve(covariance, jacobian))
    gradient = slopes(lambda t: list(quantities(t).values())).T
    variance = np.einsum("qp,pr,qr->q", gradient, spread, gradient)
    own = [2 * (noise * value) ** 2 if name.endswith("run") else 0.0 for name, value in truths(design).items()]
    return dict(zip(QUANTITIES, (3.92 * np.sqrt(variance + np.array(own))).tolist(), strict=True))


@dataclass(frozen=True)
class Coverage:
    """`held`: share of the sweeps, with its interval; `width`: median width in those of the best possible."""

    held: Interval
    width: float


def posterior_coverage(
    sweeps: int, noise: float, num_runs: int, design: Design, per_run: int = 5, seed: int = 0
) -> dict[str, Coverage]:
    """Of the posterior's intervals of the parameters and of runs to come."""
    rng = np.random.default_rng(seed)
    ends: dict[str, list[FloatArray]] = {name: [] for name in QUANTITIES}
    for first in range(0, sweeps, BATCH):
        batch = [swept(rng, design, noise, num_runs, per_run) for _ in range(min(BATCH, sweeps - first))]
        fits = [fit_chinchilla(points, ChinchillaFitConfig(method="none")).law for points in batch]
        start = np.array([[getattr(fit, name) for name in PARAMETERS] for fit in fits])
        losses = np.array([[point.loss for point in points] for points in batch])
        drawn = sample_posterior(
            point_arrays(batch[0], 4, "the law"), losses, start, walkers=48, steps=2400, seed=first
        )
        found = _drawn(drawn.laws, design)
        spread = np.hypot(drawn.noise[..., 0], drawn.noise[..., 1])
        for name, draws in found.items():
            if name.endswith("run"):
                draws = draws * np.exp(spread * rng.standard_normal(spread.shape))
            ends[name].append(np.quantile(draws, [0.025, 0.975], axis=1).T)
    return _judged({name: np.concatenate(parts) for name, parts in ends.items()}, design, noise, num_runs, per_run, rng)


def bootstrap_coverage(
    sweeps: int, noise: float, num_runs: int, design: Design, per_run: int = 5, seed: int = 0
) -> dict[str, Coverage]:
    """The same of a bootstrap over runs; runs to come with the residuals of the fit."""
    rng = np.random.default_rng(seed)
    ends: dict[str, list[FloatArray]] = {name: [] for name in QUANTITIES}
    for sweep in range(sweeps):
        config = ChinchillaFitConfig(method="bootstrap", resamples=400, seed=sweep)
        fit = fit_chinchilla(swept(rng, design, noise, num_runs, per_run), config)
        n = len(fit.residuals)
        for name, draws in _drawn(fit.samples[None], design).items():
            if name.endswith("run"):
                draws = draws * np.exp(rng.choice(fit.residuals * np.sqrt(n / max(n - 5, 1)), draws.shape))
            ends[name].append(np.quantile(draws, [0.025, 0.975], axis=1).T)
    return _judged({name: np.concatenate(parts) for name, parts in ends.items()}, design, noise, num_runs, per_run, rng)


def _drawn(laws: FloatArray, design: Design) -> Mapping[str, FloatArray]:
    """Each quantity of sampled laws (S, K, 5); shape (S, K)."""
    a, b, e, alpha, beta = np.moveaxis(laws, -1, 0)
    ahead = {
        name: e + a * (k * design.sizes[1]) ** -alpha + b * (d * design.tokens[1]) ** -beta for name, k, d in _AHEAD
    }
    return {"E": e, "alpha": alpha, "beta": beta, "exponent": beta / (alpha + beta)} | ahead


def _judged(
    ends: Mapping[str, FloatArray], design: Design, noise: float, num_runs: int, per_run: int, rng: np.random.Generator
) -> dict[str, Coverage]:
    best = best_widths(design, noise, num_runs, per_run)
    found = {}
    for name, value in truths(design).items():
        low, high = ends[name].T
        off = noise * rng.standard_normal((len(low), 2)).sum(axis=1) if name.endswith("run") else np.zeros(len(low))
        truth = value * np.exp(off)
        held = wilson(int(((low <= truth) & (truth <= high)).sum()), len(low))
        found[name] = Coverage(held, float(np.median(high - low)) / best[name])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--points", type=int, default=5)
    parser.add_argument("--law", choices=DESIGNS, default="life")
    parser.add_argument("--method", choices=("posterior", "bootstrap", "both"), default="both")
    options = parser.parse_args()
    design, sweeps = DESIGNS[options.law], options.sweeps
    for method, count, measured in (
        ("posterior", sweeps, posterior_coverage),
        ("bootstrap", max(1, sweeps // 4) if options.method == "both" else sweeps, bootstrap_coverage),
    ):
        if options.method not in (method, "both"):
            continue
        for name, x in measured(count, options.noise, options.runs, design, options.points).items():
            print(
                f"{method}, {name}: holds in {x.held.value:.1%} [{x.held.low:.1%}, {x.held.high:.1%}] of {count}, "
                f"width {x.width:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
