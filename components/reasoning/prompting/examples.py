"""Which worked examples come before a question: random ones, similar ones, or ones unlike each other.

Likeness is the cosine of TF-IDF vectors of words. An example never is the question itself, nor of its cluster.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from components.reasoning.task_files.reading import TaskItem

Choice = Literal["random", "similar", "diverse"]
_WORD = re.compile(r"\w+")
Vector = Mapping[str, float]


@dataclass(frozen=True)
class Pool:
    """Items to choose examples from, with their vectors of length 1."""

    items: Sequence[TaskItem]
    vectors: Sequence[Vector]
    weights: Mapping[str, float]

    @classmethod
    def of(cls, items: Sequence[TaskItem]) -> Pool:
        """Weights are smoothed inverse document frequencies, ln((1 + n) / (1 + df)) + 1."""
        words = [Counter(_WORD.findall(item.text.lower())) for item in items]
        df = Counter(word for one in words for word in one)
        weights = {word: math.log((1 + len(items)) / (1 + count)) + 1 for word, count in df.items()}
        return cls(items, [_normal(one, weights) for one in words], weights)

    def vector(self, text: str) -> Vector:
        """Of a text; words that no item of the pool has do not count."""
        return _normal(Counter(_WORD.findall(text.lower())), self.weights)


def _normal(words: Counter[str], weights: Mapping[str, float]) -> Vector:
    found = {word: count * weights[word] for word, count in words.items() if word in weights}
    length = math.sqrt(sum(value * value for value in found.values()))
    return {word: value / length for word, value in found.items()} if length else {}


def likeness(a: Vector, b: Vector) -> float:
    """The cosine of two vectors of length 1."""
    if len(a) > len(b):
        a, b = b, a
    return sum(value * b.get(word, 0.0) for word, value in a.items())


def choose_examples(pool: Pool, k: int, choice: Choice, seed: int) -> Callable[[TaskItem], list[TaskItem]]:
    """A function from a question to its k examples (fewer where the pool has no more).

    random and diverse: the same for every question but for its own relatives. diverse: farthest first (Gonzalez 1985),
    from a random start. similar: the most similar one stands last, next to the question (Liu et al. 2022).
    """
    rng = random.Random(f"examples-{seed}")
    order = list(range(len(pool.items)))
    rng.shuffle(order)
    if choice == "diverse":
        order = _spread(pool, order, k)

    def examples(item: TaskItem) -> list[TaskItem]:
        allowed = [place for place in order if not _related(pool.items[place], item)]
        if choice == "similar":
            vector = pool.vector(item.text)
            allowed.sort(key=lambda place: -likeness(vector, pool.vectors[place]))
            return [pool.items[place] for place in reversed(allowed[:k])]
        return [pool.items[place] for place in allowed[:k]]

    return examples


def _related(example: TaskItem, item: TaskItem) -> bool:
    """An example with the same text is the question itself, from another file."""
    same_place = (example.file, example.line, example.id) == (item.file, item.line, item.id)
    return same_place or example.text == item.text or (example.cluster, example.file) == (item.cluster, item.file)


def _spread(pool: Pool, order: Sequence[int], k: int) -> list[int]:
    """Farthest first; twice as many as are wanted, since some may be left out, then the rest."""
    chosen = list(order[:1])
    nearest = {place: likeness(pool.vectors[place], pool.vectors[chosen[0]]) for place in order[1:]} if chosen else {}
    while nearest and len(chosen) < 2 * k:
        farthest = min(nearest, key=lambda place: nearest[place])
        del nearest[farthest]
        chosen.append(farthest)
        for place in nearest:
            nearest[place] = max(nearest[place], likeness(pool.vectors[place], pool.vectors[farthest]))
    return [*chosen, *nearest]
