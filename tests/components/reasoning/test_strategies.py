"""Strategies on a scripted generator: what they choose, that every token is counted, and what names them in `evals`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning.evaluate import (
    Answered,
    at_sizes,
    compare,
    eval_rows,
    fine_sizes,
    run_strategies,
    summarize,
)
from components.reasoning.items import Item, chain_item, puzzle_item
from components.reasoning.puzzles import SignPuzzle
from components.reasoning.strategies.best_of_k import best_of_k, choices
from components.reasoning.strategies.chain_of_thought import CHAIN_OF_THOUGHT
from components.reasoning.strategies.direct import DIRECT
from components.reasoning.strategies.direct_vote import direct_vote
from components.reasoning.strategies.greedy import GREEDY
from components.reasoning.strategies.self_consistency import self_consistency, votes
from components.reasoning.strategies.until_right import first_right, until_right
from components.reasoning.strategy import Outcome, Samples, Strategy, Trial, outcome_of
from components.reasoning.tasks import Problem
from storage.home import Home
from storage.queries import query

EASY = chain_item(Problem("1+1=?", "1+1=2", "2", 1, "symbolic"))
HARD = chain_item(Problem("1+1+1=?", "1+1+1=2+1=3", "3", 2, "symbolic"))


def said(text: str, log_prob: float = -1.0) -> TextCompletion:
    """A completion of as many tokens as it has characters."""
    return TextCompletion(text, len(text), log_prob, True, prompt_tokens=10)


def scripted(answers: Mapping[str, Sequence[TextCompletion]]) -> Generate:
    """Answers by what the user says; greedy takes the first."""

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        count = params.num_samples
        return [list(answers[prompt.user][:count]) for prompt in prompts]

    return generate


SUITE = scripted(
    {
        EASY.direct: [said("2")],
        HARD.direct: [said("9")],
        EASY.worked: [said("2"), said("2"), said("7"), said("2")],
        HARD.worked: [said("3"), said("9"), said("9"), said("8")],
    }
)


def samples(*texts: tuple[str, float]) -> Samples:
    return Samples((EASY,), (tuple(said(text, log_prob) for text, log_prob in texts),))


def at_once(item: Item, text: str, name: str = "direct", family: str = "") -> Answered:
    strategy = replace(DIRECT, name=name, family=family or name)
    return next(run_strategies([strategy], Trial(scripted({item.direct: [said(text)]}), [item])))


def test_samples_beyond_the_largest_vote_are_paid_for_too() -> None:
    drawn = samples(("2", -1.0), ("33", -1.0), ("444", -1.0))
    assert [one.size for one in at_sizes(3, self_consistency)] == [1, 2]
    assert drawn.total_tokens == 10 + 1 + 2 + 3


def test_direct_and_worked_ask_differently_and_are_judged_by_the_last_number() -> None:
    trial = Trial(scripted({EASY.direct: [said("5")], EASY.worked: [said("1+1=2")]}), [EASY])
    (at_once,), (worked,) = DIRECT.answer(trial), CHAIN_OF_THOUGHT.answer(trial)
    assert (at_once.correct, at_once.answer, at_once.completion_tokens) == (False, "5", 1)
    assert (worked.correct, worked.answer, worked.completion_tokens, worked.prompt_tokens) == (True, "2", 5, 10)


def test_each_request_has_its_own_limit_and_only_samples_differ() -> None:
    seen: list[tuple[str, SamplingParams]] = []

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        seen.extend((prompt.user, params) for prompt in prompts)
        return [[said("2")] * params.num_samples for _ in prompts]

    trial = Trial(generate, [EASY], num_samples=4, temperature=0.7, max_tokens=50, max_direct_tokens=6, seed=3)
    strategies = [DIRECT, CHAIN_OF_THOUGHT, *at_sizes(4, self_consistency, best_of_k)]
    assert len(list(run_strategies(strategies, trial))) == 7
    assert seen == [  # the samples once, whatever is read from them
        (EASY.direct, SamplingParams(max_tokens=6, temperature=0.0)),
        (EASY.worked, SamplingParams(max_tokens=50, temperature=0.0)),
        (EASY.worked, SamplingParams(max_tokens=50, temperature=0.7, num_samples=4, seed=3)),
    ]


def test_tokens_of_all_items_are_counted_and_not_a_mean_times_their_number() -> None:
    """The mean of 200 counts times 200 was once 1047443.0000000001, which is no count of tokens."""
    items = tuple(replace(EASY, item_id=str(n), direct=str(n)) for n in range(200))
    answers = {item.direct: [said("x" * (n * 7 % 31))] for n, item in enumerate(items)}
    (answered,) = run_strategies([DIRECT], Trial(scripted(answers), items))
    assert answered.total_tokens == sum(n * 7 % 31 for n in range(200)) + 200 * 10
    assert isinstance(answered.total_tokens, int)


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        ([("7", -0.1), ("2", -3.0), ("1+1=2", -4.0)], "2"),  # the majority, however unlikely
        ([("7", -0.1), ("2", -3.0)], "7"),  # a tie goes to the likelier
        ([("7", -2.0), ("2", -1.0), ("07", -2.5), ("2", -3.0)], "2"),  # by the sum: -4.0 against -4.5; 07 is 7
        ([("", -0.1), ("", -0.1), ("2", -9.0)], "2"),  # who says nothing abstains
    ],
)
def test_vote(texts: list[tuple[str, float]], answer: str) -> None:
    (outcome,) = votes(samples(*texts), len(texts))
    assert outcome.answer == answer
    assert outcome.completion_tokens == sum(len(text) for text, _ in texts)
    assert outcome.prompt_tokens == 10  # the prompt is shared


def test_a_vote_of_silence_is_wrong() -> None:
    (outcome,) = votes(samples(("", -1.0), ("so", -1.0)), 2)
    assert (outcome.answer, outcome.correct, outcome.details["agreement"]) == ("", False, 0.0)


def test_best_of_k_is_right_when_any_is() -> None:
    drawn = samples(("7", -0.2), ("1+1=2", -5.0), ("9", -0.3), ("2", -0.1))
    assert [choices(drawn, size)[0].correct for size in (1, 2, 3)] == [False, True, True]
    (outcome,) = choices(drawn, 4)
    assert (outcome.details["chosen"], outcome.completion_tokens) == (1, 8)
    (outcome,) = choices(samples(("7", -0.2), ("88", -0.1)), 2)
    assert (outcome.details["chosen"], outcome.answer) == (0, "7")
    with pytest.raises(ValueError, match="1 to 4 were drawn"):
        choices(drawn, 5)


def test_a_suite_gives_rows_summaries_and_paired_comparisons() -> None:
    strategies = [DIRECT, CHAIN_OF_THOUGHT, *at_sizes(4, self_consistency, best_of_k)]
    answered = {a.strategy.name: a for a in run_strategies(strategies, Trial(SUITE, [EASY, HARD], num_samples=4))}
    assert list(answered) == [
        "direct",
        "cot",
        "self_consistency@1",
        "self_consistency@2",
        "best_of@2",
        "self_consistency@4",
        "best_of@4",
    ]
    assert answered["self_consistency@4"].correct == [True, False]
    rows = eval_rows(answered["cot"], "chains", "sft")
    assert [(r["item_id"], r["correct"], r["completion_tokens"]) for r in rows] == [
        ("1+1=?", True, 1),
        ("1+1+1=?", True, 1),
    ]
    assert json.loads(rows[0]["details_json"])["text"] == "2"
    overall, easy, hard = summarize(answered["self_consistency@4"])
    assert (overall.accuracy.n, easy.difficulty, easy.accuracy.value, hard.accuracy.value) == (2, 1, 1.0, 0.0)
    gap = compare(answered["cot"], answered["self_consistency@4"])
    assert (gap.value, gap.only_a, gap.only_b) == (0.5, 1, 0)


def test_only_the_same_items_are_compared() -> None:
    with pytest.raises(ValueError, match="different items"):
        compare(at_once(EASY, "2"), at_once(HARD, "3"))


def test_until_one_is_right_solves_what_best_of_k_does_and_pays_for_no_sample_after_it() -> None:
    drawn = samples(("7", -0.2), ("1+1=2", -5.0), ("9", -0.3), ("2", -0.1))
    (outcome,) = first_right(drawn, 4)
    assert (outcome.correct, outcome.completion_tokens, outcome.prompt_tokens) == (True, 1 + 5, 10)
    (outcome,) = first_right(samples(("7", -0.2), ("88", -0.1)), 2)
    assert (outcome.correct, outcome.completion_tokens, outcome.details["attempts"]) == (False, 3, 2)
    for size in (1, 2, 3, 4):
        assert first_right(drawn, size)[0].correct == choices(drawn, size)[0].correct
    with pytest.raises(ValueError, match="2 were drawn"):
        first_right(samples(("7", -0.2), ("88", -0.1)), 3)


def test_only_what_is_not_yet_right_is_tried_again_and_other_samples_come() -> None:
    asked: list[tuple[int, int]] = []

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        asked.append((len(prompts), params.seed))
        found = [said("7")] * (params.num_samples - 1)
        late = said("3" if len(asked) == 3 else "7")
        return [[*found, said("2") if prompt.user == EASY.worked else late] for prompt in prompts]

    trial = Trial(generate, [EASY, HARD], num_samples=2, seed=5, max_attempts=8)
    easy, hard = until_right(8).answer(trial)
    assert (easy.correct, easy.completion_tokens, hard.correct, hard.completion_tokens) == (True, 2, True, 6)
    assert asked == [(2, 5), (1, 5 * 1009 + 1), (1, 5 * 1009 + 2)]
    assert trial.attempts.total_tokens == (10 + 2) + (10 + 6)
    assert not until_right(5).answer(trial)[1].correct


def test_sizes_lie_close_enough_for_one_to_cost_what_another_strategy_does() -> None:
    assert fine_sizes(16) == [1, 2, 3, 4, 6, 8, 12, 16]
    assert fine_sizes(48) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]
    assert fine_sizes(20)[-2:] == [16, 20]


def test_direct_answers_vote_on_samples_of_their_own_and_each_pays_for_what_it_read() -> None:
    """Three direct samples of one token, four worked ones of two: the clock of each pool is shared by tokens."""
    answers = {EASY.direct: [said("7"), said("2"), said("2")], EASY.worked: [said("=2")] * 4}
    trial = Trial(scripted(answers), [EASY], num_samples=4, num_direct_samples=3)
    trial.samples, trial.direct_samples = (
        replace(trial.samples, seconds=8.0),
        replace(trial.direct_samples, seconds=3.0),
    )
    vote, choice, until = run_strategies([direct_vote(3), best_of_k(4), until_right(4)], trial)
    assert (vote.correct, vote.tokens, vote.prompt_tokens) == ([True], 3, 10)
    assert [round(one.seconds) for one in (vote, choice, until)] == [3, 8, 2]


def test_puzzles_are_items_too() -> None:
    item = puzzle_item(SignPuzzle(20, (12, 8)))
    generate = scripted({item.worked: [said("20+12=32;32-8=24;"), said("20-12=8;8-8=0;")]})
    trial = Trial(generate, [item], num_samples=2)
    assert [a.correct for a in run_strategies([GREEDY, best_of_k(2)], trial)] == [[False], [True]]


# -- a strategy of one's own: all that the recipe in CONTRIBUTING asks for ---------------------------------------------


def shortest_of(size: int) -> Strategy:
    """Of each item's first `size` samples the shortest."""

    def answer(trial: Trial) -> list[Outcome]:
        groups = trial.samples.first(size)
        return [outcome_of(item, min(group, key=lambda done: done.num_tokens), group, {}) for item, group in groups]

    return Strategy(f"shortest_of@{size}", "shortest_of", answer, size=size)


def test_a_new_strategy_is_one_function_and_its_record_is_columns_of_evals(tmp_path: Path) -> None:
    generate = scripted({EASY.worked: [said("1+1=3"), said("1+1=2"), said("2"), said("1+1=4")]})
    trial = Trial(generate, [EASY], num_samples=4)
    strategies = [CHAIN_OF_THOUGHT, *at_sizes(4, self_consistency, best_of_k, shortest_of)]
    home, key = Home(tmp_path), "a" * 64
    home.tables.write(
        "evals",
        key,
        [
            {"run_id": "r", "key": key, "stage": "evaluate", **row}
            for answered in run_strategies(strategies, trial)
            for row in eval_rows(answered, "chains", "sft")
        ],
    )
    sql = """
        SELECT strategy, strategy_size, needs_verifier, greedy, correct, completion_tokens FROM evals
        WHERE strategy_family = $family ORDER BY strategy_size"""

    def of_family(family: str) -> list[tuple[object, ...]]:
        return [tuple(row.values()) for row in query(home, sql, {"family": family}).to_pylist()]

    assert of_family("shortest_of") == [
        ("shortest_of@2", 2, False, False, False, 10),
        ("shortest_of@4", 4, False, False, True, 16),
    ]
    assert of_family("best_of") == [("best_of@2", 2, True, False, True, 10), ("best_of@4", 4, True, False, True, 16)]
    assert of_family("cot") == [("cot", None, False, True, False, 5)]
