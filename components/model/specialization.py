"""Which expert takes which kind of token: mutual information between expert and document source, with what chance
alone would give and an interval.

Axis letters: W windows of text, S sources, E experts.

Tokens of one window are alike, so that counting them as independent would find information where there is none. All
resampling is therefore of whole windows: chance is what windows with shuffled sources show, and it is taken off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.statistics import Interval

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Specialization:
    """Of one layer. bits: I(expert; source) with chance taken off; share: the same as a share of the source's entropy
    (0: an expert tells nothing of the source, 1: it tells the source); both over `n` windows, 95%. chance_bits: the
    mean of shuffled sources; p_value: share of shuffles that show at least as much (the observed one counted in).
    by_source_SE: the share of each source's assignments that each expert takes; rows sum to 1."""

    bits: Interval
    share: Interval
    chance_bits: float
    p_value: float
    by_source_SE: FloatArray


def mutual_information(joint: FloatArray) -> FloatArray:
    """I(A; B) in nats from counts [..., A, B], the plug-in estimate; shape [...]. An empty table gives 0."""
    p = joint / np.maximum(joint.sum((-2, -1), keepdims=True), 1e-300)
    outer = p.sum(-1, keepdims=True) * p.sum(-2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / outer), 0.0)
    return np.asarray(terms.sum((-2, -1)))


def specialization(
    counts_WE: NDArray[np.integer], source_W: NDArray[np.integer], seed: int, resamples: int = 500
) -> Specialization:
    """From the assignments that each window sent to each expert, and each window's source (0 … S - 1).

    `resamples` shuffles give chance; as many bootstrap samples, windows drawn within their source, give the interval:
    the estimate plus the spread of the samples around their own mean, since a bootstrap of a mutual information is
    biased upwards as the estimate itself is.

    Raises ValueError when there are fewer than two sources, or fewer than two windows of one.
    """
    per_source = np.bincount(source_W)
    if len(per_source) < 2 or per_source.min() < 2:
        raise ValueError(f"windows by source are {per_source.tolist()}: give at least two of each of two sources")
    rng = np.random.default_rng(seed)
    counts = counts_WE.astype(np.float64)
    is_source_SW = (source_W == np.arange(len(per_source))[:, None]).astype(np.float64)
    observed_SE = is_source_SW @ counts
    nats = float(mutual_information(observed_SE))
    shuffled_RSE = np.stack([is_source_SW[:, rng.permutation(len(source_W))] @ counts for _ in range(resamples)])
    by_chance_R = mutual_information(shuffled_RSE)
    drawn_RSE = np.stack(
        [
            rng.multinomial(size, np.full(size, 1 / size), resamples) @ counts[source_W == source]
            for source, size in enumerate(per_source)
        ],
        axis=1,
    )
    drawn_R = mutual_information(drawn_RSE)
    low, high = np.quantile(drawn_R - drawn_R.mean(), [0.025, 0.975])
    tokens_S = observed_SE.sum(1) / observed_SE.sum()
    entropy = float(-(tokens_S * np.log(tokens_S)).sum())
    value = nats - float(by_chance_R.mean())

    def scaled(unit: float) -> Interval:
        return Interval(value / unit, (value + float(low)) / unit, (value + float(high)) / unit, len(source_W))

    return Specialization(
        bits=scaled(np.log(2)),
        share=scaled(entropy),
        chance_bits=float(by_chance_R.mean() / np.log(2)),
        p_value=float((1 + (by_chance_R >= nats).sum()) / (1 + resamples)),
        by_source_SE=observed_SE / observed_SE.sum(1, keepdims=True),
    )
