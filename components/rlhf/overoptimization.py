"""The watch on reward hacking: proxy against gold, an alarm, and the laws of Gao et al. 2022 (arXiv 2210.10760).

Rewards are in any one unit; d = √KL(π‖π₀) with KL in nats a sequence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from components.statistics import Interval, mean_interval

FloatArray = NDArray[np.float64]
Law = Literal["best_of_n", "rl"]


@dataclass(frozen=True)
class Observation:
    """What was seen of a policy at a step: KL to the start in nats a sequence, and for the same sampled answers the
    proxy reward that it is trained on and the gold that it is not, each with its 95% interval. `proxy_values` and
    `gold_values` are the answers' own, in one order."""

    step: int
    kl: float
    proxy: Interval
    gold: Interval
    proxy_values: tuple[float, ...]
    gold_values: tuple[float, ...]


def observe(step: int, kl: float, proxy: ArrayLike, gold: ArrayLike) -> Observation:
    """Summarize the scores of the answers sampled at a step. Raises ValueError when the two differ in length."""
    p, g = np.asarray(proxy, dtype=np.float64).ravel(), np.asarray(gold, dtype=np.float64).ravel()
    if p.size != g.size:
        raise ValueError(f"{p.size} proxy rewards but {g.size} gold scores: score the same answers with both")
    return Observation(step, kl, mean_interval(p), mean_interval(g), tuple(p.tolist()), tuple(g.tolist()))


@dataclass(frozen=True)
class Alarm:
    """Between `since_step` and `step` the proxy rose by `proxy_change` while gold fell by −`gold_change`; both
    intervals exclude 0 at the monitor's confidence."""

    since_step: int
    step: int
    proxy_change: Interval
    gold_change: Interval

    def message(self) -> str:
        """One line for people."""
        return (
            f"reward hacking: from step {self.since_step} to {self.step} the proxy rose by "
            f"{self.proxy_change.value:.2f} while gold fell by {-self.gold_change.value:.2f} "
            f"(between {-self.gold_change.high:.2f} and {-self.gold_change.low:.2f})"
        )


def difference_of_means(later: ArrayLike, earlier: ArrayLike, confidence: float) -> Interval:
    """mean(later) − mean(earlier) with Welch's interval; the answers need not be to the same prompts. Two values or
    more are needed on each side."""
    a, b = np.asarray(later, dtype=np.float64), np.asarray(earlier, dtype=np.float64)
    if min(a.size, b.size) < 2:
        raise ValueError("a difference of means needs at least 2 values on each side")
    va, vb = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    change, n = float(a.mean() - b.mean()), int(min(a.size, b.size))
    if va + vb == 0:
        return Interval(change, change, change, n)
    freedom = (va + vb) ** 2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1))
    half = float(stats.t.ppf(0.5 + confidence / 2, freedom) * math.sqrt(va + vb))
    return Interval(change, change - half, change + half, n)


def check(history: Sequence[Observation], false_alarm_rate: float = 0.01) -> Alarm | None:
    """Whether the newest observation shows over-optimisation against any earlier one: the proxy rose and gold fell,
    both beyond their intervals. Of the earlier observations that show it, the one that gold fell furthest from.

    Looking often must not raise false alarms: look k compares k − 1 pairs, each at the one-sided rate
    false_alarm_rate / (k (k − 1)²). Over any number of looks these sum to at most `false_alarm_rate`, the chance of an
    alarm in a run whose gold never falls.
    """
    if len(history) < 2:
        return None
    *earlier, newest = history
    confidence = 1 - 2 * false_alarm_rate / (len(history) * len(earlier) ** 2)
    found: list[Alarm] = []
    for old in earlier:
        if newest.proxy.value <= old.proxy.value or newest.gold.value >= old.gold.value:
            continue
        proxy = difference_of_means(newest.proxy_values, old.proxy_values, confidence)
        gold = difference_of_means(newest.gold_values, old.gold_values, confidence)
        if proxy.low > 0 and gold.high < 0:
            found.append(Alarm(old.step, newest.step, proxy, gold))
    return min(found, key=lambda alarm: alarm.gold_change.value, default=None)


def first_alarm(history: Sequence[Observation], false_alarm_rate: float = 0.01) -> Alarm | None:
    """The alarm that `check` would have raised first, had it been asked after every observation."""
    for end in range(2, len(history) + 1):
        alarm = check(history[:end], false_alarm_rate)
        if alarm is not None:
            return alarm
    return None


def repeated_share(tokens: Sequence[int], n: int = 3) -> float:
    """Share of n-grams that occurred before in the same answer: 0 in varied text, near 1 in a loop."""
    grams = Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
    total = sum(grams.values())
    return 1 - len(grams) / total if total else 0.0


# -- the laws ------------------------------------------------------------------------------------------------------


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


def best_checkpoint(history: Sequence[Observation], key: Callable[[Observation], float] | None = None) -> Observation:
    """The observation with the highest mean gold (or `key`): what a run that was stopped by an alarm should keep."""
    return max(history, key=key or (lambda o: o.gold.value))
