"""What a reward model is worth on pairs that it was not trained on: accuracy by group, calibration, length, best-of-4.

Margins are in log-odds: score(chosen) − score(rejected) as the loss of Bradley–Terry has it, before `calibrate` scales
scores (else divided by `gain`). The pairs of one request are alike, so every interval is over requests: functions take
the request of each pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from components.statistics import (
    Interval,
    clustered_least_squares,
    clustered_mean_interval,
    clustered_share_interval,
)


def accuracy_by(correct: Sequence[bool], groups: Sequence[str], requests: Sequence[object]) -> dict[str, Interval]:
    """Share of correct pairs in each group with its interval over requests, groups in alphabetical order."""
    members: dict[str, list[int]] = {}
    for pair, (group, _) in enumerate(zip(groups, requests, strict=True)):
        members.setdefault(group, []).append(pair)
    return {
        group: clustered_share_interval([correct[i] for i in pairs], [requests[i] for i in pairs])
        for group, pairs in sorted(members.items())
    }


def confidence_group(confidence: float | None) -> str:
    """The group of pairs that an annotator's confidence (0 to 1) belongs to."""
    if confidence is None:
        return "not asked"
    edges = (0.6, 0.75, 0.9)
    names = ("below 0.6", "0.6 to 0.75", "0.75 to 0.9", "0.9 and above")
    return names[sum(confidence >= edge for edge in edges)]


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs whose predicted winner has a probability in [low, high): its mean, how often that answer was chosen (over
    requests), and how many pairs they are."""

    low: float
    high: float
    predicted: float
    chosen: Interval
    num_pairs: int


@dataclass(frozen=True)
class Calibration:
    """`ece`: mean |predicted − observed| over the bins, weighted by their pairs (Naeini et al. 2015). With few pairs it
    is above 0 for a perfect model too: `ece_if_perfect` is what sampling alone gives on average, in 200 draws."""

    bins: tuple[CalibrationBin, ...]
    ece: float
    ece_if_perfect: float


def calibration(margins: ArrayLike, requests: Sequence[object], num_bins: int = 5, seed: int = 0) -> Calibration:
    """How far the probability that the model gives its favourite, σ(|margin|) in [0.5, 1], is the share of pairs in
    which people chose it. Bins of equal width; empty ones are left out. Raises ValueError without margins."""
    m = np.asarray(margins, dtype=np.float64).ravel()
    if len(requests) != m.size:
        raise ValueError(f"calibration needs a request for each margin, got {len(requests)} for {m.size}")
    if not m.size or not np.isfinite(m).all():
        raise ValueError("calibration needs at least one margin, and all of them finite")
    predicted = 1 / (1 + np.exp(-np.minimum(np.abs(m), 700.0)))
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    place = np.clip(np.digitize(predicted, edges) - 1, 0, num_bins - 1)

    def error(chosen: np.ndarray) -> float:
        return float(
            sum(abs((predicted - chosen)[place == b].sum()) for b in range(num_bins) if (place == b).any()) / m.size
        )

    bins = tuple(
        CalibrationBin(
            float(edges[b]),
            float(edges[b + 1]),
            float(predicted[place == b].mean()),
            clustered_share_interval(m[place == b] > 0, [requests[i] for i in np.flatnonzero(place == b).tolist()]),
            int((place == b).sum()),
        )
        for b in range(num_bins)
        if (place == b).any()
    )
    rng = np.random.default_rng(seed)
    by_chance = [error((rng.random(m.size) < predicted).astype(float)) for _ in range(200)]
    return Calibration(bins, error((m > 0).astype(float)), float(np.mean(by_chance)))


@dataclass(frozen=True)
class LengthBias:
    """correlation: of score with length in tokens over answers. slope: score per token, by least squares, with its
    interval. longer_wins: how often the longer answer of a pair was chosen. model_prefers_longer: how often the
    model scores it higher. accuracy_longer, accuracy_shorter: accuracy where the chosen answer is the longer, the
    shorter one. None where there is no such pair."""

    correlation: float
    slope: Interval | None
    longer_wins: Interval | None
    model_prefers_longer: Interval | None
    accuracy_longer: Interval | None
    accuracy_shorter: Interval | None


def length_bias(
    chosen_scores: ArrayLike,
    rejected_scores: ArrayLike,
    chosen_lengths: ArrayLike,
    rejected_lengths: ArrayLike,
    requests: Sequence[object],
) -> LengthBias:
    """What length has to do with the reward, from pairs. One score and one length in tokens per answer."""
    c, r, nc, nr = (
        np.asarray(x, dtype=np.float64).ravel()
        for x in (chosen_scores, rejected_scores, chosen_lengths, rejected_lengths)
    )
    scores, lengths = np.concatenate([c, r]), np.concatenate([nc, nr])
    varied = lengths.size >= 3 and lengths.std() > 0
    longer, shorter = nc > nr, nc < nr
    unequal = longer | shorter

    def share(what: np.ndarray, among: np.ndarray) -> Interval | None:
        pairs = np.flatnonzero(among)
        return clustered_share_interval(what[pairs], [requests[i] for i in pairs.tolist()]) if pairs.size else None

    return LengthBias(
        float(np.corrcoef(scores, lengths)[0, 1]) if varied and scores.std() > 0 else math.nan,
        clustered_least_squares(np.stack([np.ones_like(lengths), lengths], 1), scores, [*requests, *requests])[1]
        if varied
        else None,
        share(longer, unequal),
        share(np.where(longer, c > r, r > c), unequal),
        share(c > r, longer),
        share(c > r, shorter),
    )


def best_of_four(scores: Sequence[Sequence[float]], best: Sequence[int], requests: Sequence[object]) -> Interval:
    """How often the highest score of four answers is that of the best one; chance is 25%. Ties count as a share.
    `requests`: of each four. Raises ValueError when a group has other than four scores."""
    hits = []
    for group, index in zip(scores, best, strict=True):
        if len(group) != 4:
            raise ValueError(f"a group of {len(group)} answers: best-of-4 accuracy takes four")
        top = [i for i, score in enumerate(group) if score == max(group)]
        hits.append((index in top) / len(top))
    if all(hit in (0.0, 1.0) for hit in hits):
        return clustered_share_interval([bool(hit) for hit in hits], requests)
    return clustered_mean_interval(hits, requests)


def groups_of_four(answers_by_prompt: Sequence[Sequence[tuple[int, float]]]) -> list[tuple[list[int], int, int]]:
    """Fours of answers to one prompt, each as (ids, place of the best, number of the prompt), from (id, worth) of every
    answer; fours without a single best answer are left out, and so are the answers that are left over."""
    made = []
    for prompt, answers in enumerate(answers_by_prompt):
        for start in range(0, len(answers) - 3, 4):
            four = answers[start : start + 4]
            worths = [worth for _, worth in four]
            if worths.count(max(worths)) == 1:
                made.append(([i for i, _ in four], worths.index(max(worths)), prompt))
    return made
