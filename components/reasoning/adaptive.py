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
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning.config import AdaptiveConfig, ReasoningConfig
from components.reasoning.evaluate import Answered
from components.reasoning.strategies import Item, Outcome, Samples, best_tally
from components.statistics import PairedDifference, paired_difference


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
        correct = item.verify(chosen.text)
        return Outcome(
            item_id=item.item_id,
            answer=item.extract(chosen.text),
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
    votes = [(item.extract(worked.text), worked)]
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
        votes.append((item.extract(done.text), done))


def _confidence(item: Item, done: TextCompletion) -> float:
    """Probability of the whole completion; 0 for one that was cut off or holds no answer."""
    return math.exp(done.log_prob) if done.finished and item.extract(done.text) else 0.0


def _leaders(counts: Mapping[str, int]) -> tuple[int, int]:
    first, second, *_ = [*sorted((count for answer, count in counts.items() if answer), reverse=True), 0, 0]
    return first, second


@lru_cache(maxsize=4096)
def lead_probability(first: int, second: int) -> float:
    """Posterior probability that the leading answer is the more frequent of the top two, under a uniform prior on its
    share of their votes: P(p > 1/2), p ~ Beta(first + 1, second + 1) (Aggarwal et al. 2023, §3.1)."""
    return float(1.0 - betainc(first + 1, second + 1, 0.5))


# -- live --------------------------------------------------------------------------------------------------------------


def answer_adaptively(
    generate: Generate, items: Sequence[Item], policy: Policy, config: ReasoningConfig
) -> list[Outcome]:
    """Run the controller on all items side by side: one call a round and kind of request."""
    running = {index: controller(item, policy) for index, item in enumerate(items)}
    requests: dict[int, Effort] = {index: next(thought) for index, thought in running.items()}
    outcomes: dict[int, Outcome] = {}
    for turn in itertools.count():
        if not requests:
            break
        answers = _ask(generate, items, requests, config, turn)
        following: dict[int, Effort] = {}
        for index, done in answers.items():
            try:
                following[index] = running[index].send(done)
            except StopIteration as end:
                outcomes[index] = end.value
        requests = following
    return [outcomes[index] for index in range(len(items))]


def _ask(
    generate: Generate, items: Sequence[Item], requests: dict[int, Effort], config: ReasoningConfig, turn: int
) -> dict[int, TextCompletion]:
    greedy = SamplingParams(max_tokens=config.max_tokens, temperature=0.0)
    params = {
        "direct": replace(greedy, max_tokens=config.max_direct_tokens),
        "worked": greedy,
        "sample": replace(greedy, temperature=config.temperature, seed=config.seed * 1009 + turn),
    }
    answers: dict[int, TextCompletion] = {}
    for effort, chosen in params.items():
        wanted = [index for index, asked in requests.items() if asked == effort]
        if wanted:
            says = [items[i].direct if effort == "direct" else items[i].worked for i in wanted]
            groups = generate([TextPrompt(user) for user in says], chosen)
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


def drawn_from(direct: Answered, worked: Answered, samples: Samples) -> list[Drawn]:
    """From what the fixed strategies generated on the same items anyway."""
    return [
        Drawn(item, as_completion(a), as_completion(b), group)
        for item, a, b, group in zip(samples.items, direct.outcomes, worked.outcomes, samples.completions, strict=True)
    ]


def as_completion(outcome: Outcome) -> TextCompletion:
    """The greedy completion behind the outcome of `direct` or `chain_of_thought`."""
    details = outcome.details
    return TextCompletion(
        details["text"], outcome.completion_tokens, details["log_prob"], details["finished"], outcome.prompt_tokens
    )


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
    asked = next(thought)
    while True:
        done = next(samples) if asked == "sample" else drawn.direct if asked == "direct" else drawn.worked
        try:
            asked = thought.send(done)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome


# -- tuned on one part, evaluated on the other -------------------------------------------------------------------------


@dataclass(frozen=True)
class Versus:
    """The controller against one fixed strategy: tuned to spend no more than that on other items. `gap`: accuracy of
    the controller minus that of the rival, paired on all items. tokens: mean generated tokens an item."""

    rival: str
    adaptive: Answered
    rival_tokens: float
    rival_accuracy: float
    gap: PairedDifference

    @property
    def tokens(self) -> float:
        """What the controller spent."""
        return self.adaptive.tokens


@dataclass(frozen=True)
class PolicyTable:
    """Every policy on every item: outcomes [policy][item], with verdicts and tokens as arrays [P, N]."""

    policies: list[Policy]
    outcomes: list[list[Outcome]]
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
        outcomes,
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


def cross_fitted(
    table: PolicyTable, drawn: Sequence[Drawn], budget: float | None = None, tolerance: float = 0.0
) -> tuple[Answered, list[Policy]]:
    """Each item answered by the policy that was best on the *other* folds; and the policy of each fold.

    With a `budget` (mean generated tokens an item) the most accurate policy within it is chosen, the cheapest policy
    where none is; without, the cheapest whose accuracy is within `tolerance` of the best.
    """
    chosen: list[Policy] = []
    outcomes: list[Outcome | None] = [None] * len(drawn)
    for fold in range(int(table.folds_N.max()) + 1):
        tuning = table.folds_N != fold
        accuracy_P, tokens_P = table.correct_PN[:, tuning].mean(1), table.tokens_PN[:, tuning].mean(1)
        if budget is None:
            allowed = np.flatnonzero(accuracy_P >= accuracy_P.max() - tolerance)
            best = int(allowed[np.argmin(tokens_P[allowed])])
        else:
            allowed = np.flatnonzero(tokens_P <= budget)
            order = np.lexsort((tokens_P, -accuracy_P))
            best = int(next((p for p in order if p in set(allowed.tolist())), np.argmin(tokens_P)))
        chosen.append(table.policies[best])
        for index in np.flatnonzero(~tuning):
            outcomes[index] = table.outcomes[best][index]
    answered = [outcome for outcome in outcomes if outcome is not None]
    return Answered("adaptive", tuple(one.item for one in drawn), tuple(answered), 0.0), chosen


def against(table: PolicyTable, drawn: Sequence[Drawn], rivals: Sequence[Answered]) -> list[Versus]:
    """The controller against each fixed strategy at its tokens."""
    results = []
    for rival in rivals:
        answered, _ = cross_fitted(table, drawn, budget=rival.tokens)
        gap = paired_difference(answered.correct, rival.correct)
        results.append(Versus(rival.strategy, answered, rival.tokens, float(np.mean(rival.correct)), gap))
    return results
