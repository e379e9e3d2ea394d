from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.decontaminate import DecontaminationConfig, EvalIndex

LONG = "The quick brown fox jumps over the lazy dog while the small cat watches from the wall, and sleeps."  # 20 tokens
LONG += " Nobody in the village ever asked why these two came back every evening."


def hits(prompts: list[str], texts: list[str], whole_items: bool = False, **config: int) -> list[tuple[int, int]]:
    index = EvalIndex(prompts, DecontaminationConfig(**config), whole_items)
    return [(c.document, c.item) for c in index.search(texts)]


def test_thirteen_shared_tokens_are_found_and_twelve_are_not() -> None:
    tokens = re.findall(r"\w+|[^\w\s]", LONG)
    thirteen, twelve = " ".join(tokens[3:16]), " ".join(tokens[3:15])
    texts = [f"Before. {thirteen} After.", f"Before. {twelve} After.", LONG.upper()]
    assert hits(["other words entirely here", LONG], texts) == [(0, 1), (2, 1)]
    found = EvalIndex([LONG]).search(texts)[0]
    assert found.overlap == thirteen.lower()


def test_short_items_are_found_whole_and_very_short_ones_counted() -> None:
    index = EvalIndex(["2+3=?", "hi"])
    assert index.num_too_short == 1
    assert [c.document for c in index.search(["what is 2 + 3 = ? five", "2+3=", "hi there"])] == [0]


QUESTION = (
    "Mary's well-known shop sold 1,200 apples, 35 pears and 4.5 kilograms of plums for $60.25 in May; how much money "
    "did she make from the fruit if the other half-price items brought in $14?"
)


@pytest.mark.parametrize(
    "edited",
    [
        QUESTION.upper(),
        re.sub(r"[^\w\s]", "", QUESTION),
        re.sub(r"[^\w\s]", " ", QUESTION),
        "\n".join(re.findall(r"\S+ ?\S* ?\S*", QUESTION)),
        QUESTION.replace("35", "36"),
        QUESTION.replace("'", "’"),
    ],
)
def test_neither_punctuation_nor_case_nor_line_breaks_nor_a_number_hide_an_item(edited: str) -> None:
    assert hits([QUESTION], [f"Some page. {edited} And on it goes.", "Mary's well-known shop"]) == [(0, 0)]


def test_whole_items_ignore_what_templates_share_and_what_only_ends_alike() -> None:
    story = "Ann has {} red marbles and gives {} to Ben before he goes home for the day. How many?"
    prompts = [story.format(12, 5), "2+3=?"]
    texts = [story.format(12, 6), f"One. {story.format(12, 5)} 7", "1+2+3=? 6", "12+3=? 15", "x\n2+3=? 5"]
    assert hits(prompts, texts, whole_items=True) == [(1, 0), (4, 1)]
    assert (0, 0) in hits(prompts, texts)


def test_a_solution_is_found_behind_the_operations_of_a_longer_one() -> None:
    solution = "2+3-1=5-1=4"
    texts = ["1+1+3-1=2+3-1=5-1=4", "12+3-1=15-1=14", "so 2+3-1=5-1=4", "2+3-1=5-1", "1+2+3-1=5-1=4"]
    assert hits([solution], texts, whole_items=True) == [(0, 0), (2, 0)]


def test_nothing_is_found_across_two_documents() -> None:
    assert hits(["one two three four"], ["one two", "three four"]) == []


alphabet = st.sampled_from(["a", "b", "c", "d", "1"])


@given(
    st.lists(st.lists(alphabet, min_size=1, max_size=12), max_size=4),
    st.lists(st.lists(alphabet, max_size=30), max_size=6),
)
@settings(max_examples=200, deadline=None)
def test_search_agrees_with_comparing_everything(prompts: list[list[str]], texts: list[list[str]]) -> None:
    size, least = 5, 2

    def overlap(prompt: list[str], text: list[str]) -> bool:
        n = min(size, len(prompt))
        grams = {tuple(prompt[i : i + n]) for i in range(len(prompt) - n + 1)} if len(prompt) >= least else set()
        return any(tuple(text[i : i + n]) in grams for i in range(len(text) - n + 1))

    expected = [i for i, text in enumerate(texts) if any(overlap(p, text) for p in prompts)]
    found = hits([" ".join(p) for p in prompts], [" ".join(t) for t in texts], ngram=size, min_item_tokens=least)
    assert [document for document, _ in found] == expected
    assert all(overlap(prompts[prompt], texts[document]) for document, prompt in found)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        EvalIndex(["a"], DecontaminationConfig(ngram=0))
