"""The laws of over-optimisation of Gao et al. 2022 (arXiv 2210.10760), fitted with intervals.

Rewards are in any one unit; d = √KL(π‖π₀) with KL in nats per sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.rlhf.results.policy import LawResult, Laws
from components.statistics import Interval, clustered_least_squares

FloatArray = NDArray[np.float64]
Law = Literal["best_of_n", "rl"]


@dataclass(frozen=True)
class OveroptimizationFit:
    """best_of_n: R = d(α − βd) (eq. 1); rl: R = d(α − β log d) (eq. 2), where R is the gain over the start.

    r_squared: of the mean gain at each KL. `peak_kl`: KL at which the fitted law turns, nats (inf where it never does);
    `peak_reward`: R there. `extrapolated`: the peak lies beyond the largest KL that was measured, so nothing observed
    stands behind it.
    """

    law: Law
    alpha: Interval
    beta: Interval
    r_squared: float
    peak_kl: float
    peak_reward: float
    extrapolated: bool

    def result(self) -> LawResult:
        """For the result of a stage."""
        r_squared, peak_kl, peak_reward = (
            x if math.isfinite(x) else None for x in (self.r_squared, self.peak_kl, self.peak_reward)
        )
        return LawResult(self.alpha, self.beta, r_squared, peak_kl, peak_reward, self.extrapolated)

    def reward(self, kl: ArrayLike) -> FloatArray:
        """The law at these KLs."""
        return _design(self.law, np.sqrt(np.asarray(kl, dtype=np.float64))) @ [self.alpha.value, self.beta.value]


def _design(law: Law, d: FloatArray) -> FloatArray:
    """Columns whose weights are α and β: the laws are linear in them. d log d is 0 at d = 0."""
    second = d**2 if law == "best_of_n" else d * np.log(np.where(d > 0, d, 1.0))
    return np.stack([d, -second], -1)


def fit_overoptimization(
    kl: ArrayLike, reward: ArrayLike, requests: Sequence[object], law: Law, confidence: float = 0.95
) -> OveroptimizationFit:
    """Least squares of the law to gains at these KLs, with Student's t intervals for α and β over requests.

    The gains of one request hang together, whether its answers are many or it was seen at every look of a run, so each
    request counts as one observation: where every request has a gain at every KL, α and β are the means of the
    requests' own least-squares weights. A run of the same kind from another seed differs by more than these intervals.

    Args:
        kl, reward, requests: of each point: KL, gain over the start (0 at KL 0), and the request it was measured on.

    Raises:
        ValueError: fewer than three different KLs above 0, a negative KL, or lists of different lengths.
    """
    x, y = np.asarray(kl, dtype=np.float64).ravel(), np.asarray(reward, dtype=np.float64).ravel()
    if not x.size == y.size == len(requests):
        raise ValueError(f"{x.size} KLs, {y.size} rewards, {len(requests)} requests: give one of each a point")
    if (x < 0).any() or not np.isfinite([x, y]).all():
        raise ValueError("KLs must be finite and at least 0, and rewards finite")
    moved = np.flatnonzero(x > 0)
    x, y = x[moved], y[moved]
    different = np.unique(x)
    if different.size < 3:
        raise ValueError(f"{different.size} different KLs above 0: α and β with an interval need at least 3")
    alpha, beta = clustered_least_squares(
        _design(law, np.sqrt(x)), y, [requests[point] for point in moved.tolist()], confidence
    )
    means = np.array([y[x == value].mean() for value in different])
    residual = means - _design(law, np.sqrt(different)) @ [alpha.value, beta.value]
    total = float(((means - means.mean()) ** 2).sum())
    peak = _peak(law, alpha.value, beta.value)
    return OveroptimizationFit(
        law,
        alpha,
        beta,
        1 - float(residual @ residual) / total if total > 0 else math.nan,
        *peak,
        peak[0] > float(different[-1]),
    )


def _peak(law: Law, alpha: float, beta: float) -> tuple[float, float]:
    """KL and reward where the law turns down: d* = α/(2β), or log d* = α/β − 1."""
    if alpha <= 0 and law == "best_of_n":
        return 0.0, 0.0
    if beta <= 0:
        return math.inf, math.inf
    if law == "best_of_n":
        return (alpha / (2 * beta)) ** 2, alpha**2 / (4 * beta)
    d = math.exp(min(alpha / beta - 1, 300.0))
    return d**2, beta * d


def fit_rows(law: Law, fits: Laws, method: str) -> list[dict[str, Any]]:
    """α and β of each fit as rows of the table `scaling_fits`."""
    return [
        {
            "sweep": "overoptimization",
            "law": f"{law}, {target}",
            "parameter": name,
            "value": x.value,
            "low": x.low,
            "high": x.high,
            "n": x.n,
            "method": method,
        }
        for target, fit in (("proxy", fits.proxy), ("gold", fits.gold))
        if fit is not None
        for name, x in (("alpha", fit.alpha), ("beta", fit.beta))
    ]
