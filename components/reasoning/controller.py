"""The adaptive controller for questions in words: how long to think about each, for a budget.

It climbs a ladder: an answer at once, a worked answer, then votes of more and more samples. On every rung it predicts
from what it has seen (the question's length, whether answers agree, how the vote stands, the answer's probability where
the model tells one) how likely it is right now, and how likely it would be on each higher rung. It climbs as long as
some rung is worth its price: the accuracy that it adds is more than `price` times what it costs, so that every question
gets the effort whose last unit buys the same accuracy. The predictors are ridge logistic regressions; they and the
price are tuned on items that are not reported (`tune`), the price on predictions for folds that they have not seen.

Nothing here needs log-probabilities. `think` is a generator that asks for completions and ends with a decision, so that
one controller is replayed over kept samples and run live behind a server.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from components.inference.text import TextCompletion
from components.reasoning.endpoints.recorded import billed
from components.reasoning.items import Item
from components.reasoning.strategies.adaptive import Drawn, lead_probability
from components.reasoning.strategies.self_consistency import best_tally

Floats = npt.NDArray[np.float64]
Effort = Literal["direct", "worked", "sample"]
FOLDS = 5
MIN_TUNING = 2 * FOLDS
_RIDGE = 1.0
_NUMBERS = re.compile(r"\d+")
_PRICES = (0.0, *np.geomspace(1e-3, 30.0, 30).tolist())  # accuracy for the cost of the whole ladder


@dataclass(frozen=True)
class Rates:
    """What a budget counts: units of a prompt token, a generated token and a second."""

    unit: Literal["tokens", "seconds", "usd"]
    prompt: float
    completion: float
    second: float

    def cost(self, group: Sequence[TextCompletion]) -> float:
        """Of the completions of one request: its prompt once, as billed where the endpoint reports that."""
        prompt = max((billed(done) for done in group), default=0) or group[0].prompt_tokens
        tokens = sum(done.num_tokens for done in group)
        return self.prompt * prompt + self.completion * tokens + self.second * max(done.seconds for done in group)


def rungs_to(most: int) -> tuple[int, ...]:
    """Votes on each rung: 0 (the answer at once), 1 (the worked one), 3, 5, 9, 17, … and `most`."""
    sizes, step = [], 2
    while 1 + step < most:
        sizes.append(1 + step)
        step *= 2
    return (0, 1, *sizes, *([most] if most > 1 else []))


@dataclass(frozen=True)
class Predictor:
    """Probability of a right answer from features: a logistic regression on standardised ones."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]  # the last one is the intercept

    def __call__(self, features_D: Floats) -> float:
        scaled = (features_D - np.asarray(self.mean)) / np.asarray(self.scale)
        logit = float(scaled @ np.asarray(self.weights[:-1]) + self.weights[-1])
        return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, logit))))


def fit_predictor(features_ND: Floats, right_N: Floats) -> Predictor:
    """Maximum likelihood with a ridge of 1 on the standardised weights, by Newton's method (the intercept's is 0.01, so
    that items which are all right leave it finite)."""
    mean, scale = features_ND.mean(0), features_ND.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    x = np.hstack([(features_ND - mean) / scale, np.ones((len(features_ND), 1))])
    ridge = np.full(x.shape[1], _RIDGE)
    ridge[-1] = 0.01
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ weights, -50, 50)))
        gradient = x.T @ (p - right_N) + ridge * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return Predictor(tuple(mean.tolist()), tuple(scale.tolist()), tuple(weights.tolist()))


def features(
    item: Item, direct: TextCompletion | None, votes: Sequence[TextCompletion], answers: Sequence[str]
) -> Floats:
    """What a rung knows of an item [D]. answers: those of the votes, "" where one has none."""
    first = item.answer_of(direct) if direct is not None else ""
    counts = [count for _, count in Counter(a for a in answers if a).most_common(2)] + [0, 0]
    leader = Counter(a for a in answers if a).most_common(1)[0][0] if any(answers) else ""
    newest = votes[0] if votes else direct
    assert newest is not None
    return np.array(
        [
            math.log1p(len(item.question)),
            math.log1p(len(_NUMBERS.findall(item.question))),
            float(bool(first)),
            float(bool(first) and first == leader),
            math.exp(newest.log_prob) if newest.log_prob else 0.5,
            math.log1p(newest.num_tokens),
            float(bool(answers and answers[0])),
            counts[0] / max(1, len(answers)),
            lead_probability(counts[0], counts[1]) if len(answers) > 1 else 0.5,
        ]
    )


@dataclass(frozen=True)
class Controller:
    """rungs: votes on each. predictors[s][t - s]: of being right on rung t, from what rung s knows. steps: mean cost of
    climbing to each rung from the one below. price: accuracy that a unit of cost must buy."""

    rungs: tuple[int, ...]
    predictors: tuple[tuple[Predictor, ...], ...]
    steps: tuple[float, ...]
    price: float

    def outlook(self, rung: int, features_D: Floats) -> list[float]:
        """Of this rung and each above it: the predicted accuracy."""
        return [predictor(features_D) for predictor in self.predictors[rung]]

    def goal(self, rung: int, outlook: Sequence[float]) -> int:
        """The rung that is worth most from here; this one where none above it is worth more."""
        return rung + int(np.argmax(_values(np.asarray(outlook), np.asarray(self.steps[rung + 1 :]), self.price)))


def _values(outlook_T: Floats, steps: Floats, price: float) -> Floats:
    """Accuracy less what it costs to get there; along the last axis of outlook_T."""
    return outlook_T - price * np.concatenate([[0.0], np.cumsum(steps)])


@dataclass(frozen=True)
class Decision:
    """trace: a record a rung. requests: the completions of each request. rung: where it stopped."""

    chosen: TextCompletion
    answer: str
    rung: int
    requests: tuple[tuple[TextCompletion, ...], ...]
    trace: tuple[Mapping[str, Any], ...]


Thought = Generator[tuple[Effort, int], Sequence[TextCompletion], Decision]


def think(item: Item, controller: Controller) -> Thought:
    """Ask for (effort, number of completions) until no rung above is worth its price."""
    requests: list[tuple[TextCompletion, ...]] = []
    trace: list[dict[str, Any]] = []
    direct: TextCompletion | None = None
    votes: list[TextCompletion] = []
    for rung, size in enumerate(controller.rungs):
        effort: Effort = "direct" if size == 0 else "worked" if size == 1 else "sample"
        got = tuple((yield effort, max(1, size - len(votes))))
        requests.append(got)
        if size:
            votes += got
        else:
            direct = got[0]
        answers = [item.answer_of(done) for done in votes]
        if votes:
            tally = best_tally(list(zip(answers, votes, strict=True)))
            answer, chosen = tally.answer, tally.chosen
        else:
            answer, chosen = item.answer_of(got[0]), got[0]
        outlook = controller.outlook(rung, features(item, direct, votes, answers))
        goal = controller.goal(rung, outlook)
        trace.append(
            {
                "effort": effort,
                "completions": len(got),
                "tokens": sum(done.num_tokens for done in got),
                "answer": answer,
                "votes": dict(Counter(a for a in answers if a)),
                "p_right": outlook[0],
                "p_right_above": max(outlook[1:], default=outlook[0]),
            }
        )
        if goal == rung:
            break
    return Decision(chosen, answer, rung, tuple(requests), tuple(trace))


def replay(drawn: Drawn, controller: Controller) -> Decision:
    """What it does with kept completions; the worked answer is the first vote, samples follow in their order. Raises
    ValueError where a rung needs more samples than were drawn."""
    if controller.rungs[-1] > len(drawn.samples) + 1:
        raise ValueError(f"a vote of {controller.rungs[-1]}; a worked answer and {len(drawn.samples)} samples are kept")
    thought = think(drawn.item, controller)
    samples = iter(drawn.samples)
    effort, count = next(thought)
    while True:
        kept = {"direct": [drawn.direct], "worked": [drawn.worked]}
        try:
            effort, count = thought.send(kept[effort] if effort in kept else [next(samples) for _ in range(count)])
        except StopIteration as end:
            decision: Decision = end.value
            return decision


# -- tuning ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Climb:
    """Every rung of one item: features [S, D], verdicts [S] and the cost of each step [S]."""

    features_SD: Floats
    right_S: Floats
    steps_S: Floats


def climb(drawn: Drawn, rungs: Sequence[int], rates: Rates) -> Climb:
    """All that the ladder `rungs` gives for an item."""
    item, seen, rows, right, steps = drawn.item, 1, [], [], []
    direct = drawn.direct if rungs[0] == 0 else None
    for size in rungs:
        if size == 0:
            votes: list[TextCompletion] = []
            group, chosen = [drawn.direct], drawn.direct
        else:
            votes = [drawn.worked, *drawn.samples[: size - 1]]
            group = [drawn.worked] if size == 1 else votes[seen:]
            seen = size
            chosen = best_tally([(item.answer_of(done), done) for done in votes]).chosen
        rows.append(features(item, direct, votes, [item.answer_of(done) for done in votes]))
        right.append(float(item.accepts(chosen)))
        steps.append(rates.cost(group))
    return Climb(np.array(rows), np.array(right), np.array(steps))


@dataclass(frozen=True)
class Point:
    """A price on a ladder, with what it did on folds that its predictors had not seen: mean cost and accuracy."""

    ladder: int
    price: float
    cost: float
    accuracy: float


@dataclass(frozen=True)
class Tuned:
    """ladders: with and without an answer at once, each with its predictors and no price yet. curve: every price."""

    ladders: tuple[Controller, ...]
    curve: tuple[Point, ...]
    rates: Rates
    num_items: int

    def within(self, budget: float) -> tuple[Controller, Point]:
        """The most accurate point whose mean cost is within the budget, the cheapest of equals; where there is none the
        cheapest of all."""
        allowed = [point for point in self.curve if point.cost <= budget] or [min(self.curve, key=lambda p: p.cost)]
        best = max(allowed, key=lambda point: (point.accuracy, -point.cost))
        ladder = self.ladders[best.ladder]
        return Controller(ladder.rungs, ladder.predictors, ladder.steps, best.price), best


def tune(drawn: Sequence[Drawn], most: int, rates: Rates) -> Tuned:
    """Predictors and the curve of prices. Raises ValueError for fewer items than the folds need."""
    if len(drawn) < MIN_TUNING:
        raise ValueError(f"{len(drawn)} items to tune on: at least {MIN_TUNING} are needed")
    folds_N = np.arange(len(drawn)) % FOLDS
    ladders, curve = [], []
    for place, rungs in enumerate((rungs_to(most), rungs_to(most)[1:])):
        climbs = [climb(one, rungs, rates) for one in drawn]
        features_NSD = np.array([one.features_SD for one in climbs])
        right_NS = np.array([one.right_S for one in climbs])
        steps_NS = np.array([one.steps_S for one in climbs])
        # Predictions for each item by predictors of the other folds, [N, S, S], of rung t from rung s.
        seen_NSS = np.zeros((len(drawn), len(rungs), len(rungs)))
        for fold in range(FOLDS):
            held = folds_N == fold
            fitted = _predictors(features_NSD[~held], right_NS[~held])
            for n in np.flatnonzero(held):
                for s, row in enumerate(fitted):
                    seen_NSS[n, s, s:] = [predictor(features_NSD[n, s]) for predictor in row]
        means_S = steps_NS.mean(0)
        for relative in _PRICES:
            price = relative / max(1e-12, means_S.sum())
            stops_N = np.array([_stop(seen_NSS[n], means_S, price) for n in range(len(drawn))])
            spent = [steps_NS[n, : stop + 1].sum() for n, stop in enumerate(stops_N)]
            accuracy = right_NS[np.arange(len(drawn)), stops_N].mean()
            curve.append(Point(place, price, float(np.mean(spent)), float(accuracy)))
        ladders.append(Controller(rungs, _predictors(features_NSD, right_NS), tuple(means_S.tolist()), 0.0))
    return Tuned(tuple(ladders), tuple(curve), rates, len(drawn))


def _stop(seen_SS: Floats, steps_S: Floats, price: float) -> int:
    for s in range(len(steps_S)):
        if int(np.argmax(_values(seen_SS[s, s:], steps_S[s + 1 :], price))) == 0:
            return s
    return len(steps_S) - 1


def _predictors(features_NSD: Floats, right_NS: Floats) -> tuple[tuple[Predictor, ...], ...]:
    rungs = range(right_NS.shape[1])
    return tuple(tuple(fit_predictor(features_NSD[:, s], right_NS[:, t]) for t in rungs[s:]) for s in rungs)


# -- kept --------------------------------------------------------------------------------------------------------------


def as_json(tuned: Tuned) -> dict[str, Any]:
    """For a file; `from_json` reads it back."""
    return asdict(tuned)


def from_json(held: Mapping[str, Any]) -> Tuned:
    """Raises KeyError and TypeError where it is none."""
    ladders = tuple(
        Controller(
            tuple(one["rungs"]),
            tuple(
                tuple(Predictor(tuple(p["mean"]), tuple(p["scale"]), tuple(p["weights"])) for p in row)
                for row in one["predictors"]
            ),
            tuple(one["steps"]),
            one["price"],
        )
        for one in held["ladders"]
    )
    return Tuned(ladders, tuple(Point(**one) for one in held["curve"]), Rates(**held["rates"]), held["num_items"])
