"""Compute-optimal models of the laws with further variables: by search along a budget, for a law and its draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.scaling.law_formulas import FORMULAS_BY_LAW, FormulaLaw

FloatArray = NDArray[np.float64]
_SIZES = 1201
_GRANULARITIES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_EXPANSION, _ROUTING = 64.0, 14.0  # of Krajewski et al. 2024: experts of a layer in widths, FLOPs a routed weight
_NO_BUDGET: Mapping[FormulaLaw, str] = {
    "kaplan-n": "it says nothing of tokens",
    "kaplan-d": "it says nothing of parameters",
    "routed": "its runs share one number of tokens; `scale predict` says how large a dense model is its equal",
}


def optima(
    law: FormulaLaw,
    coefficients: ArrayLike,
    flops: float,
    per_param_token: float,
    given: Mapping[str, float],
    sizes: tuple[float, float],
) -> dict[str, FloatArray]:
    """By column the best model of each row of coefficients (draws, P), and its loss; each of shape (draws,).

    `given`: "unique" tokens of repeated data, "batch" tokens of the laws of steps; "granularity" or "sparsity" hold
    what is otherwise searched. `sizes`: N between which the search runs, widened by a thousand on both sides.

    Raises ValueError for a law without an optimum at a budget, and for a variable that must be given and is not.
    """
    if law in _NO_BUDGET:
        raise ValueError(f"the law {law} has no optimum at a budget: {_NO_BUDGET[law]}")
    formula, rows = FORMULAS_BY_LAW[law], np.atleast_2d(np.asarray(coefficients, dtype=np.float64))
    sizes_n = np.geomspace(1e-3 * sizes[0], 1e3 * sizes[1], _SIZES)
    found: dict[str, FloatArray] = {name: np.full(len(rows), np.nan) for name in (*formula.needs, "tokens")}
    lowest = np.full(len(rows), np.inf)
    for columns in _along_budget(law, sizes_n, flops, per_param_token, given):
        ok = np.isfinite(columns["tokens"]) & (columns["tokens"] > 0)
        table: dict[str, FloatArray] = {
            name: np.broadcast_to(column, sizes_n.shape)[ok] for name, column in columns.items()
        }
        for place, row in enumerate(rows):
            loss = formula.losses(row, table)
            best = int(loss.argmin())
            if loss[best] < lowest[place]:
                lowest[place] = loss[best]
                for name, column in table.items():
                    found[name][place] = column[best]
    return {**found, "loss": lowest}


def _along_budget(
    law: FormulaLaw, n: FloatArray, flops: float, per: float, given: Mapping[str, float]
) -> Iterator[dict[str, FloatArray]]:
    """Tables of columns over N at the budget, one a value of what is searched beside N."""
    if law in ("kaplan-steps", "kaplan-batch"):
        batch = _must(given, "batch", law)
        columns = {"params": n, "tokens": flops / (per * n), "steps": flops / (per * n * batch)}
        yield columns if law == "kaplan-steps" else {**columns, "batch": np.full_like(n, batch)}
    elif law == "repeated":
        tokens = flops / (per * n)
        yield {"params": n, "tokens": tokens, "unique": np.minimum(_must(given, "unique", law), tokens)}
    elif law == "sparsity":
        held = given.get("sparsity")
        for idle in (0.0, *(1.0 - np.geomspace(0.95, 0.02, 33)).tolist()) if held is None else (held,):
            # N counts all parameters, and a token computes with those that are not idle.
            yield {"params": n, "tokens": flops / (per * n * (1.0 - idle)), "sparsity": np.full_like(n, idle)}
    else:  # Krajewski et al. 2024, eq. 10: routing costs d_model · E · G a token and block, with d_model = 64 n_blocks
        held = given.get("granularity")
        width = (64.0 * n / 12.0) ** (1.0 / 3.0)
        for granularity in _GRANULARITIES if held is None else (held,):
            routing = _ROUTING * width * _EXPANSION * granularity * width / 64.0
            yield {"params": n, "tokens": flops / (per * n + routing), "granularity": np.full_like(n, granularity)}


def _must(given: Mapping[str, float], name: str, law: str) -> float:
    if name not in given:
        raise ValueError(f"the best model of a budget by the law {law} depends on {name}: give --{name}")
    return given[name]


def dense_equal(coefficients: ArrayLike, num_params: float, experts: float) -> FloatArray:
    """Of Clark's law the dense N of equal loss (Clark et al. 2022, eq. 11), a row of coefficients (…, 6)."""
    formula = FORMULAS_BY_LAW["routed"]
    columns = {"params": np.float64(num_params), "experts": np.float64(experts)}
    of_one = {"params": np.float64(1.0), "experts": np.float64(1.0)}  # log N = 0: b log Ê + d
    level = np.log10(formula.losses(coefficients, of_one))
    slope = np.log10(formula.losses(coefficients, {**of_one, "params": np.float64(10.0)})) - level
    return np.asarray(10.0 ** ((np.log10(formula.losses(coefficients, columns)) - level) / slope))
