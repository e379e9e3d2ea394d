"""Sign puzzles: put + or - before each number, in order, so that the start comes down to 0.

`40 with 12 7 25 10` is solved by `40-12=28;28+7=35;35-25=10;10-10=0;`. Every value on the way stays within 0..99. What
is left after a step is a smaller puzzle of the same kind, so a state of a search is a puzzle too. Of the 2^n choices of
signs only a few lead to 0: independent attempts fail exponentially often in n, while a state's prospects can be judged.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from components.reasoning.tasks import MAX_VALUE


@dataclass(frozen=True)
class SignPuzzle:
    """Bring `start` to 0 with all of `numbers`, in order, each added or subtracted, staying within 0..99."""

    start: int
    numbers: tuple[int, ...]

    @property
    def state(self) -> str:
        """`40 with 12 7 25 10`"""
        return f"{self.start} with {' '.join(map(str, self.numbers))}"

    def after(self, change: int) -> SignPuzzle:
        """What is left once the first number was added (`change` > 0) or subtracted."""
        return SignPuzzle(self.start + change, self.numbers[1:])

    def moves(self) -> list[int]:
        """The changes that the first number allows: at most +number and -number."""
        if not self.numbers:
            return []
        return [c for c in (self.numbers[0], -self.numbers[0]) if 0 <= self.start + c <= MAX_VALUE]


@dataclass(frozen=True)
class PuzzleConfig:
    """length: how many numbers; they are distinct ones of `numbers`. max_solutions: at most so many of the 2^length
    choices of signs may solve a puzzle.

    Single digits and tens keep every step's arithmetic easy, so that choosing the signs is what is hard; and what they
    reach is sparse, so that most wrong turns end nowhere.
    """

    length: int = 8
    numbers: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30)
    max_solutions: int = 2

    def __post_init__(self) -> None:
        for number in self.numbers:
            if not 1 <= number <= MAX_VALUE:
                raise ValueError(f"puzzle.numbers holds {number}: give numbers from 1 to {MAX_VALUE}")
        if not 1 <= self.length <= len(set(self.numbers)):
            raise ValueError(
                f"puzzle.length is {self.length}: give 1 to {len(set(self.numbers))}, since a puzzle takes "
                "distinct ones of puzzle.numbers"
            )
        if self.max_solutions < 1:
            raise ValueError(f"puzzle.max_solutions is {self.max_solutions}: give a number of at least 1")


def solve_prompt(puzzle: SignPuzzle) -> str:
    """What the user says to have a puzzle solved."""
    return f"Reach 0 from {puzzle.state}."


def judge_prompt(puzzle: SignPuzzle) -> str:
    """What the user says to have a state judged; the answer is `yes` or `no`."""
    return f"Can one reach 0 from {puzzle.state}?"


def step_text(value: int, change: int) -> str:
    """`40-12=28;`"""
    return f"{value}{change:+d}={value + change};"


def solution_text(puzzle: SignPuzzle, changes: list[int]) -> str:
    """The signed `changes` as worked steps."""
    steps, value = [], puzzle.start
    for change in changes:
        steps.append(step_text(value, change))
        value += change
    return "".join(steps)


def count_solutions(puzzle: SignPuzzle) -> int:
    """How many of the 2^n choices of signs solve the puzzle."""
    ways = {puzzle.start: 1}
    for number in puzzle.numbers:
        following: dict[int, int] = {}
        for value, count in ways.items():
            for reached in (value + number, value - number):
                if 0 <= reached <= MAX_VALUE:
                    following[reached] = following.get(reached, 0) + count
        ways = following
    return ways.get(0, 0)


def solvable(puzzle: SignPuzzle) -> bool:
    """The oracle of a state's value."""
    return count_solutions(puzzle) > 0


def sign_puzzle(rng: random.Random, config: PuzzleConfig) -> tuple[SignPuzzle, list[int]]:
    """A puzzle with 1 to `max_solutions` solutions, and the signed changes of one of them."""
    while True:
        numbers = rng.sample(sorted(set(config.numbers)), config.length)
        value, changes = 0, []
        for number in reversed(numbers):  # backwards from 0: undo a change, either way where both stay inside
            undone = rng.choice([u for u in (number, -number) if 0 <= value + u <= MAX_VALUE])
            value += undone
            changes.append(-undone)
        puzzle = SignPuzzle(value, tuple(numbers))
        if count_solutions(puzzle) <= config.max_solutions:
            return puzzle, changes[::-1]


def puzzle_suite(config: PuzzleConfig, seed: int, count: int) -> list[SignPuzzle]:
    """A fixed evaluation set without repeats; `puzzle_conversations` can hold it out."""
    rng = random.Random(f"puzzle-suite-{seed}")
    suite: dict[SignPuzzle, None] = {}
    while len(suite) < count:
        suite.setdefault(sign_puzzle(rng, config)[0])
    return list(suite)


_STEP = re.compile(r"(\d+)([+-])(\d+)=(\d+);")


def follow_steps(puzzle: SignPuzzle, text: str) -> SignPuzzle | None:
    """The state that worked steps lead to, or None when one of them breaks a rule or miscalculates."""
    position = 0
    for match in _STEP.finditer(text):
        left, sign, right, result = match.groups()
        change = int(f"{sign}{right}")
        if match.start() != position or int(left) != puzzle.start or change not in puzzle.moves():
            return None
        puzzle, position = puzzle.after(change), match.end()
        if puzzle.start != int(result):
            return None
    return puzzle if position == len(text) else None


def claimed_state(puzzle: SignPuzzle, step: str) -> SignPuzzle | None:
    """The state that one step says it leads to, its arithmetic unchecked; None unless it uses the next number."""
    match = _STEP.fullmatch(step)
    if match is None or not puzzle.numbers:
        return None
    left, _, right, result = map(str, match.groups())
    if (int(left), int(right)) != (puzzle.start, puzzle.numbers[0]):
        return None
    return SignPuzzle(int(result), puzzle.numbers[1:])


def is_solution(puzzle: SignPuzzle, text: str) -> bool:
    """The exact verifier: every number used once and in order, arithmetic right, 0 reached."""
    return follow_steps(puzzle, text.strip()) == SignPuzzle(0, ())


def puzzle_conversations(
    seed: int, config: PuzzleConfig, judge_share: float = 0.5, held_out: frozenset[SignPuzzle] = frozenset()
) -> Iterator[tuple[str, str]]:
    """Endless (user, assistant) pairs: puzzles with a solution, whole or from some step on, and states with a verdict.

    No puzzle of `held_out` is used, nor what lies on the way from it. A judged state stands on the way to a solution or
    beside it (play at random from a puzzle), as the states of a search do.
    """
    rng = random.Random(f"puzzle-conversations-{seed}")
    while True:
        puzzle, changes = sign_puzzle(rng, config)
        if puzzle in held_out:
            continue
        done = 0 if rng.random() < 0.5 else rng.randrange(config.length)
        if rng.random() >= judge_share:
            for change in changes[:done]:
                puzzle = puzzle.after(change)
            yield solve_prompt(puzzle), solution_text(puzzle, changes[done:])
            continue
        done = rng.randrange(1, config.length)
        wrong_from = rng.randrange(done) if rng.random() < 0.7 else done
        for index in range(done):
            moves = puzzle.moves()
            if not moves:
                break
            puzzle = puzzle.after(changes[index] if index < wrong_from else rng.choice(moves))
        if puzzle.numbers:
            yield judge_prompt(puzzle), "yes" if solvable(puzzle) else "no"
