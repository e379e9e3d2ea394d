"""Small studies of what a language model does with its context: recall of pairs, composed instructions, steps in a row.

Each row of a task is one sequence with marks on the tokens that count. A marked token's condition says what it asks:

    recall        pairs (key, value) of a map that is drawn anew for each sequence, keys coming again and again; a value
                  is asked for with so many showings of its key before it. Without any, nothing beats chance (the
                  associative recall of Arora et al. 2023, 2312.04927)
    compositions  an instruction of one or two operations, and a word to do them to; some pairs of operations are in no
                  training sequence, though each of their operations is in many
    steps         a digit and so many additions modulo ten; the answer at once, or after the running values

A condition counts as solved where all of its marked tokens are the model's first choice given those before, which is
what greedy decoding would write.

Shapes: B rows, T tokens; `condition_BT`: -1 where a token does not count.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from components.model.lstm import LanguageModel
from components.scaling.in_context_config import LENGTHS, NUM_STEPS, OPERATIONS, SHOTS, InContextConfig, Task
from components.statistics import Interval, wilson
from components.training.language_model import IGNORE, LMBatch

_LETTERS = 8
_EVAL_SEED = 10_000_019


@dataclass(frozen=True)
class Rows:
    """`tokens_BT1`: shape (B, T + 1); `condition_BT1`: of each token, an index into `names`, or -1."""

    tokens_BT1: Tensor
    condition_BT1: Tensor
    names: tuple[str, ...]

    def batch(self) -> LMBatch:
        """As the training loop takes it: only marked tokens are targets."""
        targets_BT = self.tokens_BT1[:, 1:].masked_fill(self.condition_BT1[:, 1:] < 0, IGNORE)
        return LMBatch(self.tokens_BT1[:, :-1], targets_BT)


def vocab_size(task: Task, config: InContextConfig) -> int:
    """Tokens of the task, the padding included."""
    if task == "recall":
        return 1 + config.num_keys + config.num_values
    return 1 + len(OPERATIONS) + _LETTERS + 2 if task == "compositions" else 1 + 10 + 2 * 9 + 3


def training_rows(task: Task, config: InContextConfig, seed: int, step: int) -> Rows:
    """The batch of a step, of the seed and the step alone; the same for all models."""
    rng = random.Random(f"{task}-{seed}-{step}")
    return _MAKERS[task](config, rng, config.train.batch_size, False)


def evaluation_rows(task: Task, config: InContextConfig) -> Rows:
    """What all models are asked; of compositions with those that no training has."""
    return _MAKERS[task](config, random.Random(f"{task}-{_EVAL_SEED}"), config.eval_rows, True)


@torch.no_grad()
def solved(model: LanguageModel, rows: Rows, at_once: int = 64) -> dict[str, Interval]:
    """By condition the share of the rows' questions whose marked tokens are all the model's first choice, with Wilson's
    interval. In recall each token is a question of its own, elsewhere a row is."""
    right: dict[int, list[bool]] = {}
    for first in range(0, len(rows.tokens_BT1), at_once):
        tokens_BT1 = rows.tokens_BT1[first : first + at_once]
        chosen_BT = model(tokens_BT1[:, :-1]).argmax(-1)
        hit_BT = chosen_BT == tokens_BT1[:, 1:]
        condition_BT = rows.condition_BT1[first : first + at_once, 1:]
        if rows.names[0].endswith("shots"):
            for condition, hit in zip(condition_BT[condition_BT >= 0], hit_BT[condition_BT >= 0], strict=True):
                right.setdefault(int(condition), []).append(bool(hit))
            continue
        for conditions_T, hits_T in zip(condition_BT, hit_BT, strict=True):
            marked_T = conditions_T >= 0
            right.setdefault(int(conditions_T[marked_T][0]), []).append(bool(hits_T[marked_T].all()))
    return {rows.names[i]: wilson(sum(right[i]), len(right[i])) for i in sorted(right)}


def _recall(config: InContextConfig, rng: random.Random, count: int, held_out: bool) -> Rows:
    names = tuple(f"{shots} shots" for shots in SHOTS)
    tokens = np.zeros((count, 2 * config.num_pairs), dtype=np.int64)
    condition = np.full_like(tokens, -1)
    for row in range(count):
        keys = rng.sample(range(config.num_keys), config.keys_a_row)
        value_of = {key: rng.randrange(config.num_values) for key in keys}
        seen = dict.fromkeys(keys, 0)
        for place in range(config.num_pairs):
            key = rng.choice(keys)
            tokens[row, 2 * place] = 1 + key
            tokens[row, 2 * place + 1] = 1 + config.num_keys + value_of[key]
            # At first sight a value cannot be known; it is asked for in the evaluation alone, as the chance level.
            if seen[key] or held_out:
                condition[row, 2 * place + 1] = min(seen[key], SHOTS[-1])
            seen[key] += 1
    return Rows(torch.from_numpy(tokens), torch.from_numpy(condition), names)


_OPERATIONS: Mapping[str, Callable[[list[int]], list[int]]] = {
    "reverse": lambda word: word[::-1],
    "first": lambda word: word[:1],
    "last": lambda word: word[-1:],
    "repeat": lambda word: word + word,
    "rotate": lambda word: word[1:] + word[:1],
    "next": lambda word: [(letter + 1) % _LETTERS for letter in word],
    "sort": sorted,
}


def held_out_pairs() -> tuple[tuple[str, str], ...]:
    """Of all ordered pairs of operations each fifth, in no training sequence; every operation stands in others, first
    as well as second."""
    pairs = [(a, b) for a in OPERATIONS for b in OPERATIONS if a != b]
    return tuple(pairs[2::5])


def _compositions(config: InContextConfig, rng: random.Random, count: int, held_out: bool) -> Rows:
    names = ("one operation", "trained pair", "held-out pair")
    secret = set(held_out_pairs())
    known = [(a, b) for a in OPERATIONS for b in OPERATIONS if a != b and (a, b) not in secret]
    width = 2 + 1 + LENGTHS[1] + 1 + 2 * LENGTHS[1] + 1
    start, end = 1 + len(OPERATIONS) + _LETTERS, 2 + len(OPERATIONS) + _LETTERS
    tokens = np.zeros((count, width), dtype=np.int64)
    condition = np.full_like(tokens, -1)
    for row in range(count):
        kind = row % 3 if held_out else rng.choice((0, 1, 1))
        chosen = ((rng.choice(OPERATIONS),), rng.choice(known), rng.choice(sorted(secret)))[kind]
        word = [rng.randrange(_LETTERS) for _ in range(rng.randint(*LENGTHS))]
        answer = word
        for operation in chosen:
            answer = _OPERATIONS[operation](answer)
        asked = [1 + OPERATIONS.index(operation) for operation in chosen]
        line = [*asked, start, *(1 + len(OPERATIONS) + letter for letter in word), start]
        answered = [*(1 + len(OPERATIONS) + letter for letter in answer), end]
        tokens[row, : len(line) + len(answered)] = [*line, *answered]
        condition[row, len(line) : len(line) + len(answered)] = kind
    return Rows(torch.from_numpy(tokens), torch.from_numpy(condition), names)


def _steps(config: InContextConfig, rng: random.Random, count: int, held_out: bool) -> Rows:
    most = NUM_STEPS[-1]
    names = tuple(f"{n} steps {how}" for how in ("at once", "worked") for n in NUM_STEPS)
    direct, worked, end = 29, 30, 31
    tokens = np.zeros((count, 1 + most + 1 + most + 1), dtype=np.int64)
    condition = np.full_like(tokens, -1)
    for row in range(count):
        place = row % len(names) if held_out else rng.randrange(len(names))
        steps, is_worked = NUM_STEPS[place % len(NUM_STEPS)], place >= len(NUM_STEPS)
        value = rng.randrange(10)
        line, values = [1 + value], []
        for _ in range(steps):
            by = rng.choice([*range(-9, 0), *range(1, 10)])
            value = (value + by) % 10
            line.append(11 + by + 9 - (by > 0))
            values.append(1 + value)
        line.append(worked if is_worked else direct)
        answer = [*(values if is_worked else values[-1:]), end]
        tokens[row, : len(line) + len(answer)] = [*line, *answer]
        condition[row, len(line) : len(line) + len(answer)] = place
    return Rows(torch.from_numpy(tokens), torch.from_numpy(condition), names)


_MAKERS: Mapping[Task, Callable[[InContextConfig, random.Random, int, bool], Rows]] = {
    "recall": _recall,
    "compositions": _compositions,
    "steps": _steps,
}


def measured_at(config: InContextConfig) -> Iterator[int]:
    """The steps of training after which the questions are asked, evenly spaced, the last included."""
    for part in range(1, config.measurements + 1):
        yield round(config.train.num_steps * part / config.measurements)
