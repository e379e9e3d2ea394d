"""Fit of the laws with further variables (`law_formulas.py`): Huber loss on ln L, the optimiser of `newton.py`.

Starts: exponents drawn evenly from their ranges (Sobol), the factors solved for by non-negative least squares, the best
kept. First derivatives are complex steps, exact to rounding; second ones differences of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.stats import qmc

from components.scaling.law_formulas import FORMULAS_BY_LAW, Formula, FormulaLaw
from components.scaling.newton import huber, huber_slopes, minimise, share_at_minimum
from components.statistics import cluster_rows

FloatArray = NDArray[np.float64]
_TINY, _SMALL = 1e-30, 1e-5
_DRAWS, _KEPT, _BATCH = 256, 10, 64


@dataclass(frozen=True)
class FormulaFit:
    """`values`: shape (P,), in the user's units; `at_bound`: shape (P,), at the edge of what is searched or without any
    effect on these rows; `samples`: shape (draws, P), of a bootstrap
    over runs; `residuals`: ln observed - ln predicted; `objective`, `gradient`, `share_of_starts`: as of
    `ChinchillaFit`."""

    values: FloatArray
    at_bound: NDArray[np.bool_]
    samples: FloatArray
    residuals: FloatArray
    objective: float
    gradient: float
    share_of_starts: float


def fit_formula(
    law: FormulaLaw,
    columns: Mapping[str, FloatArray],
    runs: Sequence[str],
    delta: float,
    penalty: float = 1.0,
    resamples: int = 0,
    seed: int = 0,
) -> FormulaFit:
    """Fit `law` to `columns` (those that it needs, and "loss"), each of shape (n,).

    Raises ValueError for fewer points than parameters and one, for a column that does not vary, and where runs are too
    few to resample.
    """
    formula = FORMULAS_BY_LAW[law]
    n = len(columns["loss"])
    if n <= len(formula.names):
        raise ValueError(f"the law {law} has {len(formula.names)} parameters and needs more points than that, got {n}")
    for name in formula.needs:
        if (count := len(np.unique(columns[name]))) < 2:
            raise ValueError(
                f"all {n} rows have one value of {name} ({columns[name][0]:g}): the law {law} needs {count + 1}"
            )
    problem = FormulaProblem.of(formula, columns, penalty)
    starts = problem.starts()
    theta, objective, gradient = minimise(problem, starts, np.ones((len(starts), n)), delta)
    best = int(objective.argmin())
    at = theta[best]
    samples = np.empty((0, len(formula.names)))
    if resamples:
        samples = problem.values(_bootstrapped(problem, at, cluster_rows(runs), delta, resamples, seed))
    return FormulaFit(
        values=problem.values(at[None])[0],
        at_bound=(at <= problem.lower + 1e-6) | (at >= problem.upper - 1e-6) | problem.without_effect(at),
        samples=samples,
        residuals=problem.target - problem.predicted(at[None])[0],
        objective=float(objective[best]),
        gradient=float(gradient[best]),
        share_of_starts=share_at_minimum(objective),
    )


def _bootstrapped(
    problem: FormulaProblem,
    theta: FloatArray,
    clusters: list[NDArray[np.int64]],
    delta: float,
    resamples: int,
    seed: int,
) -> FloatArray:
    """θ of resampled runs, each from the optimum on; a draw in which a column no longer varies is drawn again."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((resamples, len(problem.target)))
    row = tries = 0
    while row < resamples:
        drawn = np.bincount(rng.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
        for cluster, count in zip(clusters, drawn, strict=True):
            weights[row, cluster] = count
        kept = weights[row] > 0
        tries += 1
        if all(len(np.unique(problem.columns[name][kept])) > 1 for name in problem.formula.needs):
            row += 1
        elif tries > 100 * resamples:
            raise ValueError(f"{len(clusters)} runs are too few to resample: train more, or take --intervals none")
    found = np.empty((resamples, len(theta)))
    for first in range(0, resamples, _BATCH):
        chunk = weights[first : first + _BATCH]
        found[first : first + _BATCH] = minimise(
            problem, np.repeat(theta[None], len(chunk), 0), chunk, delta, from_delta=delta
        )[0]
    return found


@dataclass(frozen=True)
class FormulaProblem:
    """What `newton.minimise` takes: a formula over the columns of one table, their logs centred."""

    formula: Formula
    columns: Mapping[str, FloatArray]
    target: FloatArray
    lower: FloatArray
    upper: FloatArray
    shift: FloatArray  # (P, P): θ of the formula = θ + shift θ
    penalty: float = 1.0
    tied: bool = False

    @staticmethod
    def of(formula: Formula, columns: Mapping[str, FloatArray], penalty: float = 1.0) -> FormulaProblem:
        names, target = list(formula.names), np.log(columns["loss"])
        shift = np.zeros((len(names), len(names)))
        for factor, exponent, column in formula.centred:
            shift[names.index(factor), names.index(exponent)] += float(np.log(columns[column]).mean())
        lower, upper = np.empty(len(names)), np.empty(len(names))
        for place, name in enumerate(names):
            if name in formula.linear:
                lower[place], upper[place] = float(target.min()) - 20.0, float(target.max()) + 5.0
            else:
                ends = formula.bounds[name]
                lower[place], upper[place] = np.log(ends) if name in formula.logged else ends
        return FormulaProblem(formula, columns, target, lower, upper, shift, penalty)

    @property
    def free(self) -> NDArray[np.bool_]:
        return self.upper > self.lower

    def predicted(self, theta: NDArray[np.float64] | NDArray[np.complex128]) -> NDArray[np.float64]:
        """ln L (S, n) of θ (S, P), complex where θ is."""
        natural = theta + theta @ self.shift.T
        return np.broadcast_to(
            self.formula.log_loss([column[:, None] for column in natural.T], self.columns),
            (len(theta), len(self.target)),
        )

    def values(self, theta: FloatArray) -> FloatArray:
        """Coefficients (S, P) in the user's units."""
        return np.asarray(self.formula.values(list((theta + theta @ self.shift.T).T)))

    def objective(self, theta: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
        """Σ weight · Huber_δ(ln prediction - ln loss) / δ; shape (S,)."""
        return huber(self.predicted(theta) - self.target, weights, delta, self.penalty)

    def derivatives(self, theta: FloatArray, weights: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
        """Gradient (S, P) and Hessian (S, P, P) of `objective`."""
        count, size = theta.shape
        if self.formula.affine:
            return self._affine_derivatives(theta, weights, delta)
        psi, psi_prime = huber_slopes(self.predicted(theta) - self.target, weights, delta, self.penalty)
        jacobian = self._jacobian(theta)
        hessian = np.swapaxes(jacobian, 1, 2) @ (psi_prime[..., None] * jacobian)
        curved = np.empty((count, size, size))
        for q in range(size):
            step = np.zeros(size)
            step[q] = _SMALL
            bent = (self._jacobian(theta + step) - self._jacobian(theta - step)) / (2 * _SMALL)
            curved[:, q] = np.einsum("sn,snp->sp", psi, bent)
        return np.einsum("sn,snp->sp", psi, jacobian), hessian + 0.5 * (curved + np.swapaxes(curved, 1, 2))

    def _affine_derivatives(
        self, theta: FloatArray, weights: FloatArray, delta: float
    ) -> tuple[FloatArray, FloatArray]:
        """As `newton.derivatives`: J = Σ w_k T_k, and the Hessian Σ (ψ' - ψ) J Jᵀ + Σ ψ Σ_k w_k T_k T_kᵀ."""
        level, slopes = self.planes
        logs = np.einsum("knp,sp->ksn", slopes, theta) + level[:, None]
        top = logs.max(axis=0)
        shares = np.exp(logs - top)
        total = shares.sum(axis=0)
        shares /= total
        psi, psi_prime = huber_slopes(top + np.log(total) - self.target, weights, delta, self.penalty)
        jacobian = sum(share[..., None] * slope for share, slope in zip(shares, slopes, strict=True))
        hessian = np.swapaxes(jacobian, 1, 2) @ ((psi_prime - psi)[..., None] * jacobian)
        for share, slope in zip(shares, slopes, strict=True):
            products = slope[:, :, None] * slope[:, None, :]
            hessian += ((psi * share) @ products.reshape(len(slope), -1)).reshape(hessian.shape)
        return np.einsum("sn,snp->sp", psi, jacobian), hessian

    @cached_property
    def planes(self) -> tuple[FloatArray, FloatArray]:
        """Of an affine formula the terms at θ = 0, shape (K, n), and their slopes, shape (K, n, P)."""

        def at(theta: FloatArray) -> FloatArray:
            natural = theta + self.shift @ theta
            terms = self.formula.terms([np.array([x]) for x in natural], self.columns)
            return np.stack([np.broadcast_to(term, self.target.shape) for term in terms])

        level = at(np.zeros(len(self.shift)))
        return level, np.stack([at(unit) - level for unit in np.eye(len(self.shift))], axis=-1)

    def _jacobian(self, theta: FloatArray) -> FloatArray:
        """∂ ln L/∂θ, shape (S, n, P)."""
        steps = 1j * _TINY * np.eye(theta.shape[1])
        return np.stack([self.predicted(theta + step).imag / _TINY for step in steps], axis=-1)

    def without_effect(self, theta: FloatArray) -> NDArray[np.bool_]:
        """Which parameters (P,) move no prediction at θ (P,): decay of repeats where no row repeats its data."""
        return np.asarray(np.abs(self._jacobian(theta[None])[0]).max(axis=0) < 1e-9)

    def starts(self) -> FloatArray:
        """The best θ of drawn exponents with the factors solved for; shape (at most 10, P)."""
        formula, loss = self.formula, np.exp(self.target)
        drawn = qmc.Sobol(len(formula.exponents), seed=0).random(_DRAWS)
        found: list[tuple[float, FloatArray]] = []
        for draw in drawn:
            theta = np.zeros(len(formula.names))
            for share, (name, (low, high)) in zip(draw, formula.exponents.items(), strict=True):
                value = low * (high / low) ** share if low > 0 else low + (high - low) * share
                theta[formula.names.index(name)] = math.log(value) if name in formula.logged else value
            if formula.linear:
                self._solve_factors(theta, loss)
            else:
                self._solve_logs(theta)
            theta = np.clip(theta, self.lower, self.upper)
            error = float(((self.predicted(theta[None])[0] - self.target) ** 2).sum())
            found.append((error if math.isfinite(error) else math.inf, theta))
        found.sort(key=lambda one: one[0])
        return np.stack([theta for _, theta in found[:_KEPT]])

    def _solve_factors(self, theta: FloatArray, loss: FloatArray) -> None:
        """The log factors of least squares in relative error, given the exponents, in place."""
        names = self.formula.names
        places = [names.index(name) for name in self.formula.linear]
        natural = theta + self.shift @ theta
        logs = self.formula.terms([np.array([t]) for t in natural], self.columns)
        design = np.stack([np.exp(np.broadcast_to(term, loss.shape)) / loss for term in logs], axis=1)
        solved, _ = optimize.nnls(design, np.ones_like(loss))
        theta[places] = np.log(np.maximum(solved, 1e-3 * float(loss.min())))

    def _solve_logs(self, theta: FloatArray) -> None:
        """Of a law that is linear in logs: the parameters that have no range of starts, by least squares, in place."""
        free = [place for place, name in enumerate(self.formula.names) if name not in self.formula.exponents]
        level = self.predicted(theta[None])[0]
        design = np.stack(
            [self.predicted((theta + np.eye(len(theta))[place])[None])[0] - level for place in free], axis=1
        )
        theta[free] = np.linalg.lstsq(design, self.target - level, rcond=None)[0]
