"""The optimiser of the Chinchilla fit: damped Newton with the exact Hessian, on many starts or resamples at once.

Shapes: S problems in the batch, n points, P parameters in the order (ln A, ln B, ln E, α, β) or (…, γ), ln N and ln D
centred. With γ the law is L = E + (A/N^α + B/D^β)^γ; without, γ = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.scaling.laws import ChinchillaLaw
from components.scaling.points import PointArrays

FloatArray = NDArray[np.float64]

EXPONENT_BOUNDS = (0.005, 4.0)
_GRADIENT_TARGET = 1e-9
_GAMMA_BOUNDS = (0.05, 5.0)


class Minimisable(Protocol):
    """A Huber loss over θ (S, P) within a box; `tied`: θ[4] moves with θ[3]."""

    @property
    def lower(self) -> FloatArray: ...
    @property
    def upper(self) -> FloatArray: ...
    @property
    def free(self) -> NDArray[np.bool_]: ...
    @property
    def tied(self) -> bool: ...
    def objective(self, theta: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
        """Shape (S,)."""
        ...

    def derivatives(self, theta: FloatArray, weights: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
        """Gradient (S, P) and Hessian (S, P, P)."""
        ...


@dataclass(frozen=True)
class Problem:
    """Centred logs of the points and the box that parameters stay in; `x`, `y`, `target`: shape (n,).

    `tied`: α = β. `penalty`: what the loss of a prediction above the observation is multiplied with: where runs lie
    above the frontier because they were tuned badly, more than 1 lets the law pass below them (OLMo-core's
    `overestimate_penalty`).
    """

    x: FloatArray
    y: FloatArray
    target: FloatArray
    x_mean: float
    y_mean: float
    lower: FloatArray
    upper: FloatArray
    tied: bool = False
    penalty: float = 1.0

    @staticmethod
    def of(
        arrays: PointArrays,
        fixed_E: float | None,
        tied: bool = False,
        penalty: float = 1.0,
        gamma: bool = False,
    ) -> Problem:
        x, y, target = np.log(arrays.num_params), np.log(arrays.tokens), np.log(arrays.loss)
        bottom, top = float(target.min()), float(target.max())
        lower = np.array([bottom - 20.0, bottom - 20.0, bottom - 10.0, *[EXPONENT_BOUNDS[0]] * 2])
        upper = np.array([top + 5.0, top + 5.0, bottom, *[EXPONENT_BOUNDS[1]] * 2])
        if fixed_E is not None:
            lower[2] = upper[2] = math.log(fixed_E)
        if gamma:
            lower, upper = np.append(lower, _GAMMA_BOUNDS[0]), np.append(upper, _GAMMA_BOUNDS[1])
        x_mean, y_mean = float(x.mean()), float(y.mean())
        return Problem(x - x_mean, y - y_mean, target, x_mean, y_mean, lower, upper, tied, penalty)

    @property
    def free(self) -> NDArray[np.bool_]:
        return self.upper > self.lower

    def objective(self, theta: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
        return objective_of(self, theta, weights, delta)

    def derivatives(self, theta: FloatArray, weights: FloatArray, delta: float) -> tuple[FloatArray, FloatArray]:
        return derivatives(self, theta, weights, delta)

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
        for beta in [alpha] if problem.tied else grid:
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
    problem: Minimisable, theta: FloatArray, weights: FloatArray, delta: float, from_delta: float = 0.1
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Minimise with δ lowered in steps from `from_delta` to `delta`.

    Returns parameters (S, P), objectives (S,), gradients (S,).
    """
    steps = [d for d in (0.1, 0.03, 0.01, 0.003, 0.001, 3e-4) if from_delta >= d > 1.5 * delta]
    for step in [*steps, delta]:
        last = step == delta
        theta, objective, gradient = newton_steps(problem, theta, weights, step, 300 if last else 40)
    return theta, objective, gradient


def newton_steps(
    problem: Minimisable, theta: FloatArray, weights: FloatArray, delta: float, iterations: int
) -> tuple[FloatArray, FloatArray, FloatArray]:
    theta = theta.copy()
    total = weights.sum(axis=1)
    objective = problem.objective(theta, weights, delta)
    damping = np.full(len(theta), 1e-3)
    gradient = np.full(len(theta), np.inf)
    running = np.arange(len(theta))
    for _ in range(iterations):
        current = theta[running]
        slope, hessian = problem.derivatives(current, weights[running], delta)
        if problem.tied:  # β moves with α, and is no parameter of its own
            slope[:, 3] += slope[:, 4]
            hessian[:, 3] += hessian[:, 4]
            hessian[:, :, 3] += hessian[:, :, 4]
            slope[:, 4] = 0.0
            hessian[:, 4] = hessian[:, :, 4] = 0.0
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
        if problem.tied:
            proposed[:, 4] = proposed[:, 3]
        value = problem.objective(proposed, weights[running], delta)
        better = value < objective[running]
        theta[running[better]] = proposed[better]
        objective[running[better]] = value[better]
        damping[running] = np.where(better, np.maximum(damping[running] * 0.1, 1e-15), damping[running] * 6.0 + 1e-12)
    return theta, objective, gradient


def terms(problem: Problem, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """ln prediction (S, n) and the shares of the three terms in it (3, S, n); for γ = 1."""
    a, b, e, alpha, beta = (theta[:, i, None] for i in range(5))
    logs = np.empty((3, len(theta), len(problem.x)))
    logs[0], logs[1], logs[2] = a - alpha * problem.x, b - beta * problem.y, e
    top = np.maximum(np.maximum(logs[0], logs[1]), logs[2])
    shares = np.exp(logs - top)
    total = shares[0] + shares[1] + shares[2]
    return top + np.log(total), shares / total


def objective_of(problem: Problem, theta: FloatArray, weights: FloatArray, delta: float) -> FloatArray:
    """Σ weight · Huber_δ(ln prediction - ln loss) / δ; shape (S,)."""
    predicted = terms(problem, theta)[0] if theta.shape[1] == 5 else _gamma_terms(problem, theta)[0]
    return huber(predicted - problem.target, weights, delta, problem.penalty)


def huber(residual: FloatArray, weights: FloatArray, delta: float, penalty: float) -> FloatArray:
    """Σ weight · Huber_δ(residual) / δ over the last axis; predictions above the observation count `penalty` times."""
    size = np.abs(residual)
    loss = np.where(size <= delta, 0.5 * size * size / delta, size - 0.5 * delta)
    return np.asarray((_one_sided(residual, weights, penalty) * loss).sum(axis=1))


def huber_slopes(
    residual: FloatArray, weights: FloatArray, delta: float, penalty: float
) -> tuple[FloatArray, FloatArray]:
    """First and second derivative of each point's part of `huber`, ψ and ψ'."""
    weights = _one_sided(residual, weights, penalty)
    return weights * np.clip(residual / delta, -1.0, 1.0), weights * (np.abs(residual) <= delta) / delta


def _one_sided(residual: FloatArray, weights: FloatArray, penalty: float) -> FloatArray:
    return weights if penalty == 1.0 else weights * np.where(residual > 0, penalty, 1.0)


def derivatives(
    problem: Problem, theta: FloatArray, weights: FloatArray, delta: float
) -> tuple[FloatArray, FloatArray]:
    """Gradient (S, P) and exact Hessian (S, P, P) of `objective_of`.

    With T_k the gradient of term k's log and w_k its share, J = Σ w_k T_k and ∇² ln prediction = Σ w_k T_k T_kᵀ - J Jᵀ,
    so the Hessian is Σ (ψ' - ψ) J Jᵀ + Σ ψ Σ_k w_k T_k T_kᵀ.
    """
    if theta.shape[1] == 6:
        return _gamma_derivatives(problem, theta, weights, delta)
    prediction, shares = terms(problem, theta)
    psi, psi_prime = huber_slopes(prediction - problem.target, weights, delta, problem.penalty)
    first, second, third = shares
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


def _gamma_terms(problem: Problem, theta: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """ln prediction, s = ln(A/N^α + B/D^β), the first term's share in s, and E's share in the loss; each (S, n)."""
    a, b, e, alpha, beta, gamma = (theta[:, i, None] for i in range(6))
    first, second = a - alpha * problem.x, b - beta * problem.y
    s = np.logaddexp(first, second)
    prediction = np.logaddexp(e, gamma * s)
    return prediction, s, np.exp(first - s), np.exp(e - prediction)


def _gamma_derivatives(
    problem: Problem, theta: FloatArray, weights: FloatArray, delta: float
) -> tuple[FloatArray, FloatArray]:
    """As `derivatives`, for the law with γ.

    With R = γ ∇s + s ∇γ the gradient of the reducible part's log and v its share, J = v R + (1-v) ∇e and
    ∇² ln prediction = v (1-v) (R - ∇e)(R - ∇e)ᵀ + v (γ ∇²s + ∇γ ∇sᵀ + ∇s ∇γᵀ).
    """
    prediction, s, share, floor = _gamma_terms(problem, theta)
    psi, psi_prime = huber_slopes(prediction - problem.target, weights, delta, problem.penalty)
    gamma, v, zero = theta[:, 5, None], 1.0 - floor, np.zeros_like(s)
    slope = np.stack([share, 1 - share, zero, -problem.x * share, -problem.y * (1 - share), zero], axis=-1)
    # ∇²s = share (1 - share) d dᵀ, with d the difference of the gradients of the two terms' logs
    apart = (
        np.stack([zero + 1, zero - 1, zero, zero - problem.x, zero + problem.y, zero], axis=-1)
        * np.sqrt(share * (1 - share))[..., None]
    )
    rise = gamma[..., None] * slope
    rise[..., 5] = s
    lifted = rise.copy()
    lifted[..., 2] -= 1.0
    jacobian = v[..., None] * rise
    jacobian[..., 2] += floor

    def summed(weight: FloatArray, vectors: FloatArray) -> FloatArray:
        return np.asarray(np.swapaxes(vectors, 1, 2) @ (weight[..., None] * vectors))

    hessian = summed(psi_prime, jacobian) + summed(psi * v * floor, lifted) + summed(psi * v * gamma, apart)
    mixed = np.einsum("sn,snp->sp", psi * v, slope)
    hessian[:, 5] += mixed
    hessian[:, :, 5] += mixed
    return np.einsum("sn,snp->sp", psi, jacobian), hessian


def share_at_minimum(objective: FloatArray) -> float:
    """Share of the starts that ended within 1e-4 of the lowest objective."""
    lowest = float(objective.min())
    return float(np.mean(objective <= lowest + 1e-4 * abs(lowest) + 1e-9))
