"""Which model people prefer: Bradley–Terry strengths by maximum likelihood, with ties.

Davidson (1970): P(i beats j) : P(j beats i) : P(tie) = π_i : π_j : ν √(π_i π_j); without ties it is Bradley & Terry's
(1952) model. In θ = log π and log ν the likelihood is concave, and it has a maximum exactly when every two models are
joined by a chain of wins (or ties) in both directions (Ford 1957). The result does not depend on the order of the
comparisons, as Elo ratings do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from components.rlhf.judgements import Comparison
from components.statistics import FloatArray, Interval

_TOLERANCE, _MAX_STEPS = 1e-10, 200


class NotConnected(ValueError):
    """The comparisons do not put all models on one scale. `groups`: models that are comparable among themselves."""

    def __init__(self, message: str, groups: tuple[tuple[str, ...], ...]) -> None:
        super().__init__(message)
        self.groups = groups


@dataclass(frozen=True)
class Ranked:
    """A model's log strength θ, whose mean over models is 0, and its record. `n` of the interval counts comparisons."""

    name: str
    strength: Interval
    wins: int
    losses: int
    ties: int


@dataclass(frozen=True)
class Ranking:
    """Models, best first. `tie`: Davidson's ν, 0 without ties: P(tie) = ν / (2 + ν) between equals."""

    models: tuple[Ranked, ...]
    tie: float
    num_comparisons: int


def rank_models(comparisons: Iterable[Comparison], confidence: float = 0.95) -> Ranking:
    """Strengths with Wald intervals. Where comparisons come in groups, these have Student's quantile, and are the wider
    of those from the information matrix and from the sums of scores by group (Liang & Zeger 1986): answers to one
    prompt are not independent.

    Raises:
        NotConnected: names the groups of models that nothing joins.
        ValueError: fewer than two models, or nothing but ties.
    """
    found = sorted(comparisons, key=lambda c: (c.group, c.a, c.b, c.outcome))
    names = sorted({name for c in found for name in (c.a, c.b)})
    if len(names) < 2:
        raise ValueError(f"a ranking needs comparisons of at least two models, got {', '.join(names) or 'none'}")
    place = {name: i for i, name in enumerate(names)}
    # A row per group and pair (i < j): wins of i, wins of j, ties.
    counted: dict[tuple[str, int, int], FloatArray] = defaultdict(lambda: np.zeros(3))
    for c in found:
        i, j, outcome = place[c.a], place[c.b], c.outcome
        if i == j:
            raise ValueError(f"a comparison of {c.a} with itself says nothing")
        if outcome not in (0, 0.5, 1):
            raise ValueError(f"{c.a} against {c.b}: an outcome is 1, 0 or 0.5, got {outcome}")
        column = 2 if outcome == 0.5 else int((outcome == 1) != (i < j))
        counted[c.group, min(i, j), max(i, j)][column] += 1
    rows = sorted(counted)
    first, second = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    counts_P3 = np.stack([counted[row] for row in rows])
    with_ties = bool(counts_P3[:, 2].any())
    if not counts_P3[:, :2].any():
        raise ValueError("every comparison is a tie: there is nothing to rank")
    _check_connected(names, first, second, counts_P3)

    theta, scores, information = _fit(len(names), first, second, counts_P3, with_ties)
    inverse = np.linalg.pinv(information, hermitian=True)
    variance = np.diag(inverse)[: len(names)]
    groups = sorted({row[0] for row in rows})
    if len(groups) > 1:
        number = {group: g for g, group in enumerate(groups)}
        by_group = np.zeros((len(groups), scores.shape[1]))
        np.add.at(by_group, [number[row[0]] for row in rows], scores)
        middle = by_group.T @ by_group * len(groups) / (len(groups) - 1)
        variance = np.maximum(variance, np.diag(inverse @ middle @ inverse)[: len(names)])
    # Of few groups the variance is known badly: Student's quantile (Cameron & Miller 2015, §VI).
    by_group_or_not = stats.t(len(groups) - 1) if len(groups) > 1 else stats.norm
    reach = float(by_group_or_not.ppf(0.5 + confidence / 2))

    def ranked(i: int) -> Ranked:
        mine, theirs = first == i, second == i
        wins = counts_P3[mine, 0].sum() + counts_P3[theirs, 1].sum()
        losses = counts_P3[mine, 1].sum() + counts_P3[theirs, 0].sum()
        ties = counts_P3[mine | theirs, 2].sum()
        half = reach * float(np.sqrt(variance[i]))
        value = float(theta[i])
        strength = Interval(value, value - half, value + half, int(wins + losses + ties))
        return Ranked(names[i], strength, int(wins), int(losses), int(ties))

    models = sorted((ranked(i) for i in range(len(names))), key=lambda m: (-m.strength.value, m.name))
    return Ranking(tuple(models), float(np.exp(theta[-1])) if with_ties else 0.0, int(counts_P3.sum()))


def _fit(
    num_models: int, first: np.ndarray, second: np.ndarray, counts_P3: FloatArray, with_ties: bool
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Newton's method on θ and log ν: the estimate, the score of each row at it, and the information matrix."""
    num_rows = len(first)
    size = num_models + with_ties
    features = np.zeros((num_rows, 3, size))  # of each outcome: ±(θ_i − θ_j)/2, and log ν for a tie
    at = np.arange(num_rows)
    for outcome, sign in ((0, 0.5), (1, -0.5)):
        features[at, outcome, first], features[at, outcome, second] = sign, -sign
    if with_ties:
        features[:, 2, -1] = 1
    total_P = counts_P3.sum(1)

    def probabilities(parameters: FloatArray) -> FloatArray:
        utility = features @ parameters
        if not with_ties:
            utility[:, 2] = -np.inf
        utility -= utility.max(1, keepdims=True)
        weight = np.exp(utility)
        return weight / weight.sum(1, keepdims=True)

    def log_likelihood(parameters: FloatArray) -> float:
        with np.errstate(divide="ignore"):
            logs = np.log(probabilities(parameters))
        return float((counts_P3 * np.where(counts_P3 > 0, logs, 0.0)).sum())

    def derivatives(parameters: FloatArray) -> tuple[FloatArray, FloatArray]:
        p = probabilities(parameters)
        scores = np.einsum("pk,pkf->pf", counts_P3 - total_P[:, None] * p, features)
        mean = np.einsum("pk,pkf->pf", p, features)
        second_moment = np.einsum("p,pk,pkf,pkg->fg", total_P, p, features, features)
        return scores, second_moment - np.einsum("p,pf,pg->fg", total_P, mean, mean)

    estimate = np.zeros(size)
    for _ in range(_MAX_STEPS):
        scores, information = derivatives(estimate)
        step = np.linalg.pinv(information, hermitian=True) @ scores.sum(0)
        if np.abs(step).max() < _TOLERANCE:
            break
        here, scale = log_likelihood(estimate), 1.0
        while log_likelihood(estimate + scale * step) < here - 1e-12 and scale > 1e-6:
            scale /= 2
        estimate = estimate + scale * step
        estimate[:num_models] -= estimate[:num_models].mean()
    scores, information = derivatives(estimate)
    return estimate, scores, information


def _check_connected(names: list[str], first: np.ndarray, second: np.ndarray, counts_P3: FloatArray) -> None:
    beats = np.zeros((len(names), len(names)))
    np.add.at(beats, (first, second), counts_P3[:, 0] + counts_P3[:, 2])
    np.add.at(beats, (second, first), counts_P3[:, 1] + counts_P3[:, 2])
    for connection in ("weak", "strong"):
        number, label = connected_components(csr_array(beats), directed=True, connection=connection)
        if number == 1:
            continue
        groups = sorted(tuple(n for n, g in zip(names, label, strict=True) if g == which) for which in range(number))
        listed = " | ".join(", ".join(group) for group in groups)
        if connection == "weak":
            raise NotConnected(f"no comparison joins these groups of models: {listed}: compare across them", (*groups,))
        raise NotConnected(
            f"between these groups of models one side won every comparison, so no finite strength fits: {listed}: "
            "collect more comparisons across them",
            (*groups,),
        )
