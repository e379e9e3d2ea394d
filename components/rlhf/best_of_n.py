"""Best-of-n: the answer that the reward model likes best of n samples, and what that gains and costs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ one sample) = log n − (n − 1)/n nats (Stiennon et al. 2020, app. G.3). Exact where no two samples
    tie; an upper bound otherwise (Beirami et al. 2024, arXiv 2401.01879)."""
    if n < 1:
        raise ValueError(f"best of {n}: give an n of at least 1")
    return math.log(n) - (n - 1) / n


def best_of_n_weights(scores: ArrayLike, n: int) -> NDArray[np.float64]:
    """Probability of each of N samples to be the best-scored of n drawn without replacement, shape [N].

    The i-th smallest (from 1) wins C(i−1, n−1) of the C(N, n) subsets (Nakano et al. 2021, app. I); samples that tie
    share evenly. Raises ValueError unless 1 <= n <= N.
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 1 or not 1 <= n <= s.size:
        raise ValueError(f"best of {n} needs at least {n} scored samples, got shape {s.shape}")
    order = np.argsort(s, kind="stable")
    log_all = _log_choose(s.size, n)
    wins = np.array([math.exp(_log_choose(i, n - 1) - log_all) if i >= n - 1 else 0.0 for i in range(s.size)])
    weights = np.empty(s.size)
    weights[order] = wins
    for value in np.unique(s):
        tied = s == value
        weights[tied] = weights[tied].mean()
    return weights


def best_of_n_value(scores: ArrayLike, values: ArrayLike, n: int) -> float:
    """Unbiased estimate of the expected value (gold, say) of the best-scored of n fresh samples, from N >= n samples of
    one prompt. With `values` equal to `scores` it is the expected score itself."""
    return float(best_of_n_weights(scores, n) @ np.asarray(values, dtype=np.float64))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
