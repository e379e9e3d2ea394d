"""Verifiers: what counts as an answer, what is equal, and what is no answer at all."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from public_files import DATA

from components.reasoning.scoring.numbers import as_number, number_in
from components.reasoning.scoring.text import boxed, spoken
from components.rlhf.rewards.answers import RewardError, Sample, Score
from components.rlhf.rewards.choice import ChoiceReward
from components.rlhf.rewards.exact import ExactReward
from components.rlhf.rewards.json_schema import JsonSchemaReward
from components.rlhf.rewards.math_answer import MathReward
from components.rlhf.rewards.number import NumberReward
from components.rlhf.rewards.pattern import PatternReward

SOLUTIONS = DATA / "gsm8k/example_model_solutions.jsonl"


def sample(text: str, answer: str = "", finished: bool = True, **metadata: Any) -> Sample:
    return Sample(({"role": "user", "content": "A question."},), text, answer, metadata, finished)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("A: 65,960", 65960),
        ("7.5", Fraction(15, 2)),
        ("$18.00", 18),
        ("pages 10-12", 12),
        ("it falls to -3", -3),
        ("it falls to −3", -3),
        ("5 - 3", 3),
        ("about .5", Fraction(1, 2)),
        ("3/4 of it", Fraction(3, 4)),
        ("\\frac{1}{2}", Fraction(1, 2)),
        ("-\\frac{1}{2}", Fraction(-1, 2)),
        ("50%", 50),
        ("1,600,000.", 1600000),
        ("(12)", 12),
        ("x=12", 12),
        ("version 1.2.3.", 3),
        ("9" * 5000, None),
        ("none", None),
        ("", None),
    ],
)
def test_the_number_of_a_text(text: str, number: Fraction | int | None) -> None:
    assert number_in(text) == number


@pytest.mark.parametrize("text", ["1e999999999", "nan", "inf", "1/0", "--3", "twelve", "1,2,", "٣" * 400])
def test_what_is_no_number_is_none_and_never_an_exception(text: str) -> None:
    assert as_number(text) in (None, 12)


@pytest.mark.parametrize(
    ("text", "answer", "finished", "expected"),
    [
        ("3+4=7, so 7.", "7", True, ("answered", 1.0)),
        ("The answer is 18. Let me double-check with 2 examples.", "18", True, ("answered", 1.0)),
        ("So #### 18", "steps <<9*2=18>> #### 18", True, ("answered", 1.0)),
        ("\\boxed{1{,}600}", "1600", True, ("answered", 1.0)),
        ("<think>it is 4</think> 5", "5", True, ("answered", 1.0)),
        ("<think>it is 5, or", "5", False, ("truncated", 0.0)),
        ("It is 5.\nQ: What is 7?", "5", True, ("answered", 1.0)),
        ("I cannot say", "5", True, ("unparsed", 0.0)),
        ("37+8-6=45", "45", False, ("truncated", 0.0)),  # a cut chain: its last number is no answer
        ("#### 45\nand more", "45", False, ("answered", 1.0)),
        ("#### 4", "4", False, ("truncated", 0.0)),  # it may have been on its way to 45
        ("600", "1,600", True, ("answered", 0.0)),
    ],
)
def test_a_number_is_announced_or_last_and_a_cut_text_has_only_what_was_announced(
    text: str, answer: str, finished: bool, expected: tuple[str, float]
) -> None:
    score = NumberReward().score(sample(text, answer, finished))
    assert (score.status, score.value) == expected


def test_tolerance_is_absolute_or_relative_and_exact_at_its_edge() -> None:
    assert NumberReward(tolerance=0.5).score(sample("7.5", "7")).value == 1
    assert NumberReward(tolerance=0.5).score(sample("7.51", "7")).value == 0
    assert NumberReward(relative=0.125).score(sample("90", "80")).value == 1
    assert NumberReward(relative=0.125).score(sample("90.1", "80")).value == 0
    with pytest.raises(ValueError, match="tolerance is -1"):
        NumberReward(tolerance=-1)


@pytest.mark.skipif(not SOLUTIONS.exists(), reason="the published solutions are not here")
def test_verdicts_on_published_solutions_are_the_published_ones() -> None:
    """openai/grade-school-math, example_model_solutions.jsonl: 4 models × 1,319 with `is_correct`."""
    verifier, agreed, total = NumberReward(), 0, 0
    for line in SOLUTIONS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for solution in row.values():
            if isinstance(solution, dict):
                right = verifier.score(sample(solution["solution"], row["ground_truth"])).value == 1.0
                agreed, total = agreed + (right == solution["is_correct"]), total + 1
    assert (agreed, total) == (5276, 5276)


@pytest.mark.parametrize(
    ("text", "answer", "found", "value"),
    [
        ("The answer is (B).", "B", "B", 1.0),
        ("B", "(B)", "B", 1.0),
        ("b)", "B", "B", 1.0),
        ("It can't be (A) or (C), so (D).", "D", "D", 1.0),
        ("I think A is too small. The answer is C: it fits", "C", "C", 1.0),
        ("A good guess would be E", "E", "E", 1.0),
        ("Answer: B) 12 apples", "B", "B", 1.0),
        ("nothing", "B", "", 0.0),
    ],
)
def test_a_choice_is_the_letter_that_is_meant(text: str, answer: str, found: str, value: float) -> None:
    score = ChoiceReward().score(sample(text, answer))
    assert (score.found, score.value) == (found, value)


def test_an_exact_answer_is_the_whole_text_or_what_is_announced() -> None:
    assert ExactReward().score(sample("  New   York. ", "New York")).value == 1
    assert ExactReward().score(sample("The answer is New York.", "New York")).value == 1
    assert ExactReward().score(sample("new york", "New York")).value == 0
    assert ExactReward(ignore_case=True).score(sample("new york", "New York")).value == 1
    assert ExactReward().score(sample("New York", "New York", finished=False)).status == "truncated"
    assert ExactReward(marker_only=True).score(sample("New York", "New York")).status == "unparsed"


@pytest.mark.parametrize(
    ("text", "answer", "value"),
    [
        ("So $\\frac{1}{2}$.", "0.5", 1.0),
        ("\\boxed{(x+1)^2}", "x^2+2x+1", 1.0),
        ("\\boxed{\\{2, 1\\}}", "\\{1, 2\\}", 1.0),
        ("\\boxed{\\frac{\\sqrt{8}}{2}}", "\\sqrt{2}", 1.0),
        ("\\boxed{x+2}", "x+1", 0.0),
        ("\\boxed{__import__('os').system('touch /tmp/evil')}", "1", 0.0),
    ],
)
def test_mathematics_is_compared_as_such_and_never_run(text: str, answer: str, value: float) -> None:
    assert MathReward().score(sample(text, answer)).value == value


def test_mathematics_that_is_none_is_unparsed() -> None:
    assert MathReward().score(sample("I cannot say.", "1")).status == "unparsed"
    assert MathReward().score(sample("$\\frac{1}{2", "1", finished=False)).status == "truncated"


def test_a_pattern_and_its_group() -> None:
    assert PatternReward("colou?r").score(sample("many colors")).value == 1
    assert PatternReward("colou?r", whole=True).score(sample("many colors")).value == 0
    named = PatternReward(r"<a>(?P<answer>.*?)</a>")
    assert named.score(sample("<a> 7 </a>", "7")).value == 1
    assert named.score(sample("<a>8</a>", "7")).value == 0
    with pytest.raises(ValueError, match="not a regular expression: missing"):
        PatternReward("(")


def test_json_is_checked_against_its_schema_and_nothing_is_fetched(tmp_path: Path) -> None:
    schema = '{"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}'
    reward = JsonSchemaReward(schema=schema)
    assert reward.score(sample('{"city": "Bonn"}')).value == 1
    assert reward.score(sample('Here:\n```json\n{"city": "Bonn"}\n```')).value == 1
    assert reward.score(sample('{"city": 3}')) == Score(0.0, "answered", '{"city": 3}')
    assert reward.score(sample('{"city": "Bo', finished=False)).status == "truncated"
    assert reward.score(sample("[" * 100_000)).status == "unparsed"
    with pytest.raises(ValueError, match="is no JSON schema"):
        JsonSchemaReward(schema='{"type": "objekt"}')
    with pytest.raises(ValueError, match=r"refers to http://x/y"):
        JsonSchemaReward(schema='{"$ref": "http://x/y"}')
    with pytest.raises(ValueError, match="one of the two"):
        JsonSchemaReward()
    file = tmp_path / "schema.json"
    file.write_text(schema)
    assert JsonSchemaReward(path=str(file)).score(sample('{"city": "Bonn"}')).value == 1
    with pytest.raises(RewardError, match="No such file"):
        JsonSchemaReward(path=str(tmp_path / "none.json")).score(sample("{}"))


def test_boxes_nest_and_thoughts_are_left_out() -> None:
    assert boxed("\\boxed{\\frac{1}{2}} then \\boxed{3") == "\\frac{1}{2}"
    assert spoken("opened before</think>5") == "5"
    assert spoken("a <think>b</think> c <think>d") == "a  c "


def test_a_reference_that_cannot_be_judged_is_refused_with_a_reason() -> None:
    assert NumberReward().refusal("no idea", {}) == "the reference answer 'no idea' holds no number"
    assert ChoiceReward().refusal("twelve", {}) == "the reference answer 'twelve' is no letter"
    assert ExactReward().refusal("  ", {}) == "the reference answer is empty"
    assert NumberReward().refusal("steps #### 1,000", {}) == ""
