"""What counts as an answer, what is equal, and what becomes of a sample without one."""

from __future__ import annotations

import random
import re
import time

import pytest

from components.inference.text import TextCompletion
from components.reasoning.items import chain_item
from components.reasoning.scoring.countdown import solves, value_of
from components.reasoning.scoring.extractors import EXTRACTORS
from components.reasoning.scoring.scorers import SCORERS, chosen_scorer, scorer_for
from components.reasoning.scoring.text import code_block, refuses
from components.reasoning.tasks import chain_problem, extract_answer, is_correct, response


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A: 65,960", "65960"),
        ("7.5", "7.5"),
        ("$18.00", "18"),
        ("pages 10-12", "12"),
        ("The answer is 18. Let me double-check with 2 examples.", "18"),
        ("\\boxed{\\frac{1}{2}}", "0.5"),
        ("it falls to −3", "-3"),
        ("so 1,2345 of them", "2345"),
        ("9" * 5000, ""),
        ("first 5, then " + "9" * 5000, ""),  # an earlier number is no stand-in
        ("The answer is 3 1/2 hours.", "3.5"),
        ("so $3\\frac{1}{2}$", "3.5"),
        ("It is 1½.", "1.5"),
        ("\\boxed{\\frac12}", "0.5"),
        ("\\boxed{7\\,000}", "7000"),
        ("about 1\u202f234", "1234"),
        ("The answer is 1.234,56", "1234.56"),
        ("€7,50", "7.5"),
        ("The answer is 2,5", "2.5"),
        ("these are 3,4", "4"),  # a list, where no answer is announced
        ("₹1,00,000", "100000"),
        ("2.5 × 10^3", "2500"),
        ("The answer is $2.5 \\times 10^{-3}$.", "0.0025"),
        ("1e3", "1000"),
        ("10³ of them", "1000"),
        ("The answer is 3 + 4 = 7", "7"),
        ("The answer should be 7, not 9.", "7"),
        ("The answer is not 5. The answer is 6, since 2 fit", "6"),
        ("**Answer**: 42 of 50", "42"),
        ("### Answer\n42\n", "42"),
        ("<answer>8</answer> I hope that helps with your 2 questions", "8"),
        ('{"answer": 7, "confidence": 0.9}', "7"),
    ],
)
def test_numbers_as_people_write_them(text: str, answer: str) -> None:
    assert SCORERS["number"].find(text)[0] == answer


@pytest.mark.parametrize(
    ("scorer", "text", "found", "extractor"),
    [
        ("choice", "The answer is C: it fits (A) best", "C", "marked-letter/2"),
        ("choice", "so (D)", "D", "letter/1"),
        ("exact", "So the answer is New York.", "New York.", "marked/2"),
        ("exact", " New York ", "New York", "whole/1"),
        ("text", "So the answer is New York.", "New York.", "marked/2"),
        ("text", " New York ", "New York", "line/1"),
        ("text", "It is big.\nIt may be New York", "", ""),
        ("word", "The answer is Yes, since 3 < 4.", "Yes", "marked-word/2"),
        ("word", "I would say no.", "no", "last-word/1"),
        ("yes-no", "The answer is **No**, since 3 < 4.", "No", "marked-yes-no/1"),
        ("yes-no", "Yes, it is not odd.", "Yes", "yes-no/1"),
        ("yes-no", "It is not known", "", ""),
        ("choice", "The correct answer is option (B), not (C).", "B", "marked-letter/2"),
        ("math", "so \\boxed{\\frac{\\sqrt{8}}{2}}", "$\\frac{\\sqrt{8}}{2}$", "marked-expression/2"),
        ("game24", "4 * 5 = 20\nAnswer: (4 * 5) + (10 - 6) = 24\n", "(4 * 5) + (10 - 6) = 24", "marked/2"),
        ("code", "Here:\n```python\nprint(1)\n```\nDone", "print(1)", "code/1"),
        ("number", "<think>#### 4</think>It is 5.\nQuestion: 6?\n#### 7", "5", "last-number/2"),
    ],
)
def test_an_answer_is_found_by_a_named_extractor(scorer: str, text: str, found: str, extractor: str) -> None:
    assert SCORERS[scorer].find(text) == (found, extractor)


def test_other_extractors_and_equalities_can_be_chosen_by_name() -> None:
    scorer = chosen_scorer("exact", ["boxed", "last-line"], "text-without-case", markers=("so:",))
    assert scorer.judge("a\n\\boxed{Bonn} maybe", ["bonn"]).right
    assert scorer.judge("or rather\nBONN", ["bonn"]).extractor == "last-line/1"
    with pytest.raises(ValueError, match=r"no extractor 'last'.*take one of marked, "):
        chosen_scorer("exact", ["last"])
    assert list(EXTRACTORS) == [extractor.name for extractor in EXTRACTORS.values()]


@pytest.mark.parametrize(
    ("text", "finished", "status"),
    [
        ("It is 5", True, "answered"),
        ("It is five", True, "unparsed"),
        ("3 + 2 = 5", False, "truncated"),
        ("#### 5\nand also", False, "answered"),
        ("\\boxed{5} and", False, "answered"),
        ("<think>it is 5", True, "unparsed"),
        ("I'm sorry, but I can't help with 5 of these.", True, "refused"),
        ("I cannot answer with certainty. #### 5", True, "answered"),
        ("", True, "unparsed"),
    ],
)
def test_every_sample_has_one_status(text: str, finished: bool, status: str) -> None:
    assert SCORERS["number"].judge(text, ["5"], finished).status == status


def test_a_reference_that_cannot_be_compared_with_fails_the_sample_and_says_why() -> None:
    verdict = SCORERS["number"].judge("5", ["five"])
    assert (verdict.status, verdict.note) == ("failed", "the reference answer 'five' holds no number")
    assert SCORERS["number"].judge("5", []).note == "no reference answer"
    assert SCORERS["number"].judge("5", ["five", "5"]).right  # any usable one


def test_equality_is_exact() -> None:
    number = SCORERS["number"]
    assert number.judge("0.3", ["0.1"]).right is False
    assert number.judge("1600.0", ["1,600"]).right
    assert number.judge("600", ["1,600"]).right is False
    assert number.judge("0.1000000000000000055511151231257827", ["0.1"]).right is False  # alike as floats
    assert number.same("0.5", "1/2")
    assert not SCORERS["game24"].same("(1 + 2) * 8", "(2 + 1) * 8")


@pytest.mark.parametrize(
    ("references", "scorer"),
    [
        (["18", "1,600", "7.5"], "number"),
        (["steps <<1+1=2>>\n#### 2", "He pays $3.\nA: 3"], "number"),
        (["A: all of them", "3"], "text"),
        (["(A)", "B"], "choice"),
        (["True", "(A)"], "text"),
        (["two\nlines"], "exact"),
        (["\\frac{1}{2}", "3"], "math"),
        ([], "exact"),
    ],
)
def test_references_tell_the_scorer(references: list[str], scorer: str) -> None:
    assert scorer_for(references) == scorer


def test_a_countdown_is_read_and_never_run() -> None:
    assert solves("(10 - 4) * (5 - 1) = 24", "1 4 5 10")
    assert solves("8 / (3 - 8 / 3)", "3 3 8 8")  # exact, not 23.999999999999989
    assert not solves("6 * 4 = 24", "1 4 6 1")
    assert not solves("None", "4 5 6 10")
    assert [value_of(x) for x in ("1/0", "__import__('os')", "2**9", "(" * 150, "9" * 300, "1.5", "")] == [None] * 7


@pytest.mark.parametrize("text", ["I can't help with that.", "Sorry, I cannot assist.", "I am unable to answer this"])
def test_a_refusal_begins_a_text(text: str) -> None:
    assert refuses(text)
    assert not refuses(f"She said: {text}")
    assert not refuses("I can't see why 3 + 4 is not 7, so 7.")


def test_code_is_the_last_block_of_its_language() -> None:
    text = "```sh\nls\n```\n```python\na\n```\n```json\n{}\n```"
    assert code_block(text, "python", "py") == "a\n"
    assert code_block(text) == "{}\n"
    assert code_block("no block", "python") is None


def test_a_text_of_whatever_form_is_read_in_a_moment() -> None:
    hostile = (
        "\\boxed{" * 20_000,
        "{" * 100_000,
        "<think>" * 20_000,
        "```\n" * 20_000,
        "1," * 50_000,
        "9/" * 50_000,
        " " * 90_000,
        "\n" * 90_000,
        "```" * 20_000,
    )
    began = time.process_time()
    assert [SCORERS["number"].judge(text, ["5"]).right for text in hostile] == [False] * 9
    assert [code_block(text) is None for text in hostile[3::5]] == [False, True]
    assert SCORERS["number"].find("İİİ the answer is 5 of 6")[0] == "5"  # whose lower case is longer
    assert time.process_time() - began < 2


def test_our_chains_keep_their_verdicts() -> None:
    """Against the last run of digits with its sign, which judged them before: all chains and all their beginnings."""
    rng, seen = random.Random(3), 0
    for _ in range(150):
        problem = chain_problem(rng, rng.randint(1, 8))
        for text in (response(problem, "direct"), response(problem, "worked")):
            for end in range(len(text) + 1):
                digits = re.findall(r"-?\d+", text[:end])
                assert extract_answer(text[:end]) == (str(int(digits[-1])) if digits else ""), text[:end]
                seen += 1
            assert is_correct(problem, text)
    assert seen > 5000


def test_a_chain_that_was_cut_is_truncated_and_never_right() -> None:
    item = chain_item(chain_problem(random.Random(1), 2))
    steps = f"12+3-8=15-8={item.target}"
    whole, cut = (TextCompletion(steps, 20, -1.0, finished=finished) for finished in (True, False))
    assert (item.accepts(whole), item.status_of(whole)) == (True, "answered")
    assert (item.accepts(cut), item.answer_of(cut), item.status_of(cut)) == (False, "", "truncated")
