"""Tasks of context: their answers by hand, what is held out, and how a model that knows them scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from components.model.config import count_params
from components.scaling.in_context import (
    Rows,
    evaluation_rows,
    held_out_pairs,
    solved,
    training_rows,
    vocab_size,
)
from components.scaling.in_context_config import OPERATIONS, TASKS, InContextConfig, Task
from components.scaling.in_context_verdicts import compared
from components.scaling.results.in_context import ConditionScore, InContextResult, TrainedCourse
from components.statistics import wilson
from components.training.language_model import IGNORE

CONFIG = InContextConfig(eval_rows=60)


class Fixed(torch.nn.Module):
    """Says what it is told to say at each position, whatever it reads."""

    def __init__(self, said_BT: torch.Tensor, size: int) -> None:
        super().__init__()
        self.said_BT, self.size, self.read = said_BT, size, 0

    def forward(self, tokens_BT: torch.Tensor) -> torch.Tensor:
        said = self.said_BT[self.read : self.read + len(tokens_BT)]
        self.read += len(tokens_BT)
        return torch.nn.functional.one_hot(said, self.size).float()


@pytest.mark.parametrize("task", TASKS)
def test_rows_are_of_the_step_alone_and_within_the_vocabulary(task: Task) -> None:
    first, again = (training_rows(task, CONFIG, 0, 3) for _ in range(2))
    assert torch.equal(first.tokens_BT1, again.tokens_BT1)
    assert not torch.equal(first.tokens_BT1, training_rows(task, CONFIG, 0, 4).tokens_BT1)
    assert int(first.tokens_BT1.max()) < vocab_size(task, CONFIG)
    batch = first.batch()
    assert (batch.targets_BT != IGNORE).sum() == (first.condition_BT1[:, 1:] >= 0).sum() > 0


@pytest.mark.parametrize("task", TASKS)
def test_a_model_that_knows_solves_all_and_one_wrong_token_counts(task: Task) -> None:
    rows = evaluation_rows(task, CONFIG)
    answers = rows.tokens_BT1[:, 1:].clone()
    found = solved(Fixed(answers, vocab_size(task, CONFIG)), rows)  # type: ignore[arg-type]
    assert set(found) == set(rows.names) and all(x.value == 1.0 for x in found.values())
    marked = rows.condition_BT1[0, 1:] >= 0
    place = int(marked.nonzero()[-1])
    condition = rows.names[int(rows.condition_BT1[0, 1 + place])]
    answers[0, place] = (answers[0, place] + 1) % vocab_size(task, CONFIG)
    wrong = solved(Fixed(answers, vocab_size(task, CONFIG)), rows)  # type: ignore[arg-type]
    n = wrong[condition].n
    assert wrong[condition].value == pytest.approx(1 - 1 / n)
    assert all(x.value == 1.0 for name, x in wrong.items() if name != condition)


def test_recall_can_be_answered_from_the_context_alone_and_not_before() -> None:
    rows = evaluation_rows("recall", CONFIG)
    for tokens, conditions in zip(rows.tokens_BT1.tolist(), rows.condition_BT1.tolist(), strict=True):
        known: dict[int, int] = {}
        shown: dict[int, int] = {}
        for key, value, condition in zip(tokens[::2], tokens[1::2], conditions[1::2], strict=True):
            assert condition == min(shown.get(key, 0), 4)
            assert known.setdefault(key, value) == value
            shown[key] = shown.get(key, 0) + 1
    assert (training_rows("recall", CONFIG, 0, 0).condition_BT1 != 0).all()  # nothing unknowable is trained


def test_held_out_pairs_are_in_no_training_row_and_answers_are_right() -> None:
    secret = set(held_out_pairs())
    assert len(secret) == 8 and {a for a, _ in secret} | {b for _, b in secret} <= set(OPERATIONS)
    seen: set[tuple[str, str]] = set()
    for step in range(40):
        seen |= {pair for pair, _, _ in parsed(training_rows("compositions", CONFIG, 0, step)) if len(pair) == 2}
    assert not seen & secret and len(seen) == 42 - len(secret)
    assert {a for a, _ in seen} == {b for _, b in seen} == set(OPERATIONS)
    by_hand = {
        "reverse": lambda w: w[::-1], "first": lambda w: w[0], "last": lambda w: w[-1], "repeat": lambda w: w * 2,
        "rotate": lambda w: w[1:] + w[0], "sort": lambda w: "".join(sorted(w)),
        "next": lambda w: w.translate(str.maketrans("abcdefgh", "bcdefgha")),
    }  # fmt: skip
    for operations, word, answer in parsed(evaluation_rows("compositions", CONFIG)):
        for operation in operations:
            word = by_hand[operation](word)
        assert word == answer


def parsed(rows: Rows) -> list[tuple[tuple[str, ...], str, str]]:
    start = 1 + len(OPERATIONS) + 8
    found = []
    for tokens in rows.tokens_BT1.tolist():
        first, second = (i for i, token in enumerate(tokens) if token == start)
        word, answer = ("".join("abcdefgh"[t - 8] for t in part) for part in (
            tokens[first + 1 : second], tokens[second + 1 : tokens.index(start + 1)]))  # fmt: skip
        found.append((tuple(OPERATIONS[t - 1] for t in tokens[:first]), word, answer))
    return found


def test_steps_add_up_modulo_ten() -> None:
    for tokens, conditions in zip(
        evaluation_rows("steps", CONFIG).tokens_BT1.tolist(),
        evaluation_rows("steps", CONFIG).condition_BT1.tolist(),
        strict=True,
    ):
        value, read = tokens[0] - 1, 1
        values = []
        while tokens[read] < 29:
            by = tokens[read] - 20 if tokens[read] < 20 else tokens[read] - 19
            value = (value + by) % 10
            values.append(value)
            read += 1
        worked = tokens[read] == 30
        answer = [t - 1 for t in tokens[read + 1 : tokens.index(31)]]
        assert answer == (values if worked else values[-1:])
        assert all(c == conditions[read + 1] for c in conditions[read + 1 : tokens.index(31) + 1])


def test_sizes_are_equal() -> None:
    for width in CONFIG.widths:
        a, b = (count_params(cfg).total for cfg in CONFIG.architectures(width, 33).values())
        assert a == pytest.approx(b, rel=0.02)


def result(architecture: str, num_params: int, right: int, course: list[float]) -> InContextResult:
    scores = tuple(ConditionScore(f"{shots} shots", wilson(k, 100)) for shots, k in ((0, 6), (4, right)))
    steps = tuple(TrainedCourse(100 * (i + 1), (0.06, x)) for i, x in enumerate(course))
    return InContextResult("recall", architecture, num_params, 1000, 0.5, scores, steps)


def test_verdicts_speak_of_differences_only_where_there_are_some() -> None:
    runs = [
        result("transformer", 1000, 30, [0.1, 0.2, 0.3]),
        result("transformer", 9000, 95, [0.1, 0.15, 0.9, 0.95]),
        result("lstm", 9000, 40, [0.1, 0.4]),
    ]
    report = compared(runs)
    told = "\n".join(report.verdicts)
    assert "transformer 95%" in told and "LSTM of its size 40%" in told and "+55%" in told and "more" in told
    assert "the largest rise between two measurements is 75%, between steps 200 and 300" in told
    assert report.trainings == 1
    alike = compared([replace(runs[1], num_params=9001), replace(runs[1], architecture="lstm")])
    assert "no difference is seen" in "\n".join(alike.verdicts)


def test_steps_are_compared_over_all_questions() -> None:
    runs = [
        replace(result("transformer", 9000, 10, []), task="steps"),
        replace(result("lstm", 9000, 90, []), task="steps"),
    ]
    told = "\n".join(compared(runs).verdicts)
    assert "steps, all questions: transformer 8%" in told and "LSTM of its size 48%" in told and "fewer" in told
    assert "steps, lstm: 0 shots 6%" in told
