"""Sign puzzles against brute force: counts, verifier, oracle, and the conversations that teach them."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from components.reasoning.puzzles import (
    PuzzleConfig,
    SignPuzzle,
    count_solutions,
    follow_steps,
    is_solution,
    puzzle_conversations,
    puzzle_suite,
    sign_puzzle,
    solution_text,
    solve_prompt,
)

SMALL = PuzzleConfig(length=5, numbers=tuple(range(1, 21)), max_solutions=2)


def solutions(puzzle: SignPuzzle) -> list[list[int]]:
    """By brute force over all signs."""
    found = []
    for signs in itertools.product((1, -1), repeat=len(puzzle.numbers)):
        changes = [s * n for s, n in zip(signs, puzzle.numbers, strict=True)]
        path = list(itertools.accumulate(changes, initial=puzzle.start))
        if path[-1] == 0 and all(0 <= value <= 99 for value in path):
            found.append(changes)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_puzzle_has_what_it_promises_and_the_verifier_takes_exactly_its_solutions(seed: int) -> None:
    puzzle, changes = sign_puzzle(random.Random(seed), SMALL)
    found = solutions(puzzle)
    assert changes in found
    assert count_solutions(puzzle) == len(found) <= SMALL.max_solutions
    assert len(set(puzzle.numbers)) == 5
    for signs in itertools.product((1, -1), repeat=5):
        tried = [s * n for s, n in zip(signs, puzzle.numbers, strict=True)]
        assert is_solution(puzzle, solution_text(puzzle, tried)) == (tried in found)


@pytest.mark.parametrize(
    "text",
    [
        "20-12=8;8-8=0;0+0=0;",  # one too many
        "20-12=8;",  # not all numbers
        "20-8=12;12-12=0;",  # not in order
        "20-12=7;7-7=0;",  # wrong sum
        "20-12=8;8-8=0",  # a step without its end
        "so 20-12=8;8-8=0;",
        "",
    ],
)
def test_the_verifier_refuses(text: str) -> None:
    assert is_solution(SignPuzzle(20, (12, 8)), "20-12=8;8-8=0;")
    assert not is_solution(SignPuzzle(20, (12, 8)), text)


def test_a_partial_solution_leads_to_a_smaller_puzzle_and_a_value_outside_0_to_99_to_none() -> None:
    puzzle = SignPuzzle(90, (12, 7, 19))
    assert follow_steps(puzzle, "90-12=78;") == SignPuzzle(78, (7, 19))
    assert follow_steps(puzzle, "") == puzzle
    assert follow_steps(puzzle, "90+12=102;") is None


def test_taught_answers_are_true_and_held_out_puzzles_are_not_used() -> None:
    suite = puzzle_suite(SMALL, seed=1, count=30)
    pairs = list(itertools.islice(puzzle_conversations(2, SMALL, held_out=frozenset(suite)), 2000))
    verdicts: list[bool] = []
    for user, assistant in pairs:
        start, numbers = re.fullmatch(r".*from (\d+) with ([\d ]+)[.?]", user).groups()  # type: ignore[union-attr]
        puzzle = SignPuzzle(int(start), tuple(map(int, numbers.split())))
        if user == solve_prompt(puzzle):
            assert is_solution(puzzle, assistant)
        else:
            assert assistant == ("yes" if solutions(puzzle) else "no")
            verdicts.append(assistant == "yes")
    assert 0.3 < sum(verdicts) / len(verdicts) < 0.7
    assert not {user for user, _ in pairs} & {solve_prompt(puzzle) for puzzle in suite}
    assert pairs[:50] == list(itertools.islice(puzzle_conversations(2, SMALL, held_out=frozenset(suite)), 50))


def test_a_setting_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct"):
        PuzzleConfig(length=7, numbers=(1, 2, 3, 4, 5, 6, 6))
