"""What shape the sharp metric has over size: p^L of the smooth one, a smooth rise of its own, or a change-point.

Three models of the number of items solved at each size, all binomial (with the overdispersion that trainings of one
size show):

    p^L      accuracy = e^(L l), with l the measured log-probability of a token at that size and L fitted (Schaeffer et
             al. 2023, eq. 3, where L is the length of the answer): the jump is in the metric
    smooth   logit accuracy = b0 + b1 ln N: it rises by itself, without a jump
    change   one accuracy up to a size and another beyond it

They are compared by the quasi-AIC: deviance over the overdispersion, plus two a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

FloatArray = NDArray[np.float64]
_APART = 4.0  # quasi-AIC beyond which one model is preferred to another


@dataclass(frozen=True)
class EmergenceShape:
    """`length`, `length_low`, `length_high`: the L that makes p^L fit, with its 95% interval by profile likelihood.
    `below`, `above`: sizes between which the change-point lies best; `earliest`, `latest`: its 95% interval, by profile
    likelihood over the gaps between neighbouring sizes. `criteria`: quasi-AIC of "p^L", "smooth" and "change", lowest
    0. `resolution`: 1/n, the smallest accuracy that n answers can show; `unresolved`: how many sizes lie under it.
    `overdispersion`: of trainings of one size, 1 where there is one a size. `verdict`: in words."""

    length: float
    length_low: float
    length_high: float
    below: float
    above: float
    earliest: float
    latest: float
    criteria: dict[str, float]
    resolution: float
    unresolved: int
    overdispersion: float
    verdict: str


def emergence_shape(
    sizes: Sequence[float],
    accuracies: Sequence[Sequence[float]],
    log_probs: Sequence[float],
    num_items: int,
    confidence: float = 0.95,
) -> EmergenceShape:
    """`accuracies`: of each size, rising, those of its trainings on the same `num_items`; `log_probs`: mean of a token
    in nats, by size.

    Raises ValueError for fewer than three sizes, sizes that do not rise, or a log-probability that is not negative.
    """
    x = np.log(np.asarray(sizes, dtype=np.float64))
    token = np.asarray(log_probs, dtype=np.float64)
    if len(x) < 3 or not (np.diff(x) > 0).all():
        raise ValueError(f"the shape of a rise needs three or more rising sizes, got {list(sizes)}")
    if not (np.isfinite(token) & (token < 0)).all():
        raise ValueError(f"log-probabilities must be finite and below 0, got {list(log_probs)}")
    trials = np.array([num_items * len(one) for one in accuracies], dtype=np.float64)
    right = np.array([num_items * math.fsum(one) for one in accuracies])
    spread = _overdispersion(accuracies, num_items)
    limit = float(stats.chi2.ppf(confidence, 1)) * spread

    def powered(length: float) -> float:
        return _deviance(right, trials, np.exp(length * token))

    def off(log_length: float) -> float:
        return powered(math.exp(log_length))

    grid = np.linspace(math.log(0.05), math.log(2000.0), 400)
    at = [off(float(g)) for g in grid]
    best = int(np.argmin(at))
    edges = float(grid[max(0, best - 1)]), float(grid[min(len(grid) - 1, best + 1)])
    found = optimize.minimize_scalar(off, bounds=edges, method="bounded")
    length = math.exp(float(found.x))
    held = grid[np.array(at) <= float(found.fun) + limit]
    ends = (float(np.exp(held[0])), float(np.exp(held[-1]))) if len(held) else (length, length)

    smooth = optimize.minimize(
        lambda b: _deviance(right, trials, 1.0 / (1.0 + np.exp(-np.clip(b[0] + b[1] * (x - x.mean()), -40, 40)))),
        [0.0, 1.0],
        method="Nelder-Mead",
        options={"xatol": 1e-6, "fatol": 1e-8, "maxiter": 4000},
    )
    changes = np.array([_step(right, trials, k) for k in range(1, len(x))])
    place = int(changes.argmin())
    kept = np.flatnonzero(changes <= changes[place] + limit)
    criteria = {
        "p^L": float(found.fun) / spread + 2.0,
        "smooth": float(smooth.fun) / spread + 4.0,
        "change": float(changes[place]) / spread + 6.0,
    }
    lowest = min(criteria.values())
    criteria = {name: value - lowest for name, value in criteria.items()}
    flat = _step(right, trials, 0)
    resolution = 1.0 / num_items
    unresolved = int(sum(np.mean(one) < resolution for one in accuracies))
    nothing = flat - float(changes.min()) < float(stats.chi2.ppf(confidence, 2)) * spread
    return EmergenceShape(
        length=length,
        length_low=min(ends[0], length),
        length_high=max(ends[1], length),
        below=float(sizes[place]),
        above=float(sizes[place + 1]),
        earliest=float(sizes[int(kept[0])]),
        latest=float(sizes[int(kept[-1]) + 1]),
        criteria=criteria,
        resolution=resolution,
        unresolved=unresolved,
        overdispersion=spread,
        verdict=_verdict(criteria, nothing, length, (sizes[place], sizes[place + 1]), unresolved, len(x), num_items),
    )


def _verdict(
    criteria: dict[str, float],
    nothing: bool,
    length: float,
    gap: tuple[float, float],
    unresolved: int,
    count: int,
    num_items: int,
) -> str:
    if nothing:
        return "no size is better than another beyond chance: nothing emerged, and there is no shape to judge"
    hidden = f"; {unresolved} of {count} sizes solve less than 1 of {num_items}, where the metric sees nothing"
    tail = hidden if unresolved else ""
    if criteria["change"] + _APART <= min(criteria["p^L"], criteria["smooth"]):
        between = f"{gap[0]:.3g} and {gap[1]:.3g} parameters"
        return (
            f"a change between {between} that neither p^L of the log-probability nor a smooth rise explains: the jump "
            f"is in the models and not in the metric alone{tail}"
        )
    if criteria["p^L"] <= criteria["smooth"] + _APART and criteria["p^L"] <= criteria["change"] + _APART:
        sole = (
            "explains" if min(criteria["smooth"], criteria["change"]) >= _APART else "explains, no worse than others,"
        )
        return f"p^L of the log-probability {sole} the rise, with L = {length:.2g}: the jump is in the metric{tail}"
    if criteria["smooth"] + _APART <= criteria["change"]:
        return f"exact match rises smoothly with size, without a jump, though not as p^L foretells{tail}"
    return f"a smooth rise and a change-point explain it alike, and p^L does not: these sizes do not decide{tail}"


def _deviance(right: FloatArray, trials: FloatArray, p: FloatArray) -> float:
    """-2 ln of the binomial likelihood over that of the observed shares."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    share = np.clip(right / trials, 1e-300, 1.0)
    rest = np.clip(1 - right / trials, 1e-300, 1.0)
    return float(2 * (right * (np.log(share) - np.log(p)) + (trials - right) * (np.log(rest) - np.log1p(-p))).sum())


def _step(right: FloatArray, trials: FloatArray, k: int) -> float:
    """Deviance of one share for the first k sizes and another for the others."""
    p = np.empty_like(right)
    for part in (slice(0, k), slice(k, None)):
        if len(right[part]):
            p[part] = right[part].sum() / trials[part].sum()
    return _deviance(right, trials, p)


def _overdispersion(accuracies: Sequence[Sequence[float]], num_items: int) -> float:
    """Pearson's chi² of trainings around their size's mean over its degrees of freedom; at least 1."""
    total, freedom = 0.0, 0
    for one in accuracies:
        mean = float(np.mean(one))
        if len(one) > 1 and 0 < mean < 1:
            total += num_items * float(((np.asarray(one) - mean) ** 2).sum()) / (mean * (1 - mean))
            freedom += len(one) - 1
    return max(1.0, total / freedom) if freedom else 1.0
