"""The laws that a table of runs can be fitted to, by name: their coefficients, losses and compute-optimal models.

Those over N and D alone are L = floor + R(N, D)^power, where R is Chinchilla's sum without its floor; so they share one
search for the optimum. Those with further variables are in `law_formulas.py`. Coefficients come as rows: shape (…, P)
in the order of `PARAMETERS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, TypeGuard, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.scaling.law_formulas import FORMULA_LAWS, FORMULAS_BY_LAW, FormulaLaw
from components.scaling.laws import Allocation, ChinchillaLaw
from components.scaling.optimum import LifetimeCosts, LifetimeOptimum, lifetime_optimum
from components.scaling.run_columns import Role

FloatArray = NDArray[np.float64]
LossLaw = Literal["chinchilla", "tied", "gamma", "kaplan", "downstream"]
FrontierLaw = Literal["isoflop", "envelope"]
LawName = LossLaw | FormulaLaw | FrontierLaw
LOSS_LAWS: tuple[LossLaw, ...] = get_args(LossLaw)
FRONTIER_LAWS: tuple[FrontierLaw, ...] = get_args(FrontierLaw)
LAWS: tuple[LawName, ...] = (*LOSS_LAWS, *FORMULA_LAWS, *FRONTIER_LAWS)

_FORMULA_PARAMETERS: dict[LawName, tuple[str, ...]] = {law: formula.names for law, formula in FORMULAS_BY_LAW.items()}
PARAMETERS: dict[LawName, tuple[str, ...]] = {
    "chinchilla": ("A", "B", "E", "alpha", "beta"),
    "tied": ("A", "B", "E", "alpha", "beta"),
    "gamma": ("A", "B", "E", "alpha", "beta", "gamma"),
    "kaplan": ("N_c", "D_c", "alpha_N", "alpha_D"),
    "downstream": ("A", "B", "E", "alpha", "beta", "epsilon", "k", "gamma"),
    **_FORMULA_PARAMETERS,
    "isoflop": ("a", "params_scale", "b", "tokens_scale"),
    "envelope": ("a", "params_scale", "b", "tokens_scale"),
}
FORMULAS: dict[LawName, str] = {
    "chinchilla": "L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022, approach 3)",
    "tied": "L = E + A/N^alpha + B/D^alpha (alpha = beta; Gadre et al. 2024, alpha = 2 eta)",
    "gamma": "L = E + (A/N^alpha + B/D^beta)^gamma",
    "kaplan": "L = ((N_c/N)^(alpha_N/alpha_D) + D_c/D)^alpha_D (Kaplan et al. 2020, eq. 1.5)",
    "downstream": "L as chinchilla, then error = epsilon - k e^(-gamma L) (Gadre et al. 2024, eq. 5)",
    **{law: formula.words for law, formula in FORMULAS_BY_LAW.items()},
    "isoflop": "N* = params_scale C^a, D* = tokens_scale C^b (Hoffmann et al. 2022, approach 2)",
    "envelope": "N* = params_scale C^a, D* = tokens_scale C^b (Hoffmann et al. 2022, approach 1)",
}


_BOTH: tuple[Role, ...] = ("params", "tokens")
_WITH_ACCURACY: tuple[Role, ...] = (*_BOTH, "accuracy")
NEEDS: dict[LawName, tuple[Role, ...]] = {law: _WITH_ACCURACY if law == "downstream" else _BOTH for law in LAWS}
NEEDS |= {law: formula.needs for law, formula in FORMULAS_BY_LAW.items()}


def is_formula(law: LawName) -> TypeGuard[FormulaLaw]:
    """Whether it is one of `law_formulas`."""
    return law in FORMULA_LAWS


def is_loss_law(law: LawName) -> TypeGuard[LossLaw]:
    """Whether it is a law of loss over N and D alone."""
    return law in LOSS_LAWS


def losses_of(law: LawName, coefficients: ArrayLike, columns: Mapping[str, ArrayLike]) -> FloatArray:
    """Loss that each row of coefficients predicts at columns by role, of any law that gives one.

    Raises ValueError for a law of N* and D*.
    """
    if is_formula(law):
        return FORMULAS_BY_LAW[law].losses(coefficients, columns)
    if is_loss_law(law):
        return losses(law, coefficients, columns["params"], columns["tokens"])
    raise ValueError(
        f"the law {law} tells the best N and D of a budget, and no loss: fit {', '.join(LOSS_LAWS)} or another instead"
    )


def errors(coefficients: ArrayLike, loss: ArrayLike) -> FloatArray:
    """Downstream error at a loss, by rows of the coefficients of "downstream", within 0..1."""
    epsilon, k, gamma = np.moveaxis(np.asarray(coefficients, dtype=np.float64), -1, 0)[5:]
    return np.clip(epsilon - k * np.exp(-gamma * np.asarray(loss, dtype=np.float64)), 0.0, 1.0)


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
