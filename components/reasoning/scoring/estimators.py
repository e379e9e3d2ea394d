"""maj@k and pass@k of an item over all of its n samples: the mean over its subsets of k, not the first k.

An answer is a class of equal answers; a sample without one abstains. A vote goes to the answer with the most samples,
and one that is tied is split evenly among the answers on top. A subset in which all abstain is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from math import comb

import numpy as np

MAX_EXACT = 1_000_000  # of n · k · (number of classes); 326,400 take 21 ms
NUM_SUBSETS = 400  # where that is passed


def pass_at_k(n: int, right: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold a right one (Chen et al. 2021, equation 1).

    Raises ValueError unless 1 ≤ k ≤ n and 0 ≤ right ≤ n.
    """
    _check(n, k)
    if not 0 <= right <= n:
        raise ValueError(f"right must lie in 0..n, got {right} of n={n}")
    return 1.0 - comb(n - right, k) / comb(n, k)


def maj_at_k(right_counts: Sequence[int], wrong_counts: Sequence[int], abstained: int, k: int, seed: int = 0) -> float:
    """Expected share of the vote of k of n samples, drawn without replacement, that is right.

    Args:
        right_counts, wrong_counts: samples of each class of answers that is right, or wrong.
        abstained: samples without an answer; n is the sum of all.
        k: samples that vote.
        seed: of the subsets that are drawn where the sum over all would take long (see `is_exact`).

    Raises ValueError unless 1 ≤ k ≤ n.
    """
    right, wrong = tuple(sorted(c for c in right_counts if c)), tuple(sorted(c for c in wrong_counts if c))
    n = sum(right) + sum(wrong) + abstained
    _check(n, k)
    if k == n:
        return _vote(right, wrong)
    if is_exact(n, len(right) + len(wrong), k):
        return _exact(right, wrong, abstained, k)
    return _sampled(right, wrong, abstained, k, seed)


def is_exact(n: int, classes: int, k: int) -> bool:
    """Whether `maj_at_k` sums over all subsets, and does not draw 400 of them."""
    return k == n or n * k * classes <= MAX_EXACT


def _check(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k must lie in 1..n, got k={k} of n={n} samples")


def _vote(right: Sequence[int], wrong: Sequence[int]) -> float:
    top = max((*right, *wrong), default=0)
    tied = right.count(top), wrong.count(top)
    return tied[0] / sum(tied) if top else 0.0


@lru_cache(maxsize=65536)
def _exact(right: tuple[int, ...], wrong: tuple[int, ...], abstained: int, k: int) -> float:
    """Σ over right answers a and votes v of P(a has v, none has more) / (answers with v).

    ways[s, t] counts the choices among the answers so far of s samples in all, t of the answers having v and none more.
    """
    n, total = sum(right) + sum(wrong) + abstained, 0.0
    for place, own in enumerate(right):
        others = (*right[:place], *right[place + 1 :], *wrong)
        for votes in range(1, min(own, k) + 1):
            left = k - votes
            ways = np.zeros((left + 1, left // votes + 1))
            for s in range(min(abstained, left) + 1):
                ways[s, 0] = comb(abstained, s)
            for count in others:
                ways = _with(ways, count, votes)
            shares = ways[left] / np.arange(1, ways.shape[1] + 1)
            total += comb(own, votes) * float(shares.sum())
    return total / comb(n, k)


def _with(ways: np.ndarray, count: int, votes: int) -> np.ndarray:
    """With one more answer, of `count` samples."""
    after = ways.copy()  # none of its samples is drawn
    for drawn in range(1, min(count, votes, len(ways) - 1) + 1):
        if drawn < votes:
            after[drawn:] += comb(count, drawn) * ways[:-drawn]
        elif ways.shape[1] > 1:
            after[drawn:, 1:] += comb(count, drawn) * ways[:-drawn, :-1]
    return after


def _sampled(right: Sequence[int], wrong: Sequence[int], abstained: int, k: int, seed: int) -> float:
    rng = random.Random(f"maj@{k}-{seed}")
    counts = (*right, *wrong)
    labels = [label for label, count in enumerate(counts) for _ in range(count)] + [-1] * abstained
    total = 0.0
    for _ in range(NUM_SUBSETS):
        drawn = np.bincount([label for label in rng.sample(labels, k) if label >= 0], minlength=len(counts)).tolist()
        total += _vote(drawn[: len(right)], drawn[len(right) :])
    return total / NUM_SUBSETS
