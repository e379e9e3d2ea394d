"""Approach 3 of Hoffmann et al. (2022): fit L = E + A/N^α + B/D^β by a Huber loss on log loss, to convergence.

The published optimiser stopped early, and so do most general ones: the valley between E, B and β is long and flat, and
Huber's δ of 1e-3 makes its floor nearly piecewise linear. Here ln N and ln D are centred; a grid over (α, β) with a
linear solve for the rest (variable projection) gives starts; δ is lowered in steps; and each step is a damped Newton
method with the exact 5x5 Hessian, whose eigenvalues are taken in absolute value where the loss is not convex. All
starts, and later all bootstrap resamples, go through it as one batch. What counts as converged is the gradient.

Shapes: S problems in the batch, n points, 5 parameters in the order (ln A, ln B, ln E, α, β).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.model.config import ParamConvention
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import PointArrays, ScalingPoint, point_arrays
from components.statistics import Interval, cluster_rows

FloatArray = NDArray[np.float64]

PARAMETERS = ("A", "B", "E", "alpha", "beta")
GRADIENT_GATE = 1e-6  # largest gradient component a point, dimensionless (the loss is divided by δ)
_GRADIENT_TARGET = 1e-9
_BATCH = 512
_EXPONENT_BOUNDS = (0.005, 4.0)


@dataclass(frozen=True)
class ChinchillaFitConfig:
    """`delta`: Huber threshold on log loss (Hoffmann: 1e-3); `fixed_E`: a known irreducible loss, which is then not
    fitted; `resamples`: bootstrap resamples over runs (0 for none); `confidence` of the intervals."""

    delta: float = 1e-3
    fixed_E: float | None = None
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"ChinchillaFitConfig.delta must be positive, got {self.delta}")
        if self.fixed_E is not None and not self.fixed_E > 0:
            raise ValueError(f"ChinchillaFitConfig.fixed_E must be positive or left out, got {self.fixed_E}")
        if self.resamples < 0:
            raise ValueError(f"ChinchillaFitConfig.resamples must be at least 0, got {self.resamples}")


@dataclass(frozen=True)
class ChinchillaFit:
    """A fitted law with what is needed to judge it and to predict with intervals.

    `intervals`: for each of A, B, E, alpha, beta. `samples`: shape (resamples, 5), the laws of the bootstrap in the
    order of PARAMETERS. `residuals`: shape (n,), ln observed - ln predicted. `gradient`: largest component a point at
    the solution; `converged` says whether it passed the gate. `warnings`: what is not identified, in words.
    """

    law: ChinchillaLaw
    intervals: Mapping[str, Interval]
    samples: FloatArray
    residuals: FloatArray
    r_squared: float
    objective: float
    gradient: float
    converged: bool
    num_runs: int
    convention: ParamConvention
    config: ChinchillaFitConfig
    warnings: tuple[str, ...] = field(default=())

    def predict(self, num_params: float, tokens: float) -> Interval:
        """Predicted mean loss with its bootstrap interval (the law's uncertainty, without a new run's noise)."""
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
        """Loss that each bootstrap law predicts; shape (resamples,)."""
        a, b, e, alpha, beta = self.samples.T
        return np.asarray(e + a * num_params**-alpha + b * tokens**-beta)

    def sample_laws(self) -> list[ChinchillaLaw]:
        """The bootstrap laws."""
        return [ChinchillaLaw(E=e, A=a, B=b, alpha=al, beta=be) for a, b, e, al, be in self.samples.tolist()]

    def _quantiles(self, drawn: FloatArray) -> tuple[float, float]:
        return _quantiles(drawn, self.config.confidence)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, and back with `from_json`."""
        return {
            "law": self.law.to_json(),
            "samples": self.samples.tolist(),
            "residuals": self.residuals.tolist(),
            "r_squared": self.r_squared,
            "objective": self.objective,
            "gradient": self.gradient,
            "converged": self.converged,
            "num_runs": self.num_runs,
            "convention": self.convention,
            "config": {
                "delta": self.config.delta,
                "fixed_E": self.config.fixed_E,
                "resamples": self.config.resamples,
                "confidence": self.config.confidence,
                "seed": self.config.seed,
            },
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
            residuals=residuals,
            r_squared=data["r_squared"],
            objective=data["objective"],
            gradient=data["gradient"],
            converged=data["converged"],
            num_runs=data["num_runs"],
            convention=data["convention"],
            config=config,
            warnings=tuple(data["warnings"]),
        )


def fit_chinchilla(points: Sequence[ScalingPoint], config: ChinchillaFitConfig | None = None) -> ChinchillaFit:
    """Fit the five parameters (four with `fixed_E`) and their cluster-bootstrap intervals over runs.

    Raises ValueError for too few points, for too few distinct N or D to tell the terms apart, for losses that are not
    finite (naming the row), and for `fixed_E` at or above the lowest loss. What the data do not identify is fitted and
    said in `warnings`.
    """
    config = config or ChinchillaFitConfig()
    num_free = 4 if config.fixed_E is not None else 5
    arrays = point_arrays(points, num_free + 1, "the Chinchilla law")
    _check_identifiable(arrays, config.fixed_E)
    problem = _Problem.of(arrays, config.fixed_E)

    ones = np.ones((1, len(points)))
    starts = _grid_starts(problem, keep=8)
    theta, objective, gradient = _continued(problem, starts, np.repeat(ones, len(starts), 0), config.delta)
    best = int(np.argmin(objective))
    law = problem.law(theta[best])

    clusters = cluster_rows(arrays.runs)
    weights = _resampled_weights(problem, clusters, config)
    sampled = np.empty((len(weights), 5))
    for start in range(0, len(weights), _BATCH):
        chunk = weights[start : start + _BATCH]
        warm = np.repeat(theta[best][None], len(chunk), 0)
        sampled[start : start + _BATCH] = _continued(problem, warm, chunk, config.delta)[0]
    samples = np.array([[getattr(problem.law(t), name) for name in PARAMETERS] for t in sampled]).reshape(-1, 5)

    log_loss = np.log(arrays.loss)
    residuals = log_loss - np.log(law.loss(arrays.num_params, arrays.tokens))
    spread = float(np.sum((log_loss - log_loss.mean()) ** 2))
    return ChinchillaFit(
        law=law,
        intervals=_intervals(law, samples, len(points), config.confidence),
        samples=samples,
        residuals=residuals,
        r_squared=1.0 - float(residuals @ residuals) / spread if spread > 0 else math.nan,
        objective=float(objective[best]),
        gradient=float(gradient[best]),
        converged=bool(gradient[best] <= GRADIENT_GATE),
        num_runs=len(clusters),
        convention=arrays.convention,
        config=config,
        warnings=tuple(_warnings(problem, theta[best], float(gradient[best]), sampled, len(clusters))),
    )


def _check_identifiable(arrays: PointArrays, fixed_E: float | None) -> None:
    distinct = {"N": len(np.unique(arrays.num_params)), "D": len(np.unique(arrays.tokens))}
    # Sums of a function of N and one of D: n_N + n_D - 1 independent numbers, and each curve needs its own points.
    needed = 3 if fixed_E is None else 2
    for name, count in distinct.items():
        if count < needed:
            raise ValueError(
                f"all {len(arrays.loss)} points have only {count} distinct {name}: its term cannot be told from the "
                f"irreducible loss. At least {needed} distinct values of each of N and D are needed"
            )
    if sum(distinct.values()) - 1 < (5 if fixed_E is None else 4):
        raise ValueError(
            "two distinct N and two distinct D do not identify four parameters: add a third value of either"
        )
    lowest = int(np.argmin(arrays.loss))
    if fixed_E is not None and fixed_E >= arrays.loss[lowest]:
        raise ValueError(
            f"fixed_E is {fixed_E}, but row {lowest} (run {arrays.runs[lowest]!r}) has loss {arrays.loss[lowest]}, "
            "at or under it: that cannot be the irreducible loss of these points"
        )


@dataclass(frozen=True)
class _Problem:
    """Centred logs of the points and the box that parameters stay in; `x`, `y`, `target`: shape (n,)."""

    x: FloatArray
    y: FloatArray
    target: FloatArray
    x_mean: float
    y_mean: float
    lower: FloatArray
    upper: FloatArray

    @staticmethod
    def of(arrays: PointArrays, fixed_E: float | None) -> _Problem:
        x, y, target = np.log(arrays.num_params), np.log(arrays.tokens), np.log(arrays.loss)
        bottom, top = float(target.min()), float(target.max())
        lower = np.array([bottom - 20.0, bottom - 20.0, bottom - 10.0, *[_EXPONENT_BOUNDS[0]] * 2])
        upper = np.array([top + 5.0, top + 5.0, bottom, *[_EXPONENT_BOUNDS[1]] * 2])
        if fixed_E is not None:
            lower[2] = upper[2] = math.log(fixed_E)
        return _Problem(x - x.mean(), y - y.mean(), target, float(x.mean()), float(y.mean()), lower, upper)

    @property
    def free(self) -> NDArray[np.bool_]:
        return self.upper > self.lower

    def law(self, theta: FloatArray) -> ChinchillaLaw:
        """The law in the user's units (undoing the centring)."""
        a, b, e, alpha, beta = (float(t) for t in theta)
        return ChinchillaLaw(
            E=math.exp(e),
            A=math.exp(a + alpha * self.x_mean),
            B=math.exp(b + beta * self.y_mean),
            alpha=alpha,
            beta=beta,
        )


def _grid_starts(problem: _Problem, keep: int) -> FloatArray:
    """Best (α, β) of a grid when A, B, E are solved for linearly, with weights 1/L² for relative error. (keep, 5)."""
    loss = np.exp(problem.target)
    grid = np.geomspace(0.03, 2.0, 12)
    starts, errors = [], []
    floor = 1e-3 * float(loss.min())
    for alpha in grid:
        for beta in grid:
            columns = np.stack([np.exp(-alpha * problem.x), np.exp(-beta * problem.y), np.ones_like(loss)], axis=1)
            if not problem.free[2]:
                known = math.exp(problem.lower[2])
                solved = np.linalg.lstsq(columns[:, :2] / loss[:, None], (loss - known) / loss, rcond=None)[0]
                coefficients = np.append(np.maximum(solved, floor), known)
            else:
                solved = np.linalg.lstsq(columns / loss[:, None], np.ones_like(loss), rcond=None)[0]
                coefficients = np.maximum(solved, floor)
            starts.append([*np.log(coefficients), alpha, beta])
            errors.append(float(np.sum((np.log(columns @ coefficients) - problem.target) ** 2)))
    chosen = np.argsort(errors)[:keep]
    return np.clip(np.array(starts)[chosen], problem.lower, problem.upper)


def _continued(
    problem: _Problem, theta: FloatArray, weights: FloatArray, delta: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Minimise with δ lowered in steps to `delta`. Returns parameters (S, 5), objectives (S,), gradients (S,)."""
    steps = [d for d in (0.1, 0.03, 0.01, 0.003, 0.001, 3e-4) if d > 1.5 * delta]
    for step in [*steps, delta]:
        last = step == delta
        theta, objective, gradient = _newton(problem, theta, weights, step, 300 if last else 40)
    return theta, objective, gradient


def _newton(
    problem: _Problem, theta: FloatArray, weights: FloatArray, delta: float, iterations: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    theta = theta.copy()
    total = weights.sum(axis=1)
    objective = _objective(problem, theta, weights, delta)
    damping = np.full(len(theta), 1e-3)
    gradient = np.full(len(theta), np.inf)
    running = np.arange(len(theta))
    for _ in range(iterations):
        current = theta[running]
        slope, hessian = _derivatives(problem, current, weights[running], delta)
        # A parameter that is fixed, or presses against its bound, is taken out of the step.
        held = ((current <= problem.lower) & (slope > 0)) | ((current >= problem.upper) & (slope < 0)) | ~problem.free
        slope[held] = 0.0
        hessian[held] = 0.0
        np.swapaxes(hessian, 1, 2)[held] = 0.0
        gradient[running] = np.abs(slope).max(axis=1) / total[running]
        going = (gradient[running] > _GRADIENT_TARGET) & (damping[running] < 1e12)
        if not going.any():
            break
        running, current, slope, hessian = running[going], current[going], slope[going], hessian[going]
        values, vectors = np.linalg.eigh(hessian)
        values = np.abs(values)
        scale = values.max(axis=1, keepdims=True) + 1e-300
        curvature = np.maximum(values, 1e-12 * scale) + damping[running, None] * scale
        step = -(vectors @ ((np.swapaxes(vectors, 1, 2) @ slope[:, :, None]) / curvature[:, :, None]))[:, :, 0]
        step *= np.minimum(1.0, 1.0 / (np.abs(step).max(axis=1, keepdims=True) + 1e-300))
        proposed = np.clip(current + step, problem.lower, problem.upper)
        value = _objective(problem, proposed, weights[running], delta)
        better = value < objective[running]
        theta[running[better]] = proposed[better]
        objective[running[better]] = value[better]
        damping[running] = np.where(better, np.maximum(damping[running] * 0.1, 1e-15), damping[running] * 6.0 + 1e-12)
    return theta, objective, gradient


def _terms(problem: _Problem, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln prediction (S, n) and the shares of the three terms in it (S, n, 3)."""
    a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
    logs = np.stack([a - alpha * problem.x, b - beta * problem.y, np.broadcast_to(e, (len(theta), len(problem.x)))], -1)
    top = logs.max(axis=-1, keepdims=True)
    shares = np.exp(logs - top)
    total = shares.sum(axis=-1, keepdims=True)
    return (top + np.log(total))[..., 0], shares / total


def _objective(problem: _Problem, theta: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
    """Σ weight · Huber_δ(ln prediction - ln loss) / δ; shape (S,)."""
    size = np.abs(_terms(problem, theta)[0] - problem.target)
    huber = np.where(size <= delta, 0.5 * size * size / delta, size - 0.5 * delta)
    return np.asarray((weights * huber).sum(axis=1))


def _derivatives(
    problem: _Problem, theta: FloatArray, weights: FloatArray, delta: float
) -> tuple[FloatArray, FloatArray]:
    """Gradient (S, 5) and exact Hessian (S, 5, 5) of `_objective`.

    With T_k the gradient of term k's log and w_k its share, J = Σ w_k T_k and ∇² ln prediction = Σ w_k T_k T_kᵀ - J Jᵀ,
    so the Hessian is Σ (ψ' - ψ) J Jᵀ + Σ ψ Σ_k w_k T_k T_kᵀ.
    """
    prediction, shares = _terms(problem, theta)
    residual = prediction - problem.target
    psi = weights * np.clip(residual / delta, -1.0, 1.0)
    psi_prime = weights * (np.abs(residual) <= delta) / delta
    first, second, third = shares[..., 0], shares[..., 1], shares[..., 2]
    jacobian = np.stack([first, second, third, -problem.x * first, -problem.y * second], axis=-1)
    gradient = np.einsum("sn,snp->sp", psi, jacobian)
    hessian = np.swapaxes(jacobian, 1, 2) @ ((psi_prime - psi)[..., None] * jacobian)
    for log_index, exponent_index, share, coordinate in ((0, 3, first, problem.x), (1, 4, second, problem.y)):
        pull = psi * share
        mixed = -(pull @ coordinate)
        hessian[:, log_index, log_index] += pull.sum(axis=1)
        hessian[:, log_index, exponent_index] += mixed
        hessian[:, exponent_index, log_index] += mixed
        hessian[:, exponent_index, exponent_index] += pull @ (coordinate * coordinate)
    hessian[:, 2, 2] += (psi * third).sum(axis=1)
    return gradient, hessian


def _resampled_weights(problem: _Problem, clusters: list[NDArray[np.int64]], config: ChinchillaFitConfig) -> FloatArray:
    """How often each point is drawn when whole runs are; shape (resamples, n).

    A draw that leaves too few distinct N or D to identify the law is drawn again, as the fit itself would refuse it.
    """
    rng = np.random.default_rng(config.seed)
    needed = 3 if problem.free[2] else 2
    weights = np.zeros((config.resamples, len(problem.x)))
    for row in range(config.resamples):
        for _ in range(100):
            counts = np.bincount(rng.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
            for cluster, count in zip(clusters, counts, strict=True):
                weights[row, cluster] = count
            drawn = weights[row] > 0
            if min(len(np.unique(problem.x[drawn])), len(np.unique(problem.y[drawn]))) >= needed:
                break
        else:
            raise ValueError(
                f"{len(clusters)} runs are too few to resample: hardly any draw keeps {needed} distinct N and D. "
                "Train more runs, or set ChinchillaFitConfig.resamples to 0"
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


def _warnings(problem: _Problem, theta: FloatArray, gradient: float, sampled: FloatArray, num_runs: int) -> list[str]:
    found: list[str] = []
    if gradient > GRADIENT_GATE:
        found.append(f"not converged: the scaled gradient is {gradient:.1e}, above {GRADIENT_GATE:.0e}")
    margin = 1e-6
    consequence = {
        "A": "the parameter term vanishes: N does not matter in these points",
        "B": "the data term vanishes: D does not matter in these points",
        "E": "the irreducible loss is not identified: the points do not bend towards a floor",
        "alpha": "the exponent of N is not identified",
        "beta": "the exponent of D is not identified",
    }
    for i, name in enumerate(PARAMETERS):
        if not problem.free[i]:
            continue
        if theta[i] <= problem.lower[i] + margin or theta[i] >= problem.upper[i] - margin:
            found.append(f"{name} lies at its bound: {consequence[name]}")
            continue
        if not len(sampled):
            continue
        at_bound = float(
            np.mean((sampled[:, i] <= problem.lower[i] + margin) | (sampled[:, i] >= problem.upper[i] - margin))
        )
        if at_bound > 0.025:
            found.append(f"{name} is poorly identified: {at_bound:.0%} of the resamples put it at its bound")
        elif name in ("alpha", "beta", "E"):
            values = np.exp(sampled[:, i]) if name == "E" else sampled[:, i]
            centre = math.exp(theta[i]) if name == "E" else float(theta[i])
            low, high = _quantiles(values, 0.95)
            if high - low > centre:
                found.append(f"{name} is poorly identified: {centre:.3g}, 95% interval {low:.3g} to {high:.3g}")
    if len(sampled) and num_runs <= (3 if problem.free[2] else 2):
        found.append(f"only {num_runs} runs: every resample is the sweep itself, so the intervals have no width")
    elif len(sampled) and num_runs < 8:
        # How much too narrow: tests/benchmarks/interval_coverage.py
        found.append(f"only {num_runs} runs: a bootstrap over so few is too narrow")
    return found
