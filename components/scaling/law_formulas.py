"""Laws with further variables than N and D: repeated data, experts, optimiser steps, or one variable alone.

Each is ln L = log-sum-exp of terms, written once for scalars, tables and draws alike, and for complex parameters: the
fit takes derivatives by complex steps. Parameters are θ: logs of the coefficients that must be positive, the others as
they are. Shapes: θ is a sequence of P arrays that broadcast against the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.scaling.run_columns import Role

Array = NDArray[Any]  # of float64 or complex128
Columns = Mapping[str, Array]
FormulaLaw = Literal[
    "kaplan-n", "kaplan-d", "kaplan-steps", "kaplan-batch", "repeated", "routed", "granularity", "sparsity"
]
FORMULA_LAWS: tuple[FormulaLaw, ...] = get_args(FormulaLaw)


@dataclass(frozen=True)
class Formula:
    """One law. `names`: of its parameters; `needs`: its columns; `logged`: which parameters are logs in θ;
    `terms`: (θ, columns) -> ln of each summand; `linear`: of each summand the parameter that is its log factor;
    `exponents`: of the others the range that starts are drawn from, on a log scale where both ends are positive;
    `bounds`: of them what is searched; `centred`: (log factor, exponent, column): the factor stands before
    column^-exponent, so that the fit can centre the column's log; `kaplan`: pairs (scale, exponent) in which the
    factor is scale^exponent, as Kaplan et al. write it; `inverse`: parameters that are 1/θ; `affine`: every term is a
    linear function of θ, whose derivatives are then its coefficients; `implicit`: the loss stands in its own formula.
    """

    names: tuple[str, ...]
    needs: tuple[Role, ...]
    logged: frozenset[str]
    terms: Callable[[Sequence[Array], Columns], list[Array]]
    linear: tuple[str, ...]
    exponents: Mapping[str, tuple[float, float]]
    bounds: Mapping[str, tuple[float, float]]
    centred: tuple[tuple[str, str, str], ...]
    words: str
    kaplan: Mapping[str, str] = field(default_factory=dict)
    inverse: frozenset[str] = frozenset()
    affine: bool = True
    implicit: bool = False

    def log_loss(self, theta: Sequence[Array], columns: Columns) -> Array:
        """ln L of θ, by log-sum-exp."""
        return log_sum_exp(self.terms(theta, columns))

    def theta(self, values: ArrayLike) -> list[Array]:
        """θ of coefficients (…, P), as `values` shows them."""
        shown = dict(zip(self.names, np.moveaxis(np.asarray(values, dtype=np.float64), -1, 0), strict=True))
        found = {
            name: np.log(x) if name in self.logged else 1.0 / x if name in self.inverse else x
            for name, x in shown.items()
        }
        for scale, exponent in self.kaplan.items():
            found[scale] = found[scale] * shown[exponent]
        return [found[name] for name in self.names]

    def values(self, theta: Sequence[Array]) -> Array:
        """Coefficients (…, P) in the user's units of θ; beyond 1e±300 they saturate."""
        found = dict(zip(self.names, theta, strict=True))
        for scale, exponent in self.kaplan.items():
            found[scale] = found[scale] / found[exponent]
        shown = {
            name: np.exp(np.clip(x, -690, 690)) if name in self.logged else 1.0 / x if name in self.inverse else x
            for name, x in found.items()
        }
        return np.stack([shown[name] for name in self.names], axis=-1)

    def losses(self, values: ArrayLike, columns: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Loss that each row of coefficients (…, P) predicts; the columns broadcast against the rows' shape.

        Where the formula holds the loss itself (critical batch), the one at which both sides agree: the right side
        falls as the loss rises, so there is exactly one.
        """
        theta = self.theta(values)
        known: dict[str, Any] = {k: np.asarray(v, dtype=np.float64) for k, v in columns.items() if k in self.needs}
        if not self.implicit:
            return np.asarray(np.exp(self.log_loss(theta, known)))
        shape = np.broadcast_shapes(theta[0].shape, *(v.shape for v in known.values()))
        low, high = np.full(shape, -20.0), np.full(shape, 20.0)
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = self.log_loss(theta, {**known, "loss": np.exp(middle)}) > middle
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.asarray(np.exp(0.5 * (low + high)))


def log_sum_exp(terms: Sequence[Array]) -> Array:
    """Of equal or broadcasting shapes, complex as well."""
    if len(terms) == 1:
        return terms[0]
    parts = np.stack(np.broadcast_arrays(*terms))
    top = parts.real.max(axis=0)
    return np.asarray(top + np.log(np.exp(parts - top).sum(axis=0)))


def _one_variable(column: str) -> Callable[[Sequence[Array], Columns], list[Array]]:
    def terms(theta: Sequence[Array], columns: Columns) -> list[Array]:
        scale, alpha = theta
        return [scale - alpha * np.log(columns[column])]

    return terms


def _steps(theta: Sequence[Array], columns: Columns) -> list[Array]:
    """Kaplan et al. 2020, eq. 1.6; the steps are taken for S_min, those of a batch far above the critical one."""
    n_c, alpha_n, s_c, alpha_s = theta
    return [n_c - alpha_n * np.log(columns["params"]), s_c - alpha_s * np.log(columns["steps"])]


def _batch(theta: Sequence[Array], columns: Columns) -> list[Array]:
    """Kaplan et al. 2020, eq. 1.4, 5.4 and 1.6: S_min = S/(1 + B_crit/B), B_crit = B*/L^(1/alpha_B), at the measured
    loss, as they take it."""
    n_c, alpha_n, s_c, alpha_s, b_star, by_alpha_b = theta
    log_s_min = np.log(columns["steps"]) - _log1p_exp(
        b_star - by_alpha_b * np.log(columns["loss"]) - np.log(columns["batch"])
    )
    return [n_c - alpha_n * np.log(columns["params"]), s_c - alpha_s * log_s_min]


def _log1p_exp(x: Array) -> Array:
    """ln(1 + e^x), complex as well, without overflow."""
    high = x.real > 0
    return np.asarray(np.where(high, x, 0.0) + np.log(1.0 + np.exp(np.where(high, -x, x))))


def _repeated(theta: Sequence[Array], columns: Columns) -> list[Array]:
    """Muennighoff et al. 2023, eq. 5 and 6: repeats and excess parameters decay in worth; U_N, the N that is
    compute-optimal for the unique data, does not."""
    a, b, e, alpha, beta, r_d, r_n = theta
    log_d, log_n = np.log(columns["tokens"]), np.log(columns["params"])
    unique = np.minimum(np.log(columns["unique"]), log_d)
    best = (np.log(alpha) + a - np.log(beta) - b + beta * unique) / alpha
    base = np.where(log_n < best.real, log_n + 0.0 * best, best)
    return [a - alpha * _effective(log_n, base, r_n), b - beta * _effective(log_d, unique + 0.0 * b, r_d), e]


def _effective(amount: Array, unique: Array, log_decay: Array) -> Array:
    """ln(U (1 + R* (1 - e^(-R/R*)))), R = amount/U - 1."""
    repeats = np.where(amount > unique.real, np.expm1(amount - unique), 0.0)
    return np.asarray(unique + np.log1p(np.exp(log_decay) * -np.expm1(-repeats * np.exp(-log_decay))))


def _routed(theta: Sequence[Array], columns: Columns) -> list[Array]:
    """Clark et al. 2022, eq. 8 and 9, log10 throughout: log L = a log N + b log Ê + c log N log Ê + d."""
    a, b, c, d, start, most = theta
    log_n, log_e = np.log10(columns["params"]), saturated(start, most, columns["experts"])
    return [np.log(10.0) * (a * log_n + b * log_e + c * log_n * log_e + d)]


def saturated(log_start: Array, log_most: Array, experts: Array) -> Array:
    """log10 Ê: 1/Ê = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max (Clark et al. 2022, eq. 9)."""
    low = np.exp(-log_most)
    inner = 1.0 / (experts - 1.0 + 1.0 / (np.exp(-log_start) - low))
    return np.asarray(-np.log(inner + low) / np.log(10.0))


def _granularity(theta: Sequence[Array], columns: Columns) -> list[Array]:
    """Krajewski et al. 2024, eq. 9: L = c + (g/G^gamma + a)/N^alpha + b/D^beta; N without embeddings, G granularity."""
    a, alpha, b, beta, g, gamma, c = theta
    log_n = np.log(columns["params"])
    return [
        a - alpha * log_n,
        b - beta * np.log(columns["tokens"]),
        g - gamma * np.log(columns["granularity"]) - alpha * log_n,
        c,
    ]


def _sparsity(theta: Sequence[Array], columns: Columns) -> list[Array]:
    """Abnar et al. 2025, eq. 4: L = e + a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma); N total
    parameters, S the share of them that a token leaves idle."""
    a, b, c, d, e, alpha, beta, lambda_, delta, gamma = theta
    log_n, log_active = np.log(columns["params"]), np.log1p(-columns["sparsity"])
    return [
        a - alpha * log_n,
        b - beta * np.log(columns["tokens"]),
        c - lambda_ * log_active,
        d - delta * log_active - gamma * log_n,
        e + 0.0 * log_n,
    ]


_EXPONENT, _SEARCHED = (0.05, 1.5), (0.005, 4.0)
FORMULAS_BY_LAW: Mapping[FormulaLaw, Formula] = {
    "kaplan-n": Formula(
        names=("N_c", "alpha_N"),
        needs=("params",),
        logged=frozenset({"N_c"}),
        terms=_one_variable("params"),
        linear=("N_c",),
        exponents={"alpha_N": _EXPONENT},
        bounds={"alpha_N": _SEARCHED},
        centred=(("N_c", "alpha_N", "params"),),
        words="L = (N_c/N)^alpha_N (Kaplan et al. 2020, eq. 1.1)",
        kaplan={"N_c": "alpha_N"},
    ),
    "kaplan-d": Formula(
        names=("D_c", "alpha_D"),
        needs=("tokens",),
        logged=frozenset({"D_c"}),
        terms=_one_variable("tokens"),
        linear=("D_c",),
        exponents={"alpha_D": _EXPONENT},
        bounds={"alpha_D": _SEARCHED},
        centred=(("D_c", "alpha_D", "tokens"),),
        words="L = (D_c/D)^alpha_D (Kaplan et al. 2020, eq. 1.2)",
        kaplan={"D_c": "alpha_D"},
    ),
    "kaplan-steps": Formula(
        names=("N_c", "alpha_N", "S_c", "alpha_S"),
        needs=("params", "steps"),
        logged=frozenset({"N_c", "S_c"}),
        terms=_steps,
        linear=("N_c", "S_c"),
        exponents={"alpha_N": _EXPONENT, "alpha_S": _EXPONENT},
        bounds={"alpha_N": _SEARCHED, "alpha_S": _SEARCHED},
        centred=(("N_c", "alpha_N", "params"), ("S_c", "alpha_S", "steps")),
        words="L = (N_c/N)^alpha_N + (S_c/S)^alpha_S (Kaplan et al. 2020, eq. 1.6)",
        kaplan={"N_c": "alpha_N", "S_c": "alpha_S"},
    ),
    "kaplan-batch": Formula(
        names=("N_c", "alpha_N", "S_c", "alpha_S", "B_star", "alpha_B"),
        needs=("params", "steps", "batch"),
        logged=frozenset({"N_c", "S_c", "B_star"}),
        terms=_batch,
        linear=("N_c", "S_c"),
        exponents={"alpha_N": _EXPONENT, "alpha_S": _EXPONENT, "B_star": (1e2, 1e10), "alpha_B": (1.0, 10.0)},
        bounds={"alpha_N": _SEARCHED, "alpha_S": _SEARCHED, "B_star": (1e-3, 1e15), "alpha_B": (0.1, 30.0)},
        centred=(("N_c", "alpha_N", "params"), ("S_c", "alpha_S", "steps"), ("B_star", "alpha_B", "loss")),
        words="L = (N_c/N)^alpha_N + (S_c/S_min)^alpha_S, S_min = S/(1 + B*/(L^(1/alpha_B) B)) (Kaplan et al. 2020)",
        kaplan={"N_c": "alpha_N", "S_c": "alpha_S"},
        inverse=frozenset({"alpha_B"}),
        implicit=True,
        affine=False,
    ),
    "repeated": Formula(
        names=("A", "B", "E", "alpha", "beta", "R_D_star", "R_N_star"),
        needs=("params", "tokens", "unique"),
        logged=frozenset({"A", "B", "E", "R_D_star", "R_N_star"}),
        terms=_repeated,
        linear=("A", "B", "E"),
        exponents={"alpha": _EXPONENT, "beta": _EXPONENT, "R_D_star": (1.0, 100.0), "R_N_star": (1.0, 100.0)},
        bounds={"alpha": _SEARCHED, "beta": _SEARCHED, "R_D_star": (0.05, 1e4), "R_N_star": (0.05, 1e4)},
        centred=(("A", "alpha", "params"), ("B", "beta", "tokens")),
        words="L = E + A/N'^alpha + B/D'^beta with repeats and excess parameters decaying (Muennighoff et al. 2023)",
        affine=False,
    ),
    "routed": Formula(
        names=("a", "b", "c", "d", "E_start", "E_max"),
        needs=("params", "experts"),
        logged=frozenset({"E_start", "E_max"}),
        terms=_routed,
        linear=(),
        exponents={"E_start": (1.05, 8.0), "E_max": (30.0, 3000.0)},
        bounds={"a": (-2.0, 2.0), "b": (-3.0, 3.0), "c": (-1.0, 1.0), "d": (-10.0, 20.0)}
        | {"E_start": (1.001, 25.0), "E_max": (26.0, 1e6)},
        centred=(),
        words="log L = a log N + b log Ê + c log N log Ê + d, log10 (Clark et al. 2022, eq. 8)",
        affine=False,
    ),
    "granularity": Formula(
        names=("a", "alpha", "b", "beta", "g", "gamma", "c"),
        needs=("params", "tokens", "granularity"),
        logged=frozenset({"a", "b", "g", "c"}),
        terms=_granularity,
        linear=("a", "b", "g", "c"),
        exponents={"alpha": _EXPONENT, "beta": _EXPONENT, "gamma": (0.1, 2.0)},
        bounds={"alpha": _SEARCHED, "beta": _SEARCHED, "gamma": _SEARCHED},
        centred=(("a", "alpha", "params"), ("b", "beta", "tokens"), ("g", "alpha", "params")),
        words="L = c + (g/G^gamma + a)/N^alpha + b/D^beta (Krajewski et al. 2024, eq. 9)",
    ),
    "sparsity": Formula(
        names=("a", "b", "c", "d", "e", "alpha", "beta", "lambda", "delta", "gamma"),
        needs=("params", "tokens", "sparsity"),
        logged=frozenset({"a", "b", "c", "d", "e"}),
        terms=_sparsity,
        linear=("a", "b", "c", "d", "e"),
        exponents={"alpha": _EXPONENT, "beta": _EXPONENT, "lambda": (-1.0, 0.5), "delta": (0.05, 1.0)}
        | {"gamma": (0.05, 1.0)},
        bounds={"alpha": _SEARCHED, "beta": _SEARCHED, "lambda": (-4.0, 4.0), "delta": (-4.0, 4.0)}
        | {"gamma": _SEARCHED},
        centred=(("a", "alpha", "params"), ("b", "beta", "tokens"), ("d", "gamma", "params")),
        words="L = e + a/N^alpha + b/D^beta + c/(1-S)^lambda + d/((1-S)^delta N^gamma) (Abnar et al. 2025, eq. 4)",
    ),
}
