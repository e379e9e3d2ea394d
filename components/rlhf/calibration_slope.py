"""How far a reward model's confidence can be taken at its word: one number, with an interval over requests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats
from scipy.special import expit

from components.statistics import Interval, cluster_rows


def calibration_slope(margins: ArrayLike, clusters: Sequence[object], confidence: float = 0.95) -> Interval | None:
    """Slope b of P(chosen > rejected) = sigmoid(b · |margin|) on held-out pairs (Cox 1958, without an intercept, since
    swapping the answers of a pair changes the sign of both sides).

    `margins`: score of the chosen answer less that of the rejected one, in log-odds as the model has them; above 0 the
    model was right. 1 is calibrated; 0 is flat, right as often where it is sure as where it is not; below 0 it is wrong
    most often where it is surest. The interval is Student's t over `clusters` (pairs of one request are not
    independent), of the sandwich variance with G/(G − 1); `n` of the result is G. None where there are fewer than two
    clusters, or all pairs are right or all are wrong, so that no slope fits best.
    """
    m = np.asarray(margins, dtype=np.float64)
    if m.size != len(clusters):
        raise ValueError(f"a slope needs one label per margin, got {m.size} margins and {len(clusters)} labels")
    x, right = np.abs(m), m > 0
    groups = cluster_rows(clusters)
    if len(groups) < 2 or not x.any() or right[x > 0].all() or not right[x > 0].any():
        return None

    def score(b: float) -> float:
        return float(x @ (right - expit(b * x)))

    reach = 1.0 / float(x.max())  # the score falls in b, from above 0 to below it
    while score(-reach) < 0 or score(reach) > 0:
        reach *= 2
    b = float(optimize.brentq(score, -reach, reach, xtol=1e-10))
    p = expit(b * x)
    information = float(np.sum(x * x * p * (1 - p)))
    sums = np.array([float(np.sum(x[rows] * (right[rows] - p[rows]))) for rows in groups])
    error = math.sqrt(len(groups) / (len(groups) - 1) * float(sums @ sums)) / information
    half = float(stats.t.ppf(0.5 + confidence / 2, len(groups) - 1)) * error
    return Interval(b, b - half, b + half, len(groups))
