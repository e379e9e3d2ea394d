"""The optimiser of the Chinchilla fit: damped Newton with the exact Hessian, on many starts or resamples at once.

Shapes: S problems in the batch, n points, 5 parameters in the order (ln A, ln B, ln E, α, β), ln N and ln D centred.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.scaling.laws import ChinchillaLaw
from components.scaling.points import PointArrays

FloatArray = NDArray[np.float64]

_GRADIENT_TARGET = 1e-9
_EXPONENT_BOUNDS = (0.005, 4.0)


@dataclass(frozen=True)
class Problem:
    """Centred logs of the points and the box that parameters stay in; `x`, `y`, `target`: shape (n,)."""

    x: FloatArray
    y: FloatArray
    target: FloatArray
    x_mean: float
    y_mean: float
    lower: FloatArray
    upper: FloatArray

    @staticmethod
    def of(arrays: PointArrays, fixed_E: float | None) -> Problem:
        x, y, target = np.log(arrays.num_params), np.log(arrays.tokens), np.log(arrays.loss)
        bottom, top = float(target.min()), float(target.max())
        lower = np.array([bottom - 20.0, bottom - 20.0, bottom - 10.0, *[_EXPONENT_BOUNDS[0]] * 2])
        upper = np.array([top + 5.0, top + 5.0, bottom, *[_EXPONENT_BOUNDS[1]] * 2])
        if fixed_E is not None:
            lower[2] = upper[2] = math.log(fixed_E)
        return Problem(x - x.mean(), y - y.mean(), target, float(x.mean()), float(y.mean()), lower, upper)

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


def grid_starts(problem: Problem, keep: int) -> FloatArray:
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


def minimise(
    problem: Problem, theta: FloatArray, weights: FloatArray, delta: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Minimise with δ lowered in steps to `delta`. Returns parameters (S, 5), objectives (S,), gradients (S,)."""
    steps = [d for d in (0.1, 0.03, 0.01, 0.003, 0.001, 3e-4) if d > 1.5 * delta]
    for step in [*steps, delta]:
        last = step == delta
        theta, objective, gradient = newton_steps(problem, theta, weights, step, 300 if last else 40)
    return theta, objective, gradient


def newton_steps(
    problem: Problem, theta: FloatArray, weights: FloatArray, delta: float, iterations: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    theta = theta.copy()
    total = weights.sum(axis=1)
    objective = objective_of(problem, theta, weights, delta)
    damping = np.full(len(theta), 1e-3)
    gradient = np.full(len(theta), np.inf)
    running = np.arange(len(theta))
    for _ in range(iterations):
        current = theta[running]
        slope, hessian = derivatives(problem, current, weights[running], delta)
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
        value = objective_of(problem, proposed, weights[running], delta)
        better = value < objective[running]
        theta[running[better]] = proposed[better]
        objective[running[better]] = value[better]
        damping[running] = np.where(better, np.maximum(damping[running] * 0.1, 1e-15), damping[running] * 6.0 + 1e-12)
    return theta, objective, gradient


def terms(problem: Problem, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln prediction (S, n) and the shares of the three terms in it (S, n, 3)."""
    a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
    logs = np.stack([a - alpha * problem.x, b - beta * problem.y, np.broadcast_to(e, (len(theta), len(problem.x)))], -1)
    top = logs.max(axis=-1, keepdims=True)
    shares = np.exp(logs - top)
    total = shares.sum(axis=-1, keepdims=True)
    return (top + np.log(total))[..., 0], shares / total


def objective_of(problem: Problem, theta: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
    """Σ weight · Huber_δ(ln prediction - ln loss) / δ; shape (S,)."""
    size = np.abs(terms(problem, theta)[0] - problem.target)
    huber = np.where(size <= delta, 0.5 * size * size / delta, size - 0.5 * delta)
    return np.asarray((weights * huber).sum(axis=1))


def derivatives(
    problem: Problem, theta: FloatArray, weights: FloatArray, delta: float
) -> tuple[FloatArray, FloatArray]:
    """Gradient (S, 5) and exact Hessian (S, 5, 5) of `objective_of`.

    With T_k the gradient of term k's log and w_k its share, J = Σ w_k T_k and ∇² ln prediction = Σ w_k T_k T_kᵀ - J Jᵀ,
    so the Hessian is Σ (ψ' - ψ) J Jᵀ + Σ ψ Σ_k w_k T_k T_kᵀ.
    """
    prediction, shares = terms(problem, theta)
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
