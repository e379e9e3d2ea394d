"""Ways to answer: at once, in steps, by a vote of samples, by the best of k. All work on the seam of `inference.text`.

Each takes the whole suite and asks for all completions in one call. Tokens are counted as they would be paid: a prompt
once for all samples that share it, and every generated token, discarded samples included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from components.inference.sampling import SamplingParams
from components.inference.text import Generate, TextCompletion, TextPrompt
from components.reasoning import puzzles, tasks
from components.statistics import Interval, mean_interval

Shots = tuple[tuple[str, str], ...]


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


@dataclass(frozen=True)
class Outcome:
    """What a strategy answered to one item and what that took. completion_tokens: all that were generated for it.
    score: in [0, 1]; the verdict as a number unless a strategy says better. details: JSON values."""

    item_id: str
    answer: str
    correct: bool
    completion_tokens: int
    prompt_tokens: int
    score: float
    details: Mapping[str, Any] = field(default_factory=dict)


Strategy = Callable[[Generate, Sequence[Item]], list[Outcome]]


# -- one answer --------------------------------------------------------------------------------------------------------


def direct(generate: Generate, items: Sequence[Item], max_tokens: int = 8, shots: Shots = ()) -> list[Outcome]:
    """Greedy, answered at once."""
    return _greedy(generate, items, [TextPrompt(item.direct, shots=shots) for item in items], max_tokens)


def chain_of_thought(
    generate: Generate, items: Sequence[Item], max_tokens: int = 96, shots: Shots = ()
) -> list[Outcome]:
    """Greedy, worked in steps (Wei et al. 2022; zero-shot after Kojima et al. 2022, few-shot with `shots`)."""
    return _greedy(generate, items, [TextPrompt(item.worked, shots=shots) for item in items], max_tokens)


def _greedy(generate: Generate, items: Sequence[Item], prompts: list[TextPrompt], max_tokens: int) -> list[Outcome]:
    completions = generate(prompts, SamplingParams(max_tokens=max_tokens, temperature=0.0))
    return [
        _outcome(item, done, [done], {"log_prob": done.log_prob, "finished": done.finished})
        for item, (done,) in zip(items, completions, strict=True)
    ]


def _outcome(
    item: Item, chosen: TextCompletion, spent: Sequence[TextCompletion], details: Mapping[str, Any], text: str = ""
) -> Outcome:
    text = text or chosen.text
    correct = item.verify(text)
    return Outcome(
        item_id=item.item_id,
        answer=item.extract(text),
        correct=correct,
        completion_tokens=sum(done.num_tokens for done in spent),
        prompt_tokens=chosen.prompt_tokens,
        score=float(correct),
        details={"text": text, **details},
    )


# -- votes -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Independent worked answers to each item, drawn once; votes and best-of-k of every size are read from them."""

    items: tuple[Item, ...]
    completions: tuple[tuple[TextCompletion, ...], ...]

    @property
    def num_samples(self) -> int:
        """Answers an item."""
        return len(self.completions[0]) if self.completions else 0

    @property
    def total_tokens(self) -> int:
        """Tokens that drawing them took, generated and read, a prompt once for its samples."""
        return sum(group[0].prompt_tokens + sum(done.num_tokens for done in group) for group in self.completions)

    def sizes(self) -> list[int]:
        """1, 2, 4, … up to the number of samples."""
        return [2**power for power in range(self.num_samples.bit_length())] if self.num_samples else []


def draw(
    generate: Generate,
    items: Sequence[Item],
    num_samples: int = 16,
    temperature: float = 1.0,
    max_tokens: int = 96,
    seed: int = 0,
    shots: Shots = (),
) -> Samples:
    """Sample `num_samples` worked answers to each item."""
    prompts = [TextPrompt(item.worked, shots=shots) for item in items]
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature, num_samples=num_samples, seed=seed)
    return Samples(tuple(items), tuple(tuple(group) for group in generate(prompts, params)))


@dataclass(frozen=True)
class Tally:
    """The result of a vote: the answer, the sample that stands for it, its votes, and votes of all answers."""

    answer: str
    chosen: TextCompletion
    counts: Mapping[str, int]

    @property
    def agreement(self) -> float:
        """Share of the samples that gave the winning answer; 0 where none gave any."""
        return self.counts[self.answer] / max(1, sum(self.counts.values())) if self.answer else 0.0


def tally(item: Item, samples: Sequence[TextCompletion]) -> Tally:
    """Majority vote of samples (Wang et al. 2023)."""
    return best_tally([(item.extract(done.text), done) for done in samples])


def best_tally(votes: Sequence[tuple[str, TextCompletion]]) -> Tally:
    """Majority of (answer, sample) pairs. A tie goes to the answer whose samples have the larger summed
    log-probability; a sample without an answer counts as an abstention, which cannot win against any answer."""
    counts: dict[str, int] = {}
    log_probs: dict[str, float] = {}
    for answer, done in votes:
        counts[answer] = counts.get(answer, 0) + 1
        log_probs[answer] = log_probs.get(answer, 0.0) + done.log_prob
    best = max(counts, key=lambda answer: (answer != "", counts[answer], log_probs[answer]))
    backers = [done for answer, done in votes if answer == best]
    return Tally(best, max(backers, key=lambda done: done.log_prob), counts)


def self_consistency(samples: Samples, size: int) -> list[Outcome]:
    """Majority vote of each item's first `size` samples."""
    outcomes = []
    for item, group in zip(samples.items, _first(samples, size), strict=True):
        vote = tally(item, group)
        details = {"votes": dict(vote.counts), "agreement": vote.agreement}
        outcomes.append(_outcome(item, vote.chosen, group, details))
    return outcomes


def _first(samples: Samples, size: int) -> list[tuple[TextCompletion, ...]]:
    if not 1 <= size <= samples.num_samples:
        raise ValueError(f"a vote or choice of {size} samples; 1 to {samples.num_samples} were drawn")
    return [group[:size] for group in samples.completions]


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy (95% interval over items) and mean generated tokens an item of a vote or choice of `size` samples."""

    size: int
    accuracy: Interval
    tokens: float


def size_curve(
    samples: Samples, strategy: Callable[[Samples, int], list[Outcome]] = self_consistency
) -> list[CurvePoint]:
    """`strategy` at sizes 1, 2, 4, … from one set of samples.

    Each size is averaged over the disjoint blocks of samples that fit, which takes noise out of the small sizes; the
    interval is over items, since the blocks of an item are not independent.
    """
    points = []
    for size in samples.sizes():
        blocks = [
            Samples(samples.items, tuple(group[start : start + size] for group in samples.completions))
            for start in range(0, samples.num_samples - size + 1, size)
        ]
        outcomes = [strategy(block, size) for block in blocks]
        correct = np.array([[o.correct for o in block] for block in outcomes], dtype=float).mean(0)
        tokens = float(np.mean([[o.completion_tokens for o in block] for block in outcomes]))
        points.append(CurvePoint(size, mean_interval(correct), tokens))
    return points


# -- the best of k -----------------------------------------------------------------------------------------------------


def best_of_k(
    samples: Samples, size: int, scorer: Callable[[Item, TextCompletion], float] | None = None
) -> list[Outcome]:
    """Of each item's first `size` samples the one that `scorer` rates highest; without a scorer the exact verifier
    chooses, and the answer is right when any sample is. The first of equals is taken.

    details["sequential_tokens"]: what it would take to sample one after the other and stop at the first that the
    verifier accepts.
    """
    outcomes = []
    for item, group in zip(samples.items, _first(samples, size), strict=True):
        rate = scorer or (lambda item, done: float(item.verify(done.text)))
        scores = [rate(item, done) for done in group]
        chosen = group[int(np.argmax(scores))]
        first = next((i for i, done in enumerate(group) if item.verify(done.text)), size - 1)
        details = {
            "chosen": int(np.argmax(scores)),
            "sequential_tokens": sum(done.num_tokens for done in group[: first + 1]),
        }
        outcomes.append(_outcome(item, chosen, group, details))
    return outcomes


def by_log_prob(item: Item, done: TextCompletion) -> float:
    """A scorer for `best_of_k` without a verifier: log-probability a token, in nats."""
    return done.log_prob / max(1, done.num_tokens)
