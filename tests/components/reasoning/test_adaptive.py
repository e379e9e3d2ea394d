"""The adaptive controller: when it stops, what it is charged, and that it is judged on items it was not tuned on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import integrate

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.adaptive_config import AdaptiveConfig
from components.reasoning.items import chain_item
from components.reasoning.strategies.adaptive import (
    Drawn,
    Policy,
    adaptive,
    answer_adaptively,
    grid,
    lead_probability,
    policy_table,
    replay,
    tuned,
)
from components.reasoning.strategies.self_consistency import votes
from components.reasoning.strategy import Outcome, Samples, Trial
from components.reasoning.tasks import Problem

NEVER = 2.0


def said(text: str, probability: float, tokens: int) -> TextCompletion:
    return TextCompletion(text, tokens, math.log(probability), True, 10)


def drawn(direct: float, worked: float, samples: Sequence[str], greedy: str = "5") -> Drawn:
    item = chain_item(Problem("2+3=?", "2+3=5", "5", 1, "symbolic"))
    return Drawn(
        item, said("4", direct, 1), said(f"2+3={greedy}", worked, 10), tuple(said(text, 0.1, 100) for text in samples)
    )


@pytest.mark.parametrize(
    ("one", "policy", "effort", "answer", "tokens"),
    [
        (drawn(0.95, 0.1, []), Policy(0.9, 0.5, 1.0, 1), "direct", "4", 1),
        (drawn(0.85, 0.6, []), Policy(0.9, 0.5, 1.0, 1), "worked", "5", 11),
        (drawn(0.95, 0.6, []), Policy(NEVER, 0.5, 1.0, 1), "worked", "5", 10),  # not even asked at once
        # 2 of 2 agree: P = 1 - 1/8; 3 of 3: 1 - 1/16.
        (drawn(0.1, 0.1, "555555"), Policy(NEVER, 0.5, 0.87, 7), "sample", "5", 110),
        (drawn(0.1, 0.1, "555555"), Policy(NEVER, 0.5, 0.93, 7), "sample", "5", 210),
        # Never confident enough, but 4 of 4 cannot be turned by the 3 left.
        (drawn(0.1, 0.1, "555555"), Policy(NEVER, 0.5, 1.0, 7), "sample", "5", 310),
        # 5 6 6 6: two ahead with one left.
        (drawn(0.1, 0.1, "666555"), Policy(NEVER, 0.5, 1.0, 5), "sample", "6", 310),
        (drawn(0.1, 0.1, "6"), Policy(NEVER, 0.5, 1.0, 2), "sample", "5", 110),  # a tie goes to the likelier
    ],
)
def test_it_stops_when_it_may_and_is_charged_for_what_it_saw(
    one: Drawn, policy: Policy, effort: str, answer: str, tokens: int
) -> None:
    outcome = replay(one, policy)
    assert (outcome.details["effort"], outcome.answer, outcome.completion_tokens) == (effort, answer, tokens)
    assert outcome.correct == (answer == "5")


@pytest.mark.parametrize("seed", range(30))
def test_stopping_early_never_changes_what_the_full_vote_says(seed: int) -> None:
    rng = random.Random(seed)
    one = drawn(0.1, 0.1, [str(rng.choice((5, 5, 6, 7))) for _ in range(8)], greedy=str(rng.choice((5, 6))))
    outcome = replay(one, Policy(NEVER, NEVER, 1.1, 9))
    full = votes(Samples((one.item,), ((one.worked, *one.samples),)), 9)[0]
    assert outcome.answer == full.answer
    assert outcome.completion_tokens <= full.completion_tokens


@pytest.mark.parametrize(("first", "second"), [(1, 0), (3, 1), (7, 5)])
def test_lead_probability_is_the_integral_of_the_posterior(first: int, second: int) -> None:
    def density(p: float) -> float:
        return p**first * (1 - p) ** second

    expected = integrate.quad(density, 0.5, 1)[0] / integrate.quad(density, 0, 1)[0]
    assert lead_probability(first, second) == pytest.approx(expected, rel=1e-9)


def test_live_and_replayed_it_does_the_same() -> None:
    """A generator that hands out each item's completions in order must give what a replay over them gives."""
    ones = [drawn(0.95, 0.1, "55"), drawn(0.1, 0.9, "55"), drawn(0.1, 0.1, "6655"), drawn(0.1, 0.1, "5666")]
    items = [chain_item(Problem(f"{n}+?", "", "5", 1, "symbolic")) for n in range(4)]
    ones = [Drawn(item, one.direct, one.worked, one.samples) for item, one in zip(items, ones, strict=True)]
    taken = [0] * 4
    calls = []

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        calls.append(len(prompts))
        answers = []
        for prompt in prompts:
            n = next(i for i, item in enumerate(items) if prompt.user in (item.direct, item.worked))
            if prompt.user == items[n].direct:
                answers.append([ones[n].direct])
            elif params.temperature == 0:
                answers.append([ones[n].worked])
            else:
                answers.append([ones[n].samples[taken[n]]])
                taken[n] += 1
        return answers

    policy = Policy(0.9, 0.5, 0.9, 3)
    assert answer_adaptively(Trial(generate, items), policy) == [replay(one, policy) for one in ones]
    assert calls[:3] == [4, 3, 2]  # side by side: all at once, then those that need more


def suite(count: int, seed: int) -> list[Drawn]:
    """Easy items that greedy gets right with confidence, and hard ones where a vote helps."""
    rng = random.Random(seed)
    ones = []
    for n in range(count):
        easy = n % 2 == 0
        right = easy or rng.random() < 0.5
        samples = [
            str(rng.choices((5, 6, 7, 8), (0.97, 0.01, 0.01, 0.01) if easy else (0.55, 0.15, 0.15, 0.15))[0])
            for _ in range(16)
        ]
        item = chain_item(Problem(f"{n}+?", "", "5", 1 if easy else 4, "symbolic"))
        one = drawn(0.1, 0.9 if easy else 0.2, samples, "5" if right else "6")
        ones.append(Drawn(item, one.direct, one.worked, one.samples))
    return ones


def trial_of(ones: Sequence[Drawn]) -> Trial:
    """Hands out what was drawn."""
    asks = {one.item.direct: [one.direct] for one in ones}
    worked = {one.item.worked: one for one in ones}

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        if params.temperature:
            return [list(worked[prompt.user].samples) for prompt in prompts]
        return [asks.get(prompt.user) or [worked[prompt.user].worked] for prompt in prompts]

    return Trial(generate, [one.item for one in ones], num_samples=16)


def mean_tokens(outcomes: Sequence[Outcome]) -> float:
    return float(np.mean([outcome.completion_tokens for outcome in outcomes]))


def test_it_spends_where_it_helps_and_beats_a_fixed_vote_that_spends_as_much() -> None:
    ones = suite(240, 1)
    trial = trial_of(ones)
    table = policy_table(ones, AdaptiveConfig())
    answered = adaptive(tuned(table, tolerance=0.01), table.folds_N).answer(trial)
    by_level = {
        level: [o for o, one in zip(answered, ones, strict=True) if one.item.difficulty == level] for level in (1, 4)
    }
    assert mean_tokens(by_level[1]) < 0.2 * mean_tokens(by_level[4])
    eight, sixteen = votes(trial.samples, 8), votes(trial.samples, 16)
    assert mean_tokens(answered) < 0.6 * mean_tokens(sixteen)
    assert mean_tokens(answered) < 1.05 * mean_tokens(eight)
    assert sum(o.correct for o in answered) >= sum(o.correct for o in eight)


def test_no_item_is_answered_by_a_policy_that_was_tuned_on_it() -> None:
    """Flip the verdicts of one fold: the policy that answers this fold must not notice."""
    ones = suite(60, 2)
    table = policy_table(ones, AdaptiveConfig())
    before = tuned(table)
    mine = table.folds_N == 0
    table.correct_PN[:, mine] = 1 - table.correct_PN[:, mine]
    table.tokens_PN[:, mine] = 1
    after = tuned(table)
    assert before[0] == after[0]
    assert before[1] != after[1]
    # An item is answered by the policy of its fold.
    outcomes = adaptive(after, table.folds_N).answer(trial_of(ones))
    assert outcomes == [replay(one, after[fold]) for one, fold in zip(ones, table.folds_N, strict=True)]
    # Folds hold as many easy items as hard ones.
    assert [int(sum(mine[::2])), int(sum(mine[1::2]))] == [15, 15]


def test_the_grid_has_no_two_policies_that_do_the_same_without_a_vote() -> None:
    policies = list(grid(AdaptiveConfig()))
    assert len(policies) == len(set(policies)) == 2 * (1 + 6 * 3 * 3)


def test_more_votes_than_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="max_votes is 16, and 2 samples"):
        replay(drawn(0.1, 0.1, "55"), Policy(NEVER, NEVER, 1.0, 16))
    with pytest.raises(ValueError, match="nothing to tune"):
        policy_table([], AdaptiveConfig())
