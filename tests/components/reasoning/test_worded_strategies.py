"""Strategies for questions in words, on a scripted model: what they ask, choose and count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import pytest
from scipy.stats import beta

from components.inference.sampling import SamplingParams
from components.inference.text import TextCompletion, TextPrompt
from components.reasoning.items import Item
from components.reasoning.prompting.templates import template
from components.reasoning.scoring.arithmetic import NotArithmetic, value_of_program
from components.reasoning.scoring.scorers import SCORERS
from components.reasoning.strategies.grades import grade_of
from components.reasoning.strategies.least_to_most import parts_of
from components.reasoning.strategies.named import FIXED, SIZED, strategy_named
from components.reasoning.strategies.refine import says_wrong
from components.reasoning.strategy import Outcome, Trial
from components.reasoning.task_files.asking import as_item
from components.reasoning.task_files.reading import TaskItem

Say = Callable[[TextPrompt, int], str]


def item(question: str = "2+2?", answer: str = "4") -> Item:
    one = TaskItem(question, question, answer, "", question, "suite", SCORERS["number"], "file", 1)
    return as_item(one, template("direct", "direct"), template("cot", "cot"))


class Model:
    """Says what `say` tells of a prompt and the number of a sample; a token a word. `asked`: its requests."""

    def __init__(self, say: Say, finished: bool = True) -> None:
        self.say, self.finished = say, finished
        self.asked: list[tuple[TextPrompt, SamplingParams]] = []

    def __call__(self, prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        self.asked += [(prompt, params) for prompt in prompts]
        return [[self._said(prompt, n) for n in range(params.num_samples)] for prompt in prompts]

    def _said(self, prompt: TextPrompt, sample: int) -> TextCompletion:
        text = self.say(prompt, sample)
        return TextCompletion(text, len(text.split()), 0.0, self.finished, prompt_tokens=10)


def answered(name: str, say: Say, *items: Item, finished: bool = True) -> tuple[list[Outcome], Model]:
    model, strategy = Model(say, finished), strategy_named(name)
    trial = Trial(model, items or (item(),), num_samples=strategy.size or 1, max_tokens=64, max_direct_tokens=8)
    return strategy.answer(trial), model


def is_a(prompt: TextPrompt, style: str) -> bool:
    """Whether a prompt is worded by the template of that name: by the words that stand before its first place."""
    return {
        "judge": "Answer of a student" in prompt.user,
        "critique": "Look for mistakes" in prompt.user,
        "refine": "A reviewer says" in prompt.user,
        "propose": "Write the next step" in prompt.user,
        "value": "do they lead to the answer" in prompt.user,
        "vote": "the most promising" in prompt.user,
    }[style]


def test_a_weighted_vote_follows_grades_and_a_choice_takes_the_best_one() -> None:
    texts = ("The answer is 5.", "So the answer is 5.", "The answer is 4.")

    def say(prompt: TextPrompt, sample: int) -> str:
        if is_a(prompt, "judge"):
            return "Grade: 9" if "is 4" in prompt.user else "Grade: 2"
        return texts[sample]

    (vote,), model = answered("wsc@3", say)
    (best,), _ = answered("judge@3", say)
    assert (vote.answer, best.answer) == ("4", "4")  # 0.9 against 0.2 + 0.2
    assert vote.details["grades"] == [0.2, 0.2, 0.9]
    assert len(model.asked) == 1 + 3
    # Samples of 4, 5 and 4 words, and three grades of two; the prompt of the samples once.
    assert (vote.completion_tokens, vote.prompt_tokens) == (13 + 6, 40)


def test_equal_texts_are_judged_once_and_texts_without_an_answer_never() -> None:
    def say(prompt: TextPrompt, sample: int) -> str:
        return "Grade: 5" if is_a(prompt, "judge") else ("no idea" if sample == 2 else "The answer is 4.")

    (vote,), model = answered("wsc@3", say)
    assert vote.answer == "4"
    assert sum(is_a(prompt, "judge") for prompt, _ in model.asked) == 1


def test_esc_ends_with_the_first_window_that_agrees() -> None:
    def say(prompt: TextPrompt, sample: int) -> str:
        if "easy" in prompt.user:
            return "The answer is 4."
        return f"The answer is {sample}."

    (easy, hard), _ = answered("esc@12", say, item("easy"), item("hard"))
    assert (easy.details["samples"], hard.details["samples"]) == (4, 12)
    assert easy.correct


def test_adaptive_consistency_ends_where_the_lead_is_sure() -> None:
    (one,), model = answered("ac@16", lambda prompt, sample: "The answer is 4.")
    needed = next(n for n in range(1, 17) if 1 - beta.cdf(0.5, n + 1, 1) >= 0.95)
    assert one.details["samples"] == needed == 4
    assert len({params.seed for _, params in model.asked}) == 4  # no sample is drawn twice


def test_kojima_draws_the_answer_out_of_the_chain() -> None:
    (one,), model = answered("kojima", lambda prompt, sample: "4" if prompt.shots else "Two and two make it.")
    assert [prompt.user for prompt, _ in model.asked] == [
        "2+2?\nLet's think step by step.",
        "Therefore, the final number is",
    ]
    assert model.asked[1][0].shots == (("2+2?\nLet's think step by step.", "Two and two make it."),)
    assert (one.answer, one.correct, one.prompt_tokens) == ("4", True, 20)


@pytest.mark.parametrize(
    ("first", "verdict", "second", "changed", "calls"),
    [
        ("5", "WRONG: count again", "4", "wrong to right", 3),
        ("4", "I think it is WRONG", "5", "right to wrong", 3),
        ("4", "CORRECT", "5", "", 2),
        ("4", "no verdict", "5", "", 2),
    ],
)
def test_refinement_counts_what_it_mends_and_what_it_spoils(
    first: str, verdict: str, second: str, changed: str, calls: int
) -> None:
    def say(prompt: TextPrompt, sample: int) -> str:
        if is_a(prompt, "critique"):
            return verdict
        return f"The answer is {second if is_a(prompt, 'refine') else first}."

    (one,), model = answered("refine@1", say)
    assert (one.details["changed"], len(model.asked)) == (changed, calls)
    assert one.details["first_right"] == (first == "4")


def test_a_critique_speaks_through_its_last_verdict() -> None:
    assert says_wrong("It looks CORRECT, but it is WRONG")
    assert not says_wrong("<think>WRONG?</think> CORRECT")
    assert not says_wrong("Not sure.")


def test_least_to_most_answers_the_parts_in_order() -> None:
    def say(prompt: TextPrompt, sample: int) -> str:
        if "List at most" in prompt.user:
            return "1. How many left?\n2) How many right?\nDone."
        if "Answer only this part" in prompt.user:
            return "two"
        return "The answer is 4."

    (one,), model = answered("ltm", say)
    assert one.details["parts"] == 2
    last = model.asked[-1][0].user
    assert last.index("Q: How many left?\nA: two") < last.index("Q: How many right?\nA: two")
    assert "How many left?\nA: two" in model.asked[2][0].user
    assert "A: two" not in model.asked[1][0].user
    assert one.correct


def test_a_list_is_at_most_four_parts() -> None:
    assert parts_of("- a\n* b\n3. c\n4) d\n5. e") == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("program", "value"),
    [
        ("a = 3\nb = a * 2.5\nanswer = b / 2", Fraction(15, 4)),
        ("x = 7 // 2\nx += 2 ** 3\nprint(x)", 11),
        ("round(10 / 3, 2)", Fraction(333, 100)),
        ("answer = max(1, 2) + abs(-3)\nrest = 0", 5),
        ("0.1 + 0.2", Fraction(3, 10)),
    ],
)
def test_programs_are_evaluated_exactly(program: str, value: Any) -> None:
    assert value_of_program(program) == value


@pytest.mark.parametrize(
    "program",
    [
        "import os",
        "answer = __import__('os').system('true')",
        "answer = ().__class__",
        "answer = 9 ** 9 ** 9",
        "answer = 2 ** 1000000",
        "answer = 1 / 0",
        "answer = unknown + 1",
        "answer = [x for x in range(9)]",
        "while True: pass",
        "answer = '4'",
        "answer = True",
        "x = 10 ** 60\n" + "x = x * x\n" * 90 + "answer = x",
        "(" * 500 + "1" + ")" * 500,
        "",
    ],
)
def test_what_is_no_arithmetic_is_refused(program: str) -> None:
    with pytest.raises(NotArithmetic):
        value_of_program(program)


def test_a_program_answers_and_one_that_cannot_be_evaluated_has_no_answer() -> None:
    (good,), _ = answered("pal", lambda p, n: "```python\napples = 2\nanswer = apples + 2\n```")
    (bad,), _ = answered("pal", lambda p, n: "```python\nimport os\nanswer = 4\n```")
    (cut,), _ = answered("pal", lambda p, n: "apples = 2\nanswer = 4", finished=False)
    assert (good.answer, good.correct) == ("4", True)
    assert (bad.answer, bad.details["status"], bad.details["trouble"]) == (
        "",
        "unparsed",
        "line 1 is no line `name = expression`",
    )
    assert cut.details["status"] == "truncated"


def test_budget_forcing_makes_it_wait_and_makes_it_end() -> None:
    def say(prompt: TextPrompt, sample: int) -> str:
        if prompt.user.startswith("Wait"):
            return "The answer is 4."
        return "The answer is 4." if prompt.user.startswith("Time is up") else "The answer is 5."

    (one,), model = answered("budget@1", say)
    assert (one.answer, one.details["turns"]) == ("4", 2)
    assert model.asked[1][0].shots[-1][1] == "The answer is 5."
    # What the limit cuts is not told to wait but to end.
    (cut,), model = answered(
        "budget@1", lambda p, n: "#### 4\n" if p.user.startswith("Time") else "2 and", finished=False
    )
    assert [prompt.user.split(".")[0] for prompt, _ in model.asked[1:]] == ["Time is up"]
    assert cut.answer == "4"


def steps_of_a_tree(prompt: TextPrompt, sample: int) -> str:
    """A good first step and a bad one; the good one leads to 4, the bad one to 5."""
    if is_a(prompt, "value"):
        return "Grade: 9" if "good" in prompt.user else "Grade: 4"
    if is_a(prompt, "vote"):
        return "Best: 1"
    if "good" in prompt.user:
        return "The answer is 4."
    if "bad" in prompt.user:
        return "The answer is 5."
    return ("a good step", "a bad step", "a bad step")[sample]


@pytest.mark.parametrize("name", ["tot", "tot-depth", "tot-vote", "beam@2"])
def test_a_tree_goes_on_from_what_is_valued(name: str) -> None:
    (one,), _ = answered(name, steps_of_a_tree)
    assert (one.answer, one.correct) == ("4", True)
    chosen = [step for step in one.steps if step.status == "chosen"]
    assert [one.steps[step.parent].text for step in chosen if step.parent is not None] == ["a good step"]


def test_a_tree_is_paid_for_whole_and_a_step_said_twice_is_one_node() -> None:
    (one,), model = answered("tot", steps_of_a_tree)
    generated = sum(
        len(model.say(prompt, n).split()) for prompt, params in model.asked for n in range(params.num_samples)
    )
    assert one.completion_tokens == generated
    assert one.prompt_tokens == 10 * len(model.asked)
    assert sum(step.text == "a bad step" for step in one.steps) == 1


def test_a_tree_that_finds_no_answer_ends_at_its_budget() -> None:
    (one,), _ = answered("tot-depth", lambda p, n: "Grade: 9" if is_a(p, "value") else f"step {n} of {len(p.user)}")
    assert (one.details["expansions"], one.details["leaves"], one.correct) == (12, 0, False)


@pytest.mark.parametrize(
    ("text", "grade"), [("Grade: 7", 0.7), ("grade 10", 1.0), ("I give 3 of it", 0.3), ("fine", None)]
)
def test_grades_are_read_from_words(text: str, grade: float | None) -> None:
    assert grade_of(text) == grade


@pytest.mark.parametrize("name", [*FIXED, *(f"{one}@2" for one in SIZED)])
def test_every_strategy_works_without_log_probabilities_and_survives_what_fails(name: str) -> None:
    def failing(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        gone = TextCompletion("", 0, 0.0, False, problem="failed", note="500", billed_prompt_tokens=0)
        return [[gone] * params.num_samples for _ in prompts]

    strategy = strategy_named(name)
    (one,) = strategy.answer(Trial(failing, [item()], num_samples=strategy.size or 1, max_tokens=64))
    assert (one.details["status"], one.correct, one.answer) == ("failed", False, "")
    (fine,), _ = answered(name, lambda p, n: "Grade: 5. The answer is 4.\n```\nanswer = 4\n```\n")
    assert fine.correct, fine


def test_an_unknown_name_tells_what_there_is() -> None:
    with pytest.raises(ValueError, match="there is no strategy 'sc': take one of direct, cot"):
        strategy_named("sc")
