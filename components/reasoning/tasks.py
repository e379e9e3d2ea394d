"""Reasoning tasks with exact verifiers: chains of additions and subtractions.

A *chain* asks for the value of 1-10 operations, symbolically or in words; it can be answered directly or worked step
by step, by rewriting: each step does the first operation and copies the rest (`37+8-6=45-6=39`), so that what comes
next depends on the last expression alone. Every value on the way stays within 0..99.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from components.reasoning.scoring.numbers import last_term, shown

NAMES = ("Ann", "Ben", "Cara", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivan", "June")
OBJECTS = ("apples", "books", "coins", "shells", "stamps", "cards", "beads", "nuts")
GAINS = ("gets", "finds", "buys", "wins")
LOSSES = ("loses", "gives", "sells", "drops")
MAX_VALUE = 99

Style = Literal["direct", "worked"]
DIRECT_CUE = "Answer now."
WORKED_CUE = "Think in steps."


@dataclass(frozen=True)
class Problem:
    """One item: `question` without a cue, the worked `steps`, and the `answer` that the verifier compares with."""

    question: str
    steps: str
    answer: str
    difficulty: int
    form: Literal["symbolic", "words"]


def prompt(problem: Problem, style: Style) -> str:
    """What the user says: the question and how to answer it (zero-shot)."""
    return f"{problem.question} {DIRECT_CUE if style == 'direct' else WORKED_CUE}"


def response(problem: Problem, style: Style) -> str:
    """What a perfect assistant says."""
    return problem.answer if style == "direct" else problem.steps


def _signed_walk(rng: random.Random, length: int) -> tuple[int, list[int]]:
    """A start in 1..99 and signed single-digit changes that keep the running value within 0..99."""
    value = start = rng.randint(1, MAX_VALUE)
    changes = []
    for _ in range(length):
        change = rng.choice((-1, 1)) * rng.randint(1, 9)
        if not 0 <= value + change <= MAX_VALUE:
            change = -change
        changes.append(change)
        value += change
    return start, changes


def worked_steps(start: int, changes: list[int]) -> str:
    """`37+8-6=45-6=39`: the expression, rewritten once an operation until a number is left."""
    values = [start + sum(changes[:done]) for done in range(len(changes) + 1)]
    rests = ["".join(f"{change:+d}" for change in changes[done:]) for done in range(len(changes) + 1)]
    return "=".join(f"{value}{rest}" for value, rest in zip(values, rests, strict=True))


def chain_problem(rng: random.Random, difficulty: int) -> Problem:
    """A chain of `difficulty` operations, half of the time as a word problem."""
    start, changes = _signed_walk(rng, difficulty)
    steps, answer = worked_steps(start, changes), str(start + sum(changes))
    if rng.random() < 0.5:
        return Problem(f"{start}{''.join(f'{c:+d}' for c in changes)}=?", steps, answer, difficulty, "symbolic")
    name, thing = rng.choice(NAMES), rng.choice(OBJECTS)
    events = " ".join(f"{name} {rng.choice(GAINS if c > 0 else LOSSES)} {abs(c)}." for c in changes)
    question = f"{name} has {start} {thing}. {events} How many {thing}?"
    return Problem(question, steps, answer, difficulty, "words")


def chain_suite(seed: int, difficulties: tuple[int, ...], per_difficulty: int) -> list[Problem]:
    """A fixed evaluation set without repeats; its questions are what training data is decontaminated against."""
    rng = random.Random(f"chain-suite-{seed}")
    suite: dict[str, Problem] = {}
    for difficulty in difficulties:
        wanted = len(suite) + per_difficulty
        while len(suite) < wanted:
            problem = chain_problem(rng, difficulty)
            suite.setdefault(problem.question, problem)
    return list(suite.values())


def spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """The first problems of each difficulty, `count` in all, or all if there are fewer."""
    levels = [list(group) for _, group in groupby(problems, key=lambda problem: problem.difficulty)]
    each = -(-count // max(1, len(levels)))
    return [problem for level in levels for problem in level[:each]][:count]


@dataclass(frozen=True)
class HeldOutProblems:
    """What nothing may be trained on: `questions`, and `solutions` of two operations or more. A single operation is no
    solution but a fact, with which every longer chain ends."""

    questions: frozenset[str] = frozenset()
    solutions: frozenset[str] = frozenset()

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> HeldOutProblems:
        """All of them."""
        longer = (problem.steps for problem in problems if problem.difficulty > 1)
        return cls(frozenset(problem.question for problem in problems), frozenset(longer))

    def forbids(self, problem: Problem) -> bool:
        """Whether its question is held out or its worked steps hold a solution: as a whole, told in other words, or as
        what is left of a longer chain after its first operations."""
        parts = problem.steps.split("=")
        rests = ("=".join(parts[done:]) for done in range(len(parts) - 1))
        return problem.question in self.questions or any(rest in self.solutions for rest in rests)


@dataclass(frozen=True)
class SuiteConfig:
    """The held-out chains that every evaluation shares: `per_difficulty` problems of each number of operations."""

    difficulties: tuple[int, ...] = (2, 4, 6, 8)
    per_difficulty: int = 100
    seed: int = 1

    def problems(self) -> list[Problem]:
        """The items, in a fixed order."""
        return chain_suite(self.seed, self.difficulties, self.per_difficulty)

    def held_out(self) -> HeldOutProblems:
        """What training must not hold of them."""
        return HeldOutProblems.of(self.problems())


def extract_answer(text: str) -> str:
    """The last number of an answer, which is where both styles put it; empty when there is none. A step that was not
    done, "45-6", ends in -6, which is no answer to any chain."""
    value = last_term(text)
    return "" if value is None else shown(value)


def is_correct(problem: Problem, text: str) -> bool:
    """Exact match of the extracted answer."""
    return extract_answer(text) == problem.answer


def generate_problem_texts(
    seed: int, max_difficulty: int = 6, held_out: HeldOutProblems = HeldOutProblems()
) -> Iterator[str]:
    """Endless pretraining documents: single facts, worked chains and direct answers, as plain text. Chains that
    `held_out` forbids are drawn anew."""
    rng = random.Random(f"problem-texts-{seed}")
    while True:
        lines = []
        for _ in range(rng.randint(3, 6)):
            if rng.random() < 0.25:
                start, changes = _signed_walk(rng, 1)
                lines.append(worked_steps(start, changes))
            else:
                while held_out.forbids(problem := chain_problem(rng, rng.randint(1, max_difficulty))):
                    pass
                style: Style = "worked" if rng.random() < 0.8 else "direct"
                lines.append(f"{prompt(problem, style)} {response(problem, style)}")
        yield "\n".join(lines)
