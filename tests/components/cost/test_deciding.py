"""Train further or think longer: the rival is the best that was measured, at the same prices, and by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from components.cost.deciding import PriceInterval, decisive_suite, sides, strongest_thinking, train_or_think
from components.reasoning.results.strategies import StrategyResult
from components.statistics import Interval, wilson

PRICES = PriceInterval(Interval(1.0, 0.9, 1.2, 5), Interval(10.0, 8.0, 12.0, 5))


def row(
    strategy: str, right: int, prompt: float, generated: float, model: str = "sft", verified: bool = False
) -> StrategyResult:
    x = wilson(right, 360)
    return StrategyResult(
        model, strategy, x.value, x.low, x.high, x.n, generated, prompt, {}, strategy, None, verified, strategy == "cot"
    )


GREEDY, VOTE = row("cot", 276, 40, 60), row("self_consistency@16", 277, 40, 960)
TRAINED = row("cot", 290, 40, 55, model="grpo")


def test_a_vote_that_greedy_matches_is_no_rival() -> None:
    """277 of 360 for 16 times the tokens of 276: who could have the second does not buy the first."""
    found = strongest_thinking([VOTE, GREEDY], GREEDY.accuracy, PRICES.value)
    assert found == (GREEDY, True)


def test_where_none_is_as_accurate_the_most_accurate_stands_and_the_verdict_says_so() -> None:
    better = replace(TRAINED, accuracy=0.99, low=0.98, high=1.0)
    decision = train_or_think(better, [GREEDY, VOTE], 0.01, PRICES)
    assert decision.compared is not None
    assert (decision.compared.think_longer, decision.compared.as_accurate) == ("sft self_consistency@16", False)
    assert decision.verdict.endswith("no strategy of sft is as accurate")


def test_what_asks_a_verifier_is_no_way_to_answer() -> None:
    oracle = row("best_of@16", 350, 40, 960, verified=True)
    assert strongest_thinking([oracle, VOTE], 0.99, PRICES.value) == (VOTE, False)
    assert strongest_thinking([oracle], 0.5, PRICES.value) is None


def test_break_even_by_hand_with_the_ends_of_the_prices() -> None:
    """5 tokens saved a question, at $8 to $12 a million: $0.01 is 200 questions, or 167 to 250."""
    compared = train_or_think(TRAINED, [GREEDY], 0.01, PRICES).compared
    assert compared is not None
    assert compared.break_even_questions == pytest.approx(0.01 / 5e-5)
    assert compared.break_even_low == pytest.approx(0.01 / 6e-5)
    assert compared.break_even_high == pytest.approx(0.01 / 4e-5)
    assert compared.trained_usd_per_thousand == pytest.approx(1000 * (40 + 550) / 1e6)


def test_training_that_saves_nothing_per_question_never_pays() -> None:
    decision = train_or_think(replace(TRAINED, completion_tokens=70), [GREEDY], 0.01, PRICES)
    assert decision.compared is not None and decision.compared.break_even_questions is None
    assert decision.compared.break_even_high is None
    assert decision.verdict == "sft cot costs less in all however many are asked"
    assert train_or_think(None, [GREEDY], 0.01, PRICES).compared is None


def test_of_several_sets_the_first_decides_and_without_fine_tuning_the_base_is_the_rival() -> None:
    assert decisive_suite([GREEDY, TRAINED]) is None
    assert sides([GREEDY, VOTE, TRAINED]) == (TRAINED, [GREEDY, VOTE])
    own = [
        replace(one, suite=suite, strategy=one.strategy.replace("cot", "greedy"))
        for suite in ("mine", "other")
        for one in (replace(GREEDY, model="base"), replace(VOTE, model="base"), TRAINED)
    ]
    ranked = replace(own[0], suite="pairs", strategy="log_probability", completion_tokens=0.0)
    assert decisive_suite([ranked, *own]) == "mine"
    assert decisive_suite([ranked]) is None
    trained, thinking = sides(own)
    assert trained is not None and (trained.suite, trained.model, trained.strategy) == ("mine", "grpo", "greedy")
    assert [(one.suite, one.model) for one in thinking] == [("mine", "base")] * 2
    assert sides(own[:2]) == (None, own[:2])  # nothing was trained further
