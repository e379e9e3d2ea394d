"""Is a jump in ability in the model or in the metric? Sharp against smooth, after Schaeffer et al. (2023).

Exact match on an answer of L tokens needs all of them right, so a per-token log-probability that improves smoothly
with size can show as a sudden jump: exact match ≈ p^L with p the geometric-mean probability of a token (eq. 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.statistics import Interval, bootstrap, wilson

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class EmergenceRow:
    """One model size on the evaluation items. `exact_match`: shape (n,), 0 or 1 an item; `token_log_probs`: for each
    item, the log-probability (nats) of each token of the right answer, given those before it."""

    num_params: float
    exact_match: Sequence[int] | Sequence[bool]
    token_log_probs: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        n = len(self.exact_match)
        if n == 0:
            raise ValueError(f"the row of {self.num_params:g} parameters has no items")
        if len(self.token_log_probs) != n:
            raise ValueError(
                f"the row of {self.num_params:g} parameters has {n} exact matches and "
                f"{len(self.token_log_probs)} lists of log-probabilities: one of each an item is needed"
            )
        for item, tokens in enumerate(self.token_log_probs):
            if not len(tokens):
                raise ValueError(f"the row of {self.num_params:g} parameters: item {item} has no answer tokens")
            if not all(t <= 0 for t in tokens):  # also false for nan
                raise ValueError(
                    f"the row of {self.num_params:g} parameters: item {item} has a log-probability above 0 or nan"
                )


@dataclass(frozen=True)
class EmergencePoint:
    """What one size shows. `accuracy` (sharp), `log_prob` per token in nats (smooth), `expected`: the exact match that
    independent tokens of this size's mean log-probability would give, mean of p^L over items (eq. 3); `correct_tokens`
    is p = exp(log_prob)."""

    num_params: float
    accuracy: Interval
    log_prob: Interval
    expected: Interval

    @property
    def correct_tokens(self) -> float:
        return math.exp(self.log_prob.value)


@dataclass(frozen=True)
class Jump:
    """The largest step of a metric between neighbouring sizes: from `below` to `above` parameters, by `size`;
    `share` of the metric's whole range, 1 for a step function; 1/(sizes - 1) for an even climb."""

    below: float
    above: float
    size: float
    share: float


@dataclass(frozen=True)
class EmergenceReport:
    """Points by rising size, with scores and jumps of both metrics. A score is None where it is undefined."""

    points: tuple[EmergencePoint, ...]
    sharp_score: float | None
    smooth_score: float | None
    sharp_jump: Jump
    smooth_jump: Jump
    expected_error: float
    warnings: tuple[str, ...]


def emergence_score(values: ArrayLike) -> float | None:
    """sign(argmax - argmin) · (max - min) / √median(Δ²) over sizes in rising order (Schaeffer et al. 2023, section 5).

    None where it is undefined: half or more of the Δ are 0 (the score would be infinite, however small the jump), or
    fewer than three values.
    """
    y = np.asarray(values, dtype=np.float64)
    if y.size < 3:
        return None
    typical = math.sqrt(float(np.median(np.diff(y) ** 2)))
    # Differences of equal accuracies may be 1e-17 rather than 0.
    if typical <= 1e-12 * max(1.0, float(np.abs(y).max())):
        return None
    return float(np.sign(int(y.argmax()) - int(y.argmin())) * (y.max() - y.min()) / typical)


def largest_jump(sizes: ArrayLike, values: ArrayLike) -> Jump:
    """Between which neighbouring sizes (rising order) the metric changes most. Raises ValueError for one size."""
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.size < 2:
        raise ValueError(f"a jump needs at least two sizes, got {x.size}")
    steps = np.diff(y)
    at = int(np.abs(steps).argmax())
    spread = float(y.max() - y.min())
    return Jump(float(x[at]), float(x[at + 1]), float(steps[at]), abs(float(steps[at])) / spread if spread else 0.0)


def analyse_emergence(
    rows: Sequence[EmergenceRow], seed: int = 0, resamples: int = 500, confidence: float = 0.95
) -> EmergenceReport:
    """Compare the sharp metric with the smooth one over model sizes, and with the exact match that p^L foretells.

    Intervals: Wilson for accuracy, bootstrap over items for the log-probability a token and the expected exact match.
    `expected_error` is the mean absolute gap between observed and expected accuracy.

    Raises ValueError for fewer than two sizes or a size given twice.
    """
    ordered = sorted(rows, key=lambda r: r.num_params)
    sizes = [r.num_params for r in ordered]
    if len(ordered) < 2:
        raise ValueError(f"emergence needs at least two model sizes, got {len(ordered)}")
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"a model size is given twice: {sizes}. Merge the items of equal sizes first")
    points = []
    for row in ordered:
        sums = np.array([math.fsum(t) for t in row.token_log_probs])
        lengths = np.array([len(t) for t in row.token_log_probs], dtype=np.float64)
        pairs = np.stack([sums, lengths], axis=1)
        points.append(
            EmergencePoint(
                row.num_params,
                wilson(int(np.sum(np.asarray(row.exact_match, dtype=bool))), len(row.exact_match), confidence),
                bootstrap(_mean_log_prob, pairs, seed, resamples, confidence),
                bootstrap(_expected_exact_match, pairs, seed, resamples, confidence),
            )
        )
    accuracy = [p.accuracy.value for p in points]
    smooth = [p.log_prob.value for p in points]
    warnings = []
    sharp_score, smooth_score = emergence_score(accuracy), emergence_score(smooth)
    if sharp_score is None:
        warnings.append("the emergence score of exact match is undefined: half or more of its steps are 0")
    if smooth_score is None:
        warnings.append("the emergence score of the log-probability is undefined: half or more of its steps are 0")
    if all(p.accuracy.low <= points[0].accuracy.high for p in points):
        warnings.append("no size is clearly better than the smallest: there is no jump to explain")
    return EmergenceReport(
        points=tuple(points),
        sharp_score=sharp_score,
        smooth_score=smooth_score,
        sharp_jump=largest_jump(sizes, accuracy),
        smooth_jump=largest_jump(sizes, smooth),
        expected_error=float(np.mean([abs(p.accuracy.value - p.expected.value) for p in points])),
        warnings=tuple(warnings),
    )


def _mean_log_prob(pairs: NDArray[np.generic]) -> float:
    """Mean log-probability a token over all tokens; `pairs` as below."""
    array = np.asarray(pairs, dtype=np.float64)
    return float(array[:, 0].sum() / array[:, 1].sum())


def _expected_exact_match(pairs: NDArray[np.generic]) -> float:
    """Mean over items of p^L; `pairs`: shape (n, 2), summed log-probability and length of each answer.

    p pools all tokens, so that this is what the mean log-probability a token foretells, not a restatement of each
    item's own probability.
    """
    array = np.asarray(pairs, dtype=np.float64)
    return float(np.exp(_mean_log_prob(array) * array[:, 1]).mean())
