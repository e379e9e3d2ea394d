"""Questions as strategies see them, whatever the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from components.inference.text import TextCompletion, TextPrompt
from components.reasoning import puzzles, tasks
from components.reasoning.scoring.scorers import Status
from components.reasoning.scoring.text import refuses, spoken


@dataclass(frozen=True)
class Item:
    """A question as strategies see it. direct, worked: what the user says to get an answer at once, or in steps.
    extract: the answer in a text ("" where there is none). verify: the exact verifier of a text. extract_cut,
    verify_cut: the same of a text that the length limit cut, by default alike. direct_shots, worked_shots: examples
    that come before. form: what an answer looks like, in words."""

    item_id: str
    question: str
    target: str
    difficulty: int
    direct: str
    worked: str
    extract: Callable[[str], str] = field(repr=False)
    verify: Callable[[str], bool] = field(repr=False)
    extract_cut: Callable[[str], str] | None = field(default=None, repr=False)
    verify_cut: Callable[[str], bool] | None = field(default=None, repr=False)
    direct_shots: tuple[tuple[str, str], ...] = ()
    worked_shots: tuple[tuple[str, str], ...] = ()
    form: str = "the answer"

    @property
    def direct_prompt(self) -> TextPrompt:
        """As it is asked to get an answer at once."""
        return TextPrompt(self.direct, shots=self.direct_shots)

    @property
    def worked_prompt(self) -> TextPrompt:
        """As it is asked to get an answer in steps."""
        return TextPrompt(self.worked, shots=self.worked_shots)

    def answer_of(self, done: TextCompletion) -> str:
        """The answer that a completion gives; "" where it gives none."""
        return (self.extract if done.finished or self.extract_cut is None else self.extract_cut)(done.text)

    def accepts(self, done: TextCompletion) -> bool:
        """Whether a completion is right."""
        return (self.verify if done.finished or self.verify_cut is None else self.verify_cut)(done.text)

    def status_of(self, done: TextCompletion) -> Status:
        """Whether a completion gives an answer at all, or why not."""
        if done.problem:
            return done.problem
        if self.answer_of(done):
            return "answered"
        if refuses(spoken(done.text)):
            return "refused"
        return "unparsed" if done.finished else "truncated"


def chain_item(problem: tasks.Problem) -> Item:
    """A chain of sums: the answer is its last number; one that was cut has none."""
    return Item(
        item_id=problem.question,
        question=problem.question,
        target=problem.answer,
        difficulty=problem.difficulty,
        direct=tasks.prompt(problem, "direct"),
        worked=tasks.prompt(problem, "worked"),
        extract=tasks.extract_answer,
        verify=lambda text: tasks.is_correct(problem, text),
        extract_cut=lambda text: "",
        verify_cut=lambda text: False,
    )


def puzzle_item(puzzle: puzzles.SignPuzzle) -> Item:
    """A sign puzzle: the answer is the whole list of steps, and no single one is the target."""
    return Item(
        item_id=puzzle.state,
        question=puzzle.state,
        target="0",
        difficulty=len(puzzle.numbers),
        direct=puzzles.solve_prompt(puzzle),
        worked=puzzles.solve_prompt(puzzle),
        extract=str.strip,
        verify=lambda text: puzzles.is_solution(puzzle, text),
    )
