"""Approach 3 of Hoffmann et al. (2022): fit L = E + A/N^α + B/D^β by a Huber loss on log loss, to convergence.

The published optimiser stopped early, and so do most general ones: the valley between E, B and β is long and flat, and
Huber's δ of 1e-3 makes its floor nearly piecewise linear. Here ln N and ln D are centred; a grid over (α, β) with a
linear solve for the rest (variable projection) gives starts; δ is lowered in steps; and each step is a damped Newton
method with the exact 5x5 Hessian, whose eigenvalues are taken in absolute value where the loss is not convex. All
starts, and later all bootstrap resamples, go through it as one batch. What counts as converged is the gradient.

Intervals come from a bootstrap over runs where there are many, and from the posterior (`posterior.py`) where there are
few: a bootstrap over four runs holds the truth in 77 to 82 of 100 cases at 95%.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.scaling.laws import ChinchillaLaw
from components.scaling.newton import Problem, grid_starts, minimise, share_at_minimum
from components.scaling.points import PointArrays, PointConvention, ScalingPoint, point_arrays
from components.scaling.posterior import R_HAT_GATE, central_draw, sample_posterior
from components.statistics import Interval, cluster_rows

FloatArray = NDArray[np.float64]

PARAMETERS = ("A", "B", "E", "alpha", "beta")
GRADIENT_GATE = 1e-6  # largest gradient component a point, dimensionless (the loss is divided by δ)
MANY_RUNS = 10  # from here on a bootstrap over runs is about as good as the posterior
_BATCH = 512

Method = Literal["auto", "posterior", "bootstrap", "none"]


@dataclass(frozen=True)
class ChinchillaFitConfig:
    """`delta`: Huber threshold on log loss (Hoffmann: 1e-3); `fixed_E`: a known irreducible loss, which is then not
    fitted; `tied`: α = β, which is the law of over-training of Gadre et al. (2024) with α = 2η and that of Muennighoff
    et al. (2023); `penalty`: see `newton.Problem`; `confidence` of the intervals.

    `method` of the intervals: "posterior", "bootstrap" over runs, "none", or "auto": the posterior for fewer than 10
    runs, the bootstrap for more and for a tied or penalised fit. `resamples`: of the bootstrap; `walkers`, `steps`: of
    the posterior's ensemble.
    """

    delta: float = 1e-3
    fixed_E: float | None = None
    tied: bool = False
    penalty: float = 1.0
    method: Method = "auto"
    resamples: int = 1000
    walkers: int = 64
    steps: int = 6000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"ChinchillaFitConfig.delta must be positive, got {self.delta}")
        if self.fixed_E is not None and not self.fixed_E > 0:
            raise ValueError(f"ChinchillaFitConfig.fixed_E must be positive or left out, got {self.fixed_E}")
        if not self.penalty >= 1:
            raise ValueError(f"ChinchillaFitConfig.penalty must be at least 1, got {self.penalty}")
        if self.method == "posterior" and (self.tied or self.penalty != 1.0):
            raise ValueError(
                "ChinchillaFitConfig.method: the posterior has neither tied exponents nor a penalty; "
                'take "bootstrap" or "auto"'
            )
        if self.method not in get_args(Method):
            raise ValueError(f"ChinchillaFitConfig.method is {self.method!r}: takes one of {get_args(Method)}")
        if self.resamples < 1:
            raise ValueError(
                f'ChinchillaFitConfig.resamples must be at least 1, got {self.resamples}: method = "none" fits without '
                "intervals"
            )

    def method_for(self, num_runs: int) -> Method:
        """What "auto" means for so many runs."""
        if self.method != "auto":
            return self.method
        return "posterior" if num_runs < MANY_RUNS and not self.tied and self.penalty == 1.0 else "bootstrap"


@dataclass(frozen=True)
class ChinchillaFit:
    """A fitted law with what is needed to judge it and to predict with intervals.

    `law`: the minimum of the Huber loss; with a posterior, the draw nearest to the middle of all. `intervals`: for each
    of A, B, E, alpha, beta. `samples`: shape (draws, 5), laws of the posterior or of the bootstrap in the order of
    PARAMETERS. `noise`: shape (draws, 2), standard deviations of ln loss between runs and between points of a run, of
    each draw of a posterior; (0, 2) otherwise. `residuals`: shape (n,), ln observed - ln predicted. `gradient`: largest
    component a point at the minimum; `share_of_starts`: of those of the optimiser that ended at the lowest objective;
    `r_hat`: of the posterior, 1 otherwise; `converged`: whether the posterior has
    mixed, or without one whether the gradient passed its gate. `config.method` says what was done. `warnings`: what is
    not identified, in words.
    """

    law: ChinchillaLaw
    intervals: Mapping[str, Interval]
    samples: FloatArray
    noise: FloatArray
    residuals: FloatArray
    r_squared: float
    objective: float
    gradient: float
    r_hat: float
    converged: bool
    num_runs: int
    convention: PointConvention
    config: ChinchillaFitConfig
    share_of_starts: float = 1.0
    warnings: tuple[str, ...] = field(default=())

    def predict(self, num_params: float, tokens: float) -> Interval:
        """Predicted mean loss with its interval (the law's uncertainty, without a new run's noise)."""
        value = float(self.law.loss(num_params, tokens))
        low, high = self._quantiles(self.sample_losses(num_params, tokens))
        return Interval(value, low, high, len(self.residuals))

    def optimal(self, flops: float) -> dict[str, Interval]:
        """Compute-optimal `num_params`, `tokens`, `tokens_per_param` and `loss` at C = 6ND, with intervals."""
        best = self.law.optimal(flops)
        drawn = [law.optimal(flops) for law in self.sample_laws()]
        return {
            name: Interval(
                getattr(best, name), *self._quantiles(np.array([getattr(d, name) for d in drawn])), len(self.residuals)
            )
            for name in ("num_params", "tokens", "tokens_per_param", "loss")
        }

    def params_exponent(self) -> Interval:
        """a in N* ∝ C^a with its interval."""
        drawn = self.samples[:, 4] / (self.samples[:, 3] + self.samples[:, 4])
        return Interval(self.law.params_exponent, *self._quantiles(drawn), len(self.residuals))

    def sample_losses(self, num_params: float, tokens: float) -> FloatArray:
        """Loss that each sampled law predicts; shape (draws,)."""
        a, b, e, alpha, beta = self.samples.T
        return np.asarray(e + a * num_params**-alpha + b * tokens**-beta)

    def sample_laws(self) -> list[ChinchillaLaw]:
        """The sampled laws."""
        return [ChinchillaLaw(E=e, A=a, B=b, alpha=al, beta=be) for a, b, e, al, be in self.samples.tolist()]

    def _quantiles(self, drawn: FloatArray) -> tuple[float, float]:
        return _quantiles(drawn, self.config.confidence)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, and back with `from_json`."""
        return {
            "law": self.law.to_json(),
            "samples": self.samples.tolist(),
            "noise": self.noise.tolist(),
            "residuals": self.residuals.tolist(),
            "r_squared": self.r_squared,
            "objective": self.objective,
            "gradient": self.gradient,
            "r_hat": self.r_hat,
            "converged": self.converged,
            "num_runs": self.num_runs,
            "convention": self.convention,
            "config": dict(vars(self.config)),
            "share_of_starts": self.share_of_starts,
            "warnings": list(self.warnings),
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ChinchillaFit:
        """The fit that `to_json` wrote."""
        law, config = ChinchillaLaw(**data["law"]), ChinchillaFitConfig(**data["config"])
        samples = np.array(data["samples"], dtype=np.float64).reshape(-1, 5)
        residuals = np.array(data["residuals"], dtype=np.float64)
        return ChinchillaFit(
            law=law,
            intervals=_intervals(law, samples, len(residuals), config.confidence),
            samples=samples,
            noise=np.array(data["noise"], dtype=np.float64).reshape(-1, 2),
            residuals=residuals,
            r_squared=data["r_squared"],
            objective=data["objective"],
            gradient=data["gradient"],
            r_hat=data["r_hat"],
            converged=data["converged"],
            num_runs=data["num_runs"],
            convention=data["convention"],
            config=config,
            share_of_starts=data["share_of_starts"],
            warnings=tuple(data["warnings"]),
        )


def fit_chinchilla(points: Sequence[ScalingPoint], config: ChinchillaFitConfig | None = None) -> ChinchillaFit:
    """Fit the five parameters (four with `fixed_E`) with their intervals.

    Raises ValueError for too few points, for too few distinct N or D to tell the terms apart, for losses that are not
    finite (naming the row), and for `fixed_E` at or above the lowest loss. What the data do not identify is fitted and
    said in `warnings`.
    """
    config = config or ChinchillaFitConfig()
    num_free = 5 - (config.fixed_E is not None) - config.tied
    arrays = point_arrays(points, num_free + 1, "the Chinchilla law")
    _check_identifiable(arrays, config)
    problem = Problem.of(arrays, config.fixed_E, config.tied, config.penalty)
    clusters = cluster_rows(arrays.runs)
    config = replace(config, method=config.method_for(len(clusters)))

    starts = grid_starts(problem, keep=8)
    theta, objective, gradient = minimise(problem, starts, np.ones((len(starts), len(points))), config.delta)
    best = int(np.argmin(objective))
    law, slope = problem.law(theta[best]), float(gradient[best])
    found: list[str] = []
    converged = slope <= GRADIENT_GATE
    samples, noise, r_hat = np.empty((0, 5)), np.empty((0, 2)), 1.0

    if config.method == "posterior":
        start = np.array([[getattr(law, name) for name in PARAMETERS]])
        drawn = sample_posterior(
            arrays, arrays.loss[None], start, config.fixed_E, config.walkers, config.steps, config.seed
        )
        samples, noise, r_hat = drawn.laws[0], drawn.noise[0], float(drawn.r_hat[0])
        law = ChinchillaLaw(**dict(zip(PARAMETERS, central_draw(samples, arrays).tolist(), strict=True)))
        converged = r_hat <= R_HAT_GATE  # the minimum is where its walkers began, and no more
        if not converged:
            found.append(f"the posterior has not mixed (R-hat {r_hat:.2f}): raise ChinchillaFitConfig.steps")
        found += _wide(law, samples, config)
    else:
        if not converged:
            found.append(f"not converged: the scaled gradient is {slope:.1e}, above {GRADIENT_GATE:.0e}")
        found += _at_bound(problem, theta[best])
    if config.method == "bootstrap":
        thetas = bootstrapped(problem, theta[best], clusters, config)
        samples = np.array([[getattr(problem.law(t), name) for name in PARAMETERS] for t in thetas]).reshape(-1, 5)
        found += _resampled_to_bound(problem, theta[best], thetas)
        found += _wide(law, samples, config, found) + _few_runs(len(clusters), _sizes_needed(config))

    log_loss = np.log(arrays.loss)
    residuals = log_loss - np.log(law.loss(arrays.num_params, arrays.tokens))
    spread = float(np.sum((log_loss - log_loss.mean()) ** 2))
    return ChinchillaFit(
        law=law,
        intervals=_intervals(law, samples, len(points), config.confidence),
        samples=samples,
        noise=noise,
        residuals=residuals,
        r_squared=1.0 - float(residuals @ residuals) / spread if spread > 0 else math.nan,
        objective=float(objective[best]),
        gradient=slope,
        r_hat=r_hat,
        converged=converged,
        num_runs=len(clusters),
        convention=arrays.convention,
        config=config,
        share_of_starts=share_at_minimum(objective),
        warnings=tuple(found),
    )


def _check_identifiable(arrays: PointArrays, config: ChinchillaFitConfig) -> None:
    fixed_E = config.fixed_E
    distinct = {"N": len(np.unique(arrays.num_params)), "D": len(np.unique(arrays.tokens))}
    # Sums of a function of N and one of D: n_N + n_D - 1 independent numbers, and each curve needs its own points.
    needed = _sizes_needed(config)
    for name, count in distinct.items():
        if count < needed:
            raise ValueError(
                f"all {len(arrays.loss)} points have only {count} distinct {name}: its term cannot be told from the "
                f"irreducible loss. At least {needed} distinct values of each of N and D are needed"
            )
    num_free = 5 - (fixed_E is not None) - config.tied
    if sum(distinct.values()) - 1 < num_free:
        raise ValueError(
            f"{distinct['N']} distinct N and {distinct['D']} distinct D do not identify {num_free} parameters: add a "
            "further value of either"
        )
    lowest = int(np.argmin(arrays.loss))
    if fixed_E is not None and fixed_E >= arrays.loss[lowest]:
        raise ValueError(
            f"fixed_E is {fixed_E}, but row {lowest} (run {arrays.runs[lowest]!r}) has loss {arrays.loss[lowest]}, "
            "at or under it: that cannot be the irreducible loss of these points"
        )


def _sizes_needed(config: ChinchillaFitConfig) -> int:
    """Distinct N, and D, that a fit needs: a curve with a floor and an exponent of its own takes three points."""
    return 2 if config.fixed_E is not None or config.tied else 3


def bootstrapped(
    problem: Problem, theta: FloatArray, clusters: list[NDArray[np.int64]], config: ChinchillaFitConfig
) -> FloatArray:
    """Parameters fitted to resampled runs, each from the optimum `theta` on; shape (resamples, P)."""
    weights = resampled_weights(problem, clusters, config)
    sampled = np.empty((len(weights), len(theta)))
    for start in range(0, len(weights), _BATCH):
        chunk = weights[start : start + _BATCH]
        warm = np.repeat(theta[None], len(chunk), 0)
        found, value, slope = minimise(problem, warm, chunk, config.delta, from_delta=config.delta)
        # Near the optimum of all, δ need not be lowered in steps; the few that end without converging begin anew.
        if len(poor := np.flatnonzero(slope > GRADIENT_GATE)):
            again, lower, _ = minimise(problem, warm[poor], chunk[poor], config.delta)
            found[poor[lower < value[poor]]] = again[lower < value[poor]]
        sampled[start : start + _BATCH] = found
    return sampled


def resampled_weights(problem: Problem, clusters: list[NDArray[np.int64]], config: ChinchillaFitConfig) -> FloatArray:
    """How often each point is drawn when whole runs are; shape (resamples, n).

    A draw that leaves too few distinct N or D to identify the law is drawn again, as the fit itself would refuse it.
    """
    rng = np.random.default_rng(config.seed)
    needed = _sizes_needed(config)
    weights = np.zeros((config.resamples, len(problem.x)))
    cluster_of = np.empty(len(problem.x), dtype=np.int64)
    for place, cluster in enumerate(clusters):
        cluster_of[cluster] = place
    for row in range(config.resamples):
        for _ in range(100):
            counts = np.bincount(rng.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
            weights[row] = counts[cluster_of]
            drawn = weights[row] > 0
            if min(len(np.unique(problem.x[drawn])), len(np.unique(problem.y[drawn]))) >= needed:
                break
        else:
            raise ValueError(
                f"{len(clusters)} runs are too few to resample: hardly any draw keeps {needed} distinct N and D. "
                "Train more runs, or take intervals from the posterior, or none"
            )
    return weights


def _intervals(law: ChinchillaLaw, samples: FloatArray, n: int, confidence: float) -> dict[str, Interval]:
    return {
        name: Interval(getattr(law, name), *_quantiles(samples[:, i], confidence), n)
        for i, name in enumerate(PARAMETERS)
    }


def _quantiles(drawn: ArrayLike, confidence: float) -> tuple[float, float]:
    array = np.clip(np.asarray(drawn, dtype=np.float64), -1e300, 1e300)  # resamples may ask for infinite sizes
    if array.size == 0:
        return -math.inf, math.inf
    low, high = np.quantile(array, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return float(low), float(high)


_MARGIN = 1e-6
_CONSEQUENCE = {
    "A": "the parameter term vanishes: N does not matter in these points",
    "B": "the data term vanishes: D does not matter in these points",
    "E": "the irreducible loss is not identified: the points do not bend towards a floor",
    "alpha": "the exponent of N is not identified",
    "beta": "the exponent of D is not identified",
}


def _at_bound(problem: Problem, theta: FloatArray) -> list[str]:
    held = (theta <= problem.lower + _MARGIN) | (theta >= problem.upper - _MARGIN)
    return [
        f"{name} lies at its bound: {_CONSEQUENCE[name]}"
        for name, at_bound in zip(PARAMETERS, held & problem.free, strict=True)
        if at_bound
    ]


def _resampled_to_bound(problem: Problem, theta: FloatArray, sampled: FloatArray) -> list[str]:
    held = (sampled <= problem.lower + _MARGIN) | (sampled >= problem.upper - _MARGIN)
    already = (theta <= problem.lower + _MARGIN) | (theta >= problem.upper - _MARGIN)
    return [
        f"{name} is poorly identified: {share:.0%} of the resamples put it at its bound"
        for name, share, free in zip(PARAMETERS, held.mean(axis=0), problem.free & ~already, strict=True)
        if free and share > 0.025
    ]


def _wide(law: ChinchillaLaw, samples: FloatArray, config: ChinchillaFitConfig, told: Sequence[str] = ()) -> list[str]:
    """Of E and the exponents, those whose interval is wider than their value; none that `told` speaks of already."""
    found = []
    for name in ("alpha", "beta") if config.fixed_E is not None else ("E", "alpha", "beta"):
        value, (low, high) = getattr(law, name), _quantiles(samples[:, PARAMETERS.index(name)], config.confidence)
        if high - low > value and not any(warning.startswith(f"{name} ") for warning in told):
            found.append(
                f"{name} is poorly identified: {value:.3g}, {config.confidence:.0%} interval {low:.3g} to {high:.3g}"
            )
    return found


def _few_runs(num_runs: int, needed: int) -> list[str]:
    if num_runs <= needed:
        return [f"only {num_runs} runs: every resample is the sweep itself, so the intervals have no width"]
    # How much too narrow: tests/benchmarks/interval_coverage.py
    return [f"only {num_runs} runs: a bootstrap over so few is too narrow"] if num_runs < MANY_RUNS - 2 else []
