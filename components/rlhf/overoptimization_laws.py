"""The laws of over-optimisation of Gao et al. 2022 (arXiv 2210.10760), fitted with intervals.

Rewards are in any one unit; d = √KL(π‖π₀) with KL in nats a sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from components.rlhf.results.policy import LawResult, Laws
from components.statistics import Interval

FloatArray = NDArray[np.float64]
Law = Literal["best_of_n", "rl"]


@dataclass(frozen=True)
class OveroptimizationFit:
    """best_of_n: R = d(α − βd) (eq. 1); rl: R = d(α − β log d) (eq. 2), where R is the gain over the start.

    `peak_kl`: KL at which the fitted law turns, nats (inf where it never does); `peak_reward`: R there.
    `extrapolated`: the peak lies beyond the largest KL that was measured, so nothing observed stands behind it.
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
    kl: ArrayLike, reward: ArrayLike, law: Law, weights: ArrayLike | None = None, confidence: float = 0.95
) -> OveroptimizationFit:
    """Least squares of the law to gains at these KLs, with Student's t intervals for α and β.

    reward: gain over the start (R = 0 at KL 0). weights: inverse variances of the rewards where known. Points along one
    run are correlated, so its intervals are too narrow; fit points of several runs for honest ones. Raises ValueError
    for fewer than three points with KL > 0, or a negative KL.
    """
    x, y = np.asarray(kl, dtype=np.float64).ravel(), np.asarray(reward, dtype=np.float64).ravel()
    w = np.ones_like(x) if weights is None else np.asarray(weights, dtype=np.float64).ravel()
    if not x.size == y.size == w.size:
        raise ValueError(f"{x.size} KLs, {y.size} rewards, {w.size} weights: give one of each a point")
    if (x < 0).any() or not np.isfinite([x, y, w]).all():
        raise ValueError("KLs must be finite and at least 0, rewards and weights finite")
    x, y, w = x[x > 0], y[x > 0], w[x > 0]
    if np.unique(x).size < 3:
        raise ValueError(f"{np.unique(x).size} different KLs above 0: α and β with an interval need at least 3")
    root = np.sqrt(w)
    a = _design(law, np.sqrt(x)) * root[:, None]
    (alpha, beta), *_ = np.linalg.lstsq(a, y * root, rcond=None)
    residual = y * root - a @ [alpha, beta]
    freedom = x.size - 2
    covariance = np.linalg.pinv(a.T @ a) * float(residual @ residual) / freedom
    t = float(stats.t.ppf(0.5 + confidence / 2, freedom))
    halves = t * np.sqrt(np.diag(covariance))
    total = float((w * (y - np.average(y, weights=w)) ** 2).sum())
    peak = _peak(law, float(alpha), float(beta))
    return OveroptimizationFit(
        law,
        Interval(float(alpha), float(alpha - halves[0]), float(alpha + halves[0]), x.size),
        Interval(float(beta), float(beta - halves[1]), float(beta + halves[1]), x.size),
        1 - float(residual @ residual) / total if total > 0 else math.nan,
        *peak,
        peak[0] > float(x.max()),
    )


def bootstrap_overoptimization(
    kl: ArrayLike, rewards_IP: FloatArray, law: Law, seed: int, resamples: int = 500, confidence: float = 0.95
) -> OveroptimizationFit | None:
    """`fit_overoptimization` of the mean over items, with percentile intervals from items drawn anew: of every item
    (row) the gain at each of the KLs, which are correlated along a row and independent between rows. None where fewer
    than three different KLs are above 0, or there is one item only."""
    x = np.asarray(kl, dtype=np.float64).ravel()
    if np.unique(x[x > 0]).size < 3 or len(rewards_IP) < 2:
        return None
    fit = fit_overoptimization(x, rewards_IP.mean(0), law)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(rewards_IP), (resamples, len(rewards_IP)))
    means_RP = rewards_IP[drawn].mean(1)[:, x > 0]
    weights_RW = means_RP @ np.linalg.pinv(_design(law, np.sqrt(x[x > 0]))).T
    low_W, high_W = np.quantile(weights_RW, [0.5 - confidence / 2, 0.5 + confidence / 2], axis=0)
    alpha, beta = (
        Interval(one.value, float(low), float(high), len(rewards_IP))
        for one, low, high in zip((fit.alpha, fit.beta), low_W, high_W, strict=True)
    )
    return replace(fit, alpha=alpha, beta=beta)


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
