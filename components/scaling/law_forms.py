"""The laws that a table of runs can be fitted to, by name: their coefficients, losses and compute-optimal models.

Each is L = floor + R(N, D)^power, where R is Chinchilla's sum without its floor; so they share one search for the
optimum. Coefficients come as rows: shape (…, P) in the order of `PARAMETERS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.scaling.laws import Allocation, ChinchillaLaw
from components.scaling.optimum import LifetimeCosts, LifetimeOptimum, lifetime_optimum

FloatArray = NDArray[np.float64]
LossLaw = Literal["chinchilla", "tied", "gamma", "kaplan"]
FrontierLaw = Literal["isoflop", "envelope"]
LawName = LossLaw | FrontierLaw
LOSS_LAWS: tuple[LossLaw, ...] = get_args(LossLaw)
FRONTIER_LAWS: tuple[FrontierLaw, ...] = get_args(FrontierLaw)
LAWS: tuple[LawName, ...] = (*LOSS_LAWS, *FRONTIER_LAWS)

PARAMETERS: dict[LawName, tuple[str, ...]] = {
    "chinchilla": ("A", "B", "E", "alpha", "beta"),
    "tied": ("A", "B", "E", "alpha", "beta"),
    "gamma": ("A", "B", "E", "alpha", "beta", "gamma"),
    "kaplan": ("N_c", "D_c", "alpha_N", "alpha_D"),
    "isoflop": ("a", "params_scale", "b", "tokens_scale"),
    "envelope": ("a", "params_scale", "b", "tokens_scale"),
}
FORMULAS: dict[LawName, str] = {
    "chinchilla": "L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022, approach 3)",
    "tied": "L = E + A/N^alpha + B/D^alpha (alpha = beta; Gadre et al. 2024, alpha = 2 eta)",
    "gamma": "L = E + (A/N^alpha + B/D^beta)^gamma",
    "kaplan": "L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D (Kaplan et al. 2020, eq. 1.5)",
    "isoflop": "N* = params_scale C^a, D* = tokens_scale C^b (Hoffmann et al. 2022, approach 2)",
    "envelope": "N* = params_scale C^a, D* = tokens_scale C^b (Hoffmann et al. 2022, approach 1)",
}


def losses(law: LossLaw, coefficients: ArrayLike, num_params: ArrayLike, tokens: ArrayLike) -> FloatArray:
    """Loss that each row of coefficients predicts; N and D broadcast against the rows' shape."""
    rows = np.moveaxis(np.asarray(coefficients, dtype=np.float64), -1, 0)
    n, d = np.asarray(num_params, dtype=np.float64), np.asarray(tokens, dtype=np.float64)
    if law == "kaplan":
        n_c, d_c, alpha_n, alpha_d = rows
        return np.asarray(
            np.exp(alpha_d * np.logaddexp(alpha_n / alpha_d * (np.log(n_c) - np.log(n)), np.log(d_c) - np.log(d)))
        )
    a, b, e, alpha, beta = rows[:5]
    reducible = a * n**-alpha + b * d**-beta
    return np.asarray(e + (reducible ** rows[5] if law == "gamma" else reducible))


def optimal(law: LossLaw, coefficients: Sequence[float], flops: float, per_param_token: float) -> Allocation:
    """The N and D of least loss at C = `per_param_token` N D FLOPs.

    Raises ValueError for a budget that is not positive, or coefficients that no optimum can be computed from.
    """
    base, _, _ = _reducible(law, coefficients)
    best = base.optimal(6.0 * flops / per_param_token)
    loss = float(losses(law, coefficients, best.num_params, best.tokens))
    return Allocation(best.num_params, best.tokens, loss, flops)


def cheapest(law: LossLaw, coefficients: Sequence[float], loss: float, costs: LifetimeCosts) -> LifetimeOptimum:
    """The model that reaches `loss` at the least cost of training and serving (Sardana et al. 2024).

    Raises ValueError where the loss is at or under the law's floor.
    """
    base, floor, power = _reducible(law, coefficients)
    if not loss > floor:
        raise ValueError(f"a loss of {loss:g} is at or under the law's irreducible {floor:.4g}: no model reaches it")
    return lifetime_optimum(base, (loss - floor) ** (1.0 / power), costs)


def _reducible(law: LossLaw, coefficients: Sequence[float]) -> tuple[ChinchillaLaw, float, float]:
    """R as a law without a floor, the floor, and the power."""
    if law == "kaplan":
        n_c, d_c, alpha_n, alpha_d = coefficients
        ratio = alpha_n / alpha_d
        log_a = ratio * math.log(n_c)
        if log_a > 690:
            raise ValueError(f"Kaplan's N_c = {n_c:.3g} is beyond what an optimum can be computed from")
        return ChinchillaLaw(E=0.0, A=math.exp(log_a), B=d_c, alpha=ratio, beta=1.0), 0.0, alpha_d
    a, b, e, alpha, beta = coefficients[:5]
    return ChinchillaLaw(E=0.0, A=a, B=b, alpha=alpha, beta=beta), e, coefficients[5] if law == "gamma" else 1.0
