"""Questions as strategies see them, whatever the task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from components.reasoning import puzzles, tasks


@dataclass(frozen=True)
class Item:
    """A question as strategies see it. direct, worked: what the user says to get an answer at once, or in steps.
    extract: the answer in a text ("" where there is none). verify: the exact verifier of a text."""

    item_id: str
    question: str
    target: str
    difficulty: int
    direct: str
    worked: str
    extract: Callable[[str], str] = field(repr=False)
    verify: Callable[[str], bool] = field(repr=False)


def chain_item(problem: tasks.Problem) -> Item:
    """A chain of sums: the answer is its last number."""
    return Item(
        item_id=problem.question,
        question=problem.question,
        target=problem.answer,
        difficulty=problem.difficulty,
        direct=tasks.prompt(problem, "direct"),
        worked=tasks.prompt(problem, "worked"),
        extract=tasks.extract_answer,
        verify=lambda text: tasks.is_correct(problem, text),
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
