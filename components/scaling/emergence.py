"""Is a jump in ability in the model or in the metric? Sharp against smooth, after Schaeffer et al. (2023).

Exact match on an answer of L tokens needs all of them right, so a per-token log-probability that improves smoothly
with size can show as a sudden jump: exact match ≈ p^L with p the geometric-mean probability of a token (eq. 3).

The smooth metric is the log-probability of the tokens that have to be computed. Those that an answer only copies from
the question are soon certain at every size, and would smooth away whatever happens to the others. What p^L foretells
is how often a sample at temperature 1 writes the whole right answer, so that is what it is held against, and not the
greedy answer, which is right far more often.

Shapes: R trainings, n items (the same for all), Z sizes, B bootstrap draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from components.scaling.emergence_shape import EmergenceShape, emergence_shape
from components.statistics import Interval, wilson

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class EmergenceRow:
    """One training on the evaluation items, which are the same, in the same order, for all. `exact_match`: shape (n,),
    0 or 1 an item, of the greedy answer; `token_log_probs`: for each item, the log-probability (nats) of each token of
    the right answer, given those before it; `computed`: for each of these tokens, whether it has to be computed."""

    num_params: float
    exact_match: Sequence[int] | Sequence[bool]
    token_log_probs: Sequence[Sequence[float]]
    computed: Sequence[Sequence[bool]]
    seed: int = 0

    def __post_init__(self) -> None:
        n, row = len(self.exact_match), f"the row of {self.num_params:g} parameters, seed {self.seed}"
        if n == 0:
            raise ValueError(f"{row} has no items")
        if not len(self.token_log_probs) == len(self.computed) == n:
            raise ValueError(
                f"{row} has {n} exact matches, {len(self.token_log_probs)} lists of log-probabilities and "
                f"{len(self.computed)} of marks: one of each an item is needed"
            )
        for item, (tokens, marks) in enumerate(zip(self.token_log_probs, self.computed, strict=True)):
            if not len(tokens):
                raise ValueError(f"{row}: item {item} has no answer tokens")
            if len(tokens) != len(marks):
                raise ValueError(f"{row}: item {item} has {len(tokens)} tokens and {len(marks)} marks")
            if not all(t <= 0 for t in tokens):  # also false for nan
                raise ValueError(f"{row}: item {item} has a log-probability above 0 or nan")
        if not any(any(marks) for marks in self.computed):
            raise ValueError(f"{row}: no token has to be computed, so nothing can emerge")


@dataclass(frozen=True)
class EmergencePoint:
    """What one size shows, as means over its `trainings`. `accuracy` (sharp): exact match of greedy answers;
    `accuracies`: of each training.
    `log_prob` (smooth): of a computed token, in nats; `copied_log_prob`: of all others. `sampled`: probability that a
    sample at temperature 1 writes the whole right answer; `expected`: the same if all tokens were independent and had
    this size's mean log-probability, mean of p^L over items (eq. 3)."""

    num_params: float
    trainings: int
    accuracies: tuple[float, ...]
    accuracy: Interval
    log_prob: Interval
    copied_log_prob: float
    sampled: Interval
    expected: Interval


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
    """Points by rising size, with scores and jumps of both metrics, and the shape of the rise (None for fewer than
    three sizes). A score is None where it is undefined; an end of a
    score's interval is infinite where it is undefined in that many draws. `sharper`: sharp minus smooth score, paired.
    `rise`: of exact match in its largest jump. `expected_error`: mean absolute gap between `sampled` and `expected`."""

    points: tuple[EmergencePoint, ...]
    sharp_score: Interval | None
    smooth_score: Interval | None
    sharper: Interval | None
    sharp_jump: Jump
    smooth_jump: Jump
    rise: Interval
    trainings: int
    expected_error: float
    warnings: tuple[str, ...]
    shape: EmergenceShape | None = None


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
    rows: Sequence[EmergenceRow], seed: int = 0, resamples: int = 1000, confidence: float = 0.95
) -> EmergenceReport:
    """Compare the sharp metric with the smooth one over model sizes, and sampled answers with what p^L foretells.

    Intervals: bootstrap over the items, drawn alike for all sizes, and over the trainings of each size where it has
    several, whose spread is widened to that of Student's t (a plain bootstrap of three is far too narrow); that of an
    accuracy is at least as wide as Wilson's over the items.

    Raises ValueError for fewer than two sizes, for one seed twice at a size, and for unlike numbers of items.
    """
    by_size: dict[float, list[EmergenceRow]] = {}
    for row in sorted(rows, key=lambda row: (row.num_params, row.seed)):
        by_size.setdefault(row.num_params, []).append(row)
    sizes = list(by_size)
    if len(sizes) < 2:
        raise ValueError(f"emergence needs at least two model sizes, got {len(sizes)}")
    for size, trained in by_size.items():
        if len({row.seed for row in trained}) < len(trained):
            raise ValueError(f"the size of {size:g} parameters is given twice with one seed")
    if len({len(row.exact_match) for row in rows}) > 1:
        raise ValueError("every training must answer the same items, but their numbers differ")
    tables = [np.array([_item_table(row) for row in trained]) for trained in by_size.values()]
    num_items = tables[0].shape[1]
    rng = np.random.default_rng(seed)
    found = np.stack([_metrics(table, np.ones(num_items)).mean(axis=0) for table in tables], axis=1)
    drawn_BMZ = np.array([_drawn(tables, confidence, rng) for _ in range(resamples)])
    ends = [0.5 - confidence / 2, 0.5 + confidence / 2]
    low_MZ, high_MZ = np.quantile(drawn_BMZ, ends, axis=0)

    def interval(metric: int, size: int) -> Interval:
        return Interval(
            float(found[metric, size]), float(low_MZ[metric, size]), float(high_MZ[metric, size]), num_items
        )

    points = tuple(
        EmergencePoint(
            num_params=size,
            trainings=len(by_size[size]),
            accuracies=tuple(float(x) for x in tables[z][:, :, 0].mean(axis=1)),
            accuracy=_at_least_wilson(interval(0, z), confidence),
            log_prob=interval(1, z),
            copied_log_prob=float(found[2, z]),
            sampled=interval(3, z),
            expected=interval(4, z),
        )
        for z, size in enumerate(sizes)
    )
    sharp_jump = largest_jump(sizes, found[0])
    at = sizes.index(sharp_jump.below)
    rises = drawn_BMZ[:, 0, at + 1] - drawn_BMZ[:, 0, at]
    low, high = np.quantile(rises, ends)
    scores = [emergence_score(found[metric]) for metric in (0, 1)]
    scores_BM = np.array([[_or_infinite(emergence_score(draw[metric])) for metric in (0, 1)] for draw in drawn_BMZ])
    why = "half or more of its steps are 0" if len(sizes) > 2 else "it needs three sizes or more"
    warnings = [
        f"the emergence score of {name} is undefined: {why}"
        for name, score in zip(("exact match", "the log-probability"), scores, strict=True)
        if score is None
    ]
    if all(p.accuracy.low <= points[0].accuracy.high for p in points):
        warnings.append("no size is clearly better than the smallest: there is no jump to explain")
    fewest = min(point.trainings for point in points)
    if fewest == 1:
        warnings.append("one training a size: the intervals are over items alone")
    return EmergenceReport(
        points=points,
        sharp_score=_score_interval(scores[0], scores_BM[:, 0], ends, num_items),
        smooth_score=_score_interval(scores[1], scores_BM[:, 1], ends, num_items),
        sharper=_sharper(scores, scores_BM, ends, num_items),
        sharp_jump=sharp_jump,
        smooth_jump=largest_jump(sizes, found[1]),
        rise=Interval(sharp_jump.size, float(low), float(high), num_items),
        trainings=fewest,
        expected_error=float(np.abs(found[3] - found[4]).mean()),
        warnings=tuple(warnings),
        shape=emergence_shape(sizes, [p.accuracies for p in points], [p.log_prob.value for p in points], num_items)
        if len(sizes) > 2
        else None,
    )


def _item_table(row: EmergenceRow) -> FloatArray:
    """Of each item: exact match; sum and number of computed, then of other log-probabilities. Shape (n, 5)."""
    table = []
    for right, tokens, marks in zip(row.exact_match, row.token_log_probs, row.computed, strict=True):
        computed = [t for t, mark in zip(tokens, marks, strict=True) if mark]
        other = [t for t, mark in zip(tokens, marks, strict=True) if not mark]
        table.append([float(right), math.fsum(computed), len(computed), math.fsum(other), len(other)])
    return np.array(table)


def _drawn(tables: Sequence[FloatArray], confidence: float, rng: np.random.Generator) -> FloatArray:
    """One bootstrap draw of the metrics; shape (5, Z)."""
    num_items = tables[0].shape[1]
    weight_n = np.bincount(rng.integers(0, num_items, num_items), minlength=num_items).astype(np.float64)
    columns = []
    for table in tables:
        by_training, count = _metrics(table, weight_n), len(table)
        mean = by_training.mean(axis=0)
        off = by_training[rng.integers(0, count, count)].mean(axis=0) - mean
        columns.append(np.clip(mean + _widened(count, confidence) * off, _LOWEST, _HIGHEST))
    return np.stack(columns, axis=1)


_LOWEST, _HIGHEST = np.array([0.0, -math.inf, -math.inf, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 1.0, 1.0])


@cache
def _widened(trainings: int, confidence: float) -> float:
    """By how much the deviations of a bootstrapped mean of few fall short of Student's t: √(R/(R-1)) · t/z."""
    if trainings == 1:
        return 0.0
    t, z = (float(law.ppf(0.5 + confidence / 2)) for law in (stats.t(trainings - 1), stats.norm()))
    return math.sqrt(trainings / (trainings - 1)) * t / z


def _metrics(table: FloatArray, weight_n: FloatArray) -> FloatArray:
    """Of each training of a size: accuracy, log-probability of computed tokens, of others, sampled match, p^L; shape
    (R, 5). `table`: shape (R, n, 5); `weight_n`: how often each item counts."""
    exact, computed, num_computed, other, num_other = np.moveaxis(table, -1, 0)
    length, total = num_computed + num_other, computed + other
    # p pools all tokens of a training, so that p^L is what its mean foretells and no restatement of each item.
    mean_R1 = ((total @ weight_n) / (length @ weight_n))[:, None]
    items = weight_n.sum()
    return np.stack(
        [
            (exact @ weight_n) / items,
            (computed @ weight_n) / (num_computed @ weight_n),
            (other @ weight_n) / np.maximum(num_other @ weight_n, 1.0),
            (np.exp(total) @ weight_n) / items,
            (np.exp(mean_R1 * length) @ weight_n) / items,
        ],
        axis=1,
    )


def _at_least_wilson(x: Interval, confidence: float) -> Interval:
    """Where all trainings have all or no items right, a bootstrap has no width."""
    items = wilson(round(x.value * x.n), x.n, confidence)
    return Interval(x.value, min(x.low, items.low, x.value), max(x.high, items.high, x.value), x.n)


def _or_infinite(score: float | None) -> float:
    return math.inf if score is None else score


def _score_interval(score: float | None, drawn_B: FloatArray, ends: Sequence[float], n: int) -> Interval | None:
    if score is None:
        return None
    low, high = np.quantile(drawn_B, ends, method="nearest")
    return Interval(score, float(low), float(high), n)


def _sharper(scores: Sequence[float | None], scores_BM: FloatArray, ends: Sequence[float], n: int) -> Interval | None:
    sharp, smooth = scores
    if sharp is None or smooth is None:
        return None
    with np.errstate(invalid="ignore"):
        gap_B = scores_BM[:, 0] - scores_BM[:, 1]
    # Undefined on both sides says nothing for either: such draws count at both ends.
    unknown = np.isnan(gap_B)
    low = np.quantile(np.where(unknown, -math.inf, gap_B), ends[0], method="nearest")
    high = np.quantile(np.where(unknown, math.inf, gap_B), ends[1], method="nearest")
    return Interval(sharp - smooth, float(low), float(high), n)
