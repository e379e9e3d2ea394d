"""The adaptive controller: think longer only where the model is unsure.

An answer at once is accepted when its probability is high enough; else the problem is worked in steps, and that is
accepted when *its* probability is high enough; else samples are drawn until their vote is decided. A vote is decided
when the rest of the budget cannot turn it, or when the posterior that the leader leads is confident (Aggarwal et al.
2023, "Let's Sample Step by Step", the Beta criterion).

One controller is written once, as a generator that asks for completions and ends with an outcome. `answer_adaptively`
runs it live; `replay` runs it over completions that were drawn before, so that hundreds of thresholds can be tried for
the price of one draw. It sees only what it asks for, and is charged for all of that.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betainc

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.adaptive_config import AdaptiveConfig
from components.reasoning.items import Item
from components.reasoning.strategies.self_consistency import best_tally
from components.reasoning.strategy import Outcome, Strategy, Trial


@dataclass(frozen=True)
class Policy:
    """When to stop thinking. direct_confidence, worked_confidence: probability of the whole answer from which on it is
    accepted; above 1 the answer is not even asked for (worked: it is, as a first vote, but never accepted alone).
    vote_confidence: of the posterior. max_votes: the worked answer included."""

    direct_confidence: float
    worked_confidence: float
    vote_confidence: float
    max_votes: int


Effort = Literal["direct", "worked", "sample"]
Controller = Generator[Effort, TextCompletion, Outcome]


def controller(item: Item, policy: Policy) -> Controller:
    """Ask for completions one by one; return the outcome."""
    spent: list[TextCompletion] = []
    prompt_tokens: dict[str, int] = {}

    def outcome(chosen: TextCompletion, effort: Effort, confidence: float) -> Outcome:
        correct = item.accepts(chosen)
        return Outcome(
            item_id=item.item_id,
            answer=item.answer_of(chosen),
            correct=correct,
            completion_tokens=sum(done.num_tokens for done in spent),
            prompt_tokens=sum(prompt_tokens.values()),
            score=float(correct),
            details={"text": chosen.text, "effort": effort, "confidence": confidence, "completions": len(spent)},
        )

    if policy.direct_confidence <= 1:
        direct = yield "direct"
        spent.append(direct)
        prompt_tokens["direct"] = direct.prompt_tokens
        if _confidence(item, direct) >= policy.direct_confidence:
            return outcome(direct, "direct", _confidence(item, direct))
    worked = yield "worked"
    spent.append(worked)
    prompt_tokens["worked"] = worked.prompt_tokens
    if _confidence(item, worked) >= policy.worked_confidence:
        return outcome(worked, "worked", _confidence(item, worked))
    votes = [(item.answer_of(worked), worked)]
    while True:
        vote = best_tally(votes)
        first, second = _leaders(vote.counts)
        confidence = lead_probability(first, second)
        # Not even all remaining votes for the runner-up would turn it.
        settled = first - second > policy.max_votes - len(votes)
        if len(votes) >= policy.max_votes or settled or (len(votes) > 1 and confidence >= policy.vote_confidence):
            return outcome(vote.chosen, "sample", confidence)
        done = yield "sample"
        spent.append(done)
        # Its prompt is that of the worked answer, paid already.
        votes.append((item.answer_of(done), done))


def _confidence(item: Item, done: TextCompletion) -> float:
    """Probability of the whole completion; 0 for one that was cut off or holds no answer."""
    return math.exp(done.log_prob) if done.finished and item.answer_of(done) else 0.0


def _leaders(counts: Mapping[str, int]) -> tuple[int, int]:
    first, second, *_ = [*sorted((count for answer, count in counts.items() if answer), reverse=True), 0, 0]
    return first, second


@lru_cache(maxsize=4096)
def lead_probability(first: int, second: int) -> float:
    """Posterior probability that the leading answer is the more frequent of the top two, under a uniform prior on its
    share of their votes: P(p > 1/2), p ~ Beta(first + 1, second + 1) (Aggarwal et al. 2023, §3.1)."""
    return float(1.0 - betainc(first + 1, second + 1, 0.5))


# -- live --------------------------------------------------------------------------------------------------------------


def answer_adaptively(trial: Trial, policy: Policy) -> list[Outcome]:
    """Run the controller on all items side by side: one call per round and kind of request."""
    running = {index: controller(item, policy) for index, item in enumerate(trial.items)}
    requests: dict[int, Effort] = {index: next(thought) for index, thought in running.items()}
    outcomes: dict[int, Outcome] = {}
    for turn in itertools.count():
        if not requests:
            break
        answers = _ask(trial, requests, turn)
        following: dict[int, Effort] = {}
        for index, done in answers.items():
            try:
                following[index] = running[index].send(done)
            except StopIteration as end:
                outcomes[index] = end.value
        requests = following
    return [outcomes[index] for index in range(len(trial.items))]


def _ask(trial: Trial, requests: dict[int, Effort], turn: int) -> dict[int, TextCompletion]:
    greedy = SamplingParams(max_tokens=trial.max_tokens, temperature=0.0)
    params = {
        "direct": replace(greedy, max_tokens=trial.max_direct_tokens),
        "worked": greedy,
        "sample": replace(greedy, temperature=trial.temperature, seed=trial.seed * 1009 + turn),
    }
    answers: dict[int, TextCompletion] = {}
    for effort, chosen in params.items():
        wanted = [index for index, request in requests.items() if request == effort]
        if wanted:
            texts = [trial.items[i].direct if effort == "direct" else trial.items[i].worked for i in wanted]
            groups = trial.generate([TextPrompt(text) for text in texts], chosen)
            answers |= {index: group[0] for index, group in zip(wanted, groups, strict=True)}
    return answers


# -- replayed ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """All that a controller may ask for about one item, drawn once."""

    item: Item
    direct: TextCompletion
    worked: TextCompletion
    samples: tuple[TextCompletion, ...]


def drawn_from(trial: Trial) -> list[Drawn]:
    """From what the fixed strategies read of the same items anyway."""
    columns = zip(trial.items, trial.direct, trial.worked, trial.samples.completions, strict=True)
    return [Drawn(item, direct, worked, samples) for item, direct, worked, samples in columns]


def replay(drawn: Drawn, policy: Policy) -> Outcome:
    """What the controller does with these completions, its samples taken in their order.

    Raises ValueError when the policy may ask for more samples than were drawn.
    """
    if policy.max_votes > len(drawn.samples) + 1:
        raise ValueError(
            f"max_votes is {policy.max_votes}, and {len(drawn.samples)} samples and a worked answer were drawn"
        )
    thought = controller(drawn.item, policy)
    samples = iter(drawn.samples)
    request = next(thought)
    while True:
        done = next(samples) if request == "sample" else drawn.direct if request == "direct" else drawn.worked
        try:
            request = thought.send(done)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


# -- tuned on one part, evaluated on the other -------------------------------------------------------------------------


@dataclass(frozen=True)
class PolicyTable:
    """Every policy on every item: verdicts and tokens [P, N], and the fold of each item [N]."""

    policies: list[Policy]
    correct_PN: npt.NDArray[np.float64]
    tokens_PN: npt.NDArray[np.float64]
    folds_N: npt.NDArray[np.int64]


def policy_table(drawn: Sequence[Drawn], config: AdaptiveConfig) -> PolicyTable:
    """Replay every policy of the config's grid that the samples suffice for; items are dealt to folds at random, within
    each difficulty."""
    most = min((len(one.samples) for one in drawn), default=0) + 1
    policies = [policy for policy in grid(config) if policy.max_votes <= most]
    if not policies or len(drawn) < config.num_folds:
        raise ValueError(
            f"nothing to tune: {len(drawn)} items with {most - 1} samples each, for {config.num_folds} folds and "
            f"adaptive.max_votes {config.max_votes}"
        )
    outcomes = [[replay(one, policy) for one in drawn] for policy in policies]
    folds = np.zeros(len(drawn), dtype=np.int64)
    rng = random.Random(f"adaptive-folds-{config.seed}")
    for level in sorted({one.item.difficulty for one in drawn}):
        members = [index for index, one in enumerate(drawn) if one.item.difficulty == level]
        rng.shuffle(members)
        folds[members] = np.arange(len(members)) % config.num_folds
    return PolicyTable(
        policies,
        np.array([[o.correct for o in row] for row in outcomes], dtype=np.float64),
        np.array([[o.completion_tokens for o in row] for row in outcomes], dtype=np.float64),
        folds,
    )


def grid(config: AdaptiveConfig) -> Iterator[Policy]:
    """The config's policies; those that never vote differ in their first two thresholds alone."""
    for direct, worked in itertools.product(config.direct_confidences, config.worked_confidences):
        if worked <= 0:
            yield Policy(direct, worked, 1.0, 1)
            continue
        for vote, most in itertools.product(config.vote_confidences, config.max_votes):
            yield Policy(direct, worked, vote, most)


def tuned(table: PolicyTable, tolerance: float = 0.0) -> list[Policy]:
    """By fold, the policy that did best on the *other* folds: the cheapest whose accuracy is within `tolerance` of the
    best."""
    policies = []
    for fold in range(int(table.folds_N.max()) + 1):
        tuning = table.folds_N != fold
        accuracy_P, tokens_P = table.correct_PN[:, tuning].mean(1), table.tokens_PN[:, tuning].mean(1)
        allowed = np.flatnonzero(accuracy_P >= accuracy_P.max() - tolerance)
        policies.append(table.policies[int(allowed[np.argmin(tokens_P[allowed])])])
    return policies


def adaptive(policies: Sequence[Policy], folds_N: npt.NDArray[np.int64]) -> Strategy:
    """The controller, each item answered by the policy of its fold."""

    def answer(trial: Trial) -> list[Outcome]:
        return [replay(one, policies[fold]) for one, fold in zip(drawn_from(trial), folds_N, strict=True)]

    return Strategy("adaptive", "adaptive", answer)
