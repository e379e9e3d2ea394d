"""Strategies on a scripted generator: what they choose, and that every token is counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import pytest

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning.evaluate import (
    Answered,
    ReasoningConfig,
    answer_suite,
    compare,
    eval_rows,
    strongest_at_tokens,
    summarize,
)
from components.reasoning.puzzles import SignPuzzle
from components.reasoning.strategies import (
    Item,
    Samples,
    best_of_k,
    by_log_prob,
    chain_item,
    chain_of_thought,
    direct,
    draw,
    puzzle_item,
    self_consistency,
    size_curve,
)
from components.reasoning.tasks import Problem

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


def test_samples_beyond_the_largest_vote_are_paid_for_too() -> None:
    drawn = samples(("2", -1.0), ("33", -1.0), ("444", -1.0))
    assert drawn.sizes() == [1, 2]
    assert drawn.total_tokens == 10 + 1 + 2 + 3


def samples(*texts: tuple[str, float]) -> Samples:
    return Samples((EASY,), (tuple(said(text, log_prob) for text, log_prob in texts),))


def test_direct_and_worked_ask_differently_and_are_judged_by_the_last_number() -> None:
    generate = scripted({EASY.direct: [said("5")], EASY.worked: [said("1+1=2")]})
    (at_once,), (worked,) = direct(generate, [EASY]), chain_of_thought(generate, [EASY])
    assert (at_once.correct, at_once.answer, at_once.completion_tokens) == (False, "5", 1)
    assert (worked.correct, worked.answer, worked.completion_tokens, worked.prompt_tokens) == (True, "2", 5, 10)


def test_tokens_of_all_items_are_counted_and_not_a_mean_times_their_number() -> None:
    """The mean of 200 counts times 200 was once 1047443.0000000001, which is no count of tokens."""
    items = tuple(replace(EASY, item_id=str(n)) for n in range(200))
    outcomes = [direct(scripted({EASY.direct: [said("x" * (n * 7 % 31))]}), [item])[0] for n, item in enumerate(items)]
    answered = Answered("direct", items, tuple(outcomes), 0.0)
    assert answered.total_tokens == sum(n * 7 % 31 for n in range(200)) + 200 * 10
    assert isinstance(answered.total_tokens, int)


def test_shots_reach_the_generator() -> None:
    seen: list[TextPrompt] = []

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        seen.extend(prompts)
        return [[said("2")] for _ in prompts]

    chain_of_thought(generate, [EASY], shots=(("2+2=?", "2+2=4"),))
    assert seen == [TextPrompt(EASY.worked, shots=(("2+2=?", "2+2=4"),))]


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
    (outcome,) = self_consistency(samples(*texts), len(texts))
    assert outcome.answer == answer
    assert outcome.completion_tokens == sum(len(text) for text, _ in texts)
    assert outcome.prompt_tokens == 10  # the prompt is shared


def test_a_vote_of_silence_is_wrong() -> None:
    (outcome,) = self_consistency(samples(("", -1.0), ("so", -1.0)), 2)
    assert (outcome.answer, outcome.correct, outcome.details["agreement"]) == ("", False, 0.0)


def test_best_of_k_by_verifier_is_right_when_any_is_and_by_score_takes_the_highest() -> None:
    drawn = samples(("7", -0.2), ("1+1=2", -5.0), ("9", -0.3), ("2", -0.1))
    assert [best_of_k(drawn, size)[0].correct for size in (1, 2, 3)] == [False, True, True]
    (outcome,) = best_of_k(drawn, 4)
    assert (outcome.completion_tokens, outcome.details["sequential_tokens"]) == (8, 6)
    assert best_of_k(drawn, 3, by_log_prob)[0].answer == "7"
    with pytest.raises(ValueError, match="1 to 4 were drawn"):
        best_of_k(drawn, 5)


def test_curve_averages_disjoint_blocks() -> None:
    drawn = Samples(
        (EASY, HARD),
        (
            (said("2"), said("2"), said("7"), said("2")),
            (said("9"), said("9"), said("3"), said("3")),
        ),
    )
    curve = size_curve(drawn)
    assert [point.size for point in curve] == [1, 2, 4]
    assert curve[0].accuracy.value == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert [point.tokens for point in curve] == [1.0, 2.0, 4.0]
    # Best of two finds one in both blocks of the first item and in one of two of the second.
    assert size_curve(drawn, best_of_k)[1].accuracy.value == pytest.approx(0.75)


def test_a_suite_gives_rows_summaries_and_paired_comparisons() -> None:
    generate = scripted(
        {
            EASY.direct: [said("2")],
            HARD.direct: [said("9")],
            EASY.worked: [said("2"), said("2"), said("7"), said("2")],
            HARD.worked: [said("3"), said("9"), said("9"), said("8")],
        }
    )
    answered = {a.strategy: a for a in answer_suite(generate, [EASY, HARD], ReasoningConfig(num_samples=4))}
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
    generate = scripted({EASY.direct: [said("2")], HARD.direct: [said("3")]})
    run = partial(direct, generate)
    a = Answered("direct", (EASY,), tuple(run([EASY])), 0.0)
    b = Answered("direct", (HARD,), tuple(run([HARD])), 0.0)
    with pytest.raises(ValueError, match="different items"):
        compare(a, b)


def test_the_rival_at_equal_tokens_is_the_strongest_that_spends_enough() -> None:
    def answered(name: str, tokens: int, right: bool) -> Answered:
        text = ("2" if right else "7").rjust(tokens)
        return Answered(name, (EASY,), tuple(direct(scripted({EASY.direct: [said(text)]}), [EASY])), 0.0)

    cheap, dear = answered("best_of@2", 5, True), answered("best_of@8", 20, True)
    vote = answered("self_consistency@8", 11, False)
    assert strongest_at_tokens([cheap, dear, vote], tokens=10) is dear
    assert strongest_at_tokens([cheap, vote], tokens=10) is vote
    assert strongest_at_tokens([cheap], tokens=10) is None


def test_puzzles_are_items_too() -> None:
    item: Item = puzzle_item(SignPuzzle(20, (12, 8)))
    drawn = draw(scripted({item.worked: [said("20+12=32;32-8=24;"), said("20-12=8;8-8=0;")]}), [item], 2)
    assert [o.correct for size in (1, 2) for o in best_of_k(drawn, size)] == [False, True]
