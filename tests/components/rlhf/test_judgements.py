from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.rlhf.judge import judge_pairs
from components.rlhf.judgements import (
    Candidate,
    Comparison,
    Item,
    Judgement,
    batch_id,
    comparisons,
    first_shown_shares,
    judged,
    make_items,
    next_item,
    preferences_from,
    progress,
    shown_order,
)
from components.rlhf.preferences_config import JUDGE_QUESTION


def item(number: int, k: int = 3) -> Item:
    models = ("sft", "base", "sft", "base")
    return Item(f"p{number}", tuple(Candidate(f"a{number}.{i}", models[i], 1.0) for i in range(k)))


def word(of: Item, annotator: str, ranks: tuple[int, ...] | None, order: tuple[int, ...] | None = None) -> Judgement:
    return Judgement(of.item_id, annotator, ranks, order or tuple(range(len(of.answers))), 1.0, "2026-01-01T00:00:00Z")


def test_a_form_becomes_ranks_of_the_answers_whatever_the_order_shown() -> None:
    one = item(0)
    order = shown_order(one, "ann")
    said = judged(one, "ann", [5, 2, 5], seconds=2.0, submitted_at="now")
    assert said.ranks is not None
    assert [said.ranks[i] for i in order] == [2, 1, 2] and said.order == order
    assert Judgement.from_json({**said.to_json(), "form": "x", "batch": "y"}) == said
    assert judged(one, "ann", None, seconds=2.0, submitted_at="now").ranks is None


def test_orders_shown_are_even_over_annotators_and_stay_after_a_reload() -> None:
    seen = Counter(shown_order(item(i), f"ann{j}") for i in range(60) for j in range(10))
    assert len(seen) == 6 and min(seen.values()) > 60  # 100 expected of each
    assert shown_order(item(1), "ann") == shown_order(item(1), "ann")


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.integers(1, 8), st.randoms(use_true_random=False))
def test_every_item_gets_its_overlap_whoever_comes_when(overlap: int, number: int, rng) -> None:  # type: ignore[no-untyped-def]
    items, said, names = [item(i) for i in range(number)], [], ["ann", "bob", "cleo"]
    active = list(names)
    while active:
        name = rng.choice(active)
        found = next_item(items, said, name, overlap, {})
        if found is None:
            active.remove(name)
        else:
            said.append(word(found, name, None if rng.random() < 0.2 else (1, 2, 3)))
    counts = Counter(one.item_id for one in said)
    assert all(counts[one.item_id] == overlap for one in items)
    assert len({(one.annotator, one.item_id) for one in said}) == len(said)
    done = progress(items, said, overlap)
    assert (done.done, done.wanted, done.open_items) == (overlap * number, overlap * number, 0)


def test_what_another_has_in_hand_comes_last_but_is_never_refused() -> None:
    items = [item(0), item(1)]
    first = next_item(items, [], "ann", 1, {})
    assert first is not None
    other = next_item(items, [], "bob", 1, {first.item_id: 1})
    assert other is not None and other != first
    assert next_item([first], [], "bob", 1, {first.item_id: 1}) == first


def test_a_ranking_becomes_every_pair_that_it_ranks_apart() -> None:
    one = item(0)
    said = [word(one, "ann", (2, 1, 2)), word(one, "bob", None)]
    made, ties = preferences_from([one], said)
    assert [(p.chosen, p.rejected, p.annotator, p.gold_margin) for p in made] == [
        ("a0.1", "a0.0", "ann", None),  # what people ought to prefer nobody knows
        ("a0.1", "a0.2", "ann", None),
    ]
    assert ties == 1 and {p.source for p in made} == {"people"}


def test_the_last_word_counts() -> None:
    one = item(0, k=2)
    made, _ = preferences_from([one], [word(one, "ann", (1, 2)), word(one, "ann", (2, 1))])
    assert [p.chosen for p in made] == ["a0.1"]


def test_position_counts_pairs_in_the_order_shown() -> None:
    one = item(0)
    said = [
        word(one, "ann", (1, 2, 3), (2, 1, 0)),
        word(one, "bob", (1, 1, 2), (0, 1, 2)),
        word(one, "cleo", (1, 1, 1)),
    ]
    assert first_shown_shares(said) == [0.0, 1.0]


def test_answers_of_one_model_are_no_comparison_of_models() -> None:
    one = item(0)
    assert comparisons([one], [word(one, "ann", (1, 2, 1))]) == [
        Comparison("sft at 1", "base at 1", 1.0, one.item_id),
        Comparison("base at 1", "sft at 1", 0.0, one.item_id),
    ]


def test_items_hold_distinct_answers_and_name_what_is_left_out() -> None:
    groups = [["a", "a ", "b"], ["a", ""], ["a", "b"], ["c", "c"]]
    items, left_out = make_items(["p", "q", "p", "r"], [[Candidate(text) for text in group] for group in groups])
    assert [[a.text for a in one.answers] for one in items] == [["a", "b"]]
    assert [(bad.line, bad.reason.split(":")[0]) for bad in left_out] == [
        (1, "1 distinct answer of 2 (1 empty)"),
        (2, "the same prompt with the same answers stands further up"),
        (3, "1 distinct answer of 2 (0 empty)"),
    ]
    assert batch_id([item(0), item(1)]) == batch_id([item(1), item(0)]) != batch_id([item(0)])


def test_a_model_judges_both_orders_and_a_favoured_position_is_a_tie() -> None:
    def generate(prompts: list[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        assert params.temperature == 0
        said = []
        for prompt in prompts:
            first = prompt.user.split("Answer 1:\n")[1].split("\n")[0]
            always = {"loud": "Answer 1 is better", "mute": "well", "{second}": "2"}
            said.append(always.get(prompt.user.split("\n")[1]) or ("1" if first == "good" else "2."))
        return [[TextCompletion(text, 1, 0.0, True)] for text in said]

    asked = [("fair", "good", "bad"), ("fair", "bad", "good"), ("loud", "good", "bad"), ("mute", "x", "y")]
    verdicts = judge_pairs([*asked, ("{second}", "x", "y")], generate, JUDGE_QUESTION)  # type: ignore[arg-type]
    assert [v.outcome for v in verdicts] == [1.0, 0.0, 0.5, None, 0.5]
    assert [v.favours_position for v in verdicts] == [False, False, True, False, True]


def test_what_is_wrong_with_a_form_is_named() -> None:
    with pytest.raises(ValueError, match="places must be 3 whole numbers"):
        judged(item(0), "ann", [1, 2], seconds=1, submitted_at="now")
    with pytest.raises(ValueError, match="seconds must be"):
        judged(item(0), "ann", None, seconds=float("nan"), submitted_at="now")
