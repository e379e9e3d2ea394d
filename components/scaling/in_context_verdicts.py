"""What the studies of context show, from their scores: by size, through training, transformer against LSTM."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from components.scaling.in_context_config import TASKS
from components.scaling.results.in_context import InContextPoint, InContextReport, InContextResult
from components.scaling.text_runs import LSTM, TRANSFORMER
from components.statistics import Interval, wilson

ALL = "all questions"


def compared(results: Sequence[InContextResult]) -> InContextReport:
    """The report of models that were asked the same questions; of several trainings of one model the first counts."""
    order = sorted(results, key=lambda x: (TASKS.index(x.task), x.architecture != TRANSFORMER, x.num_params))
    points = tuple(_point(one) for one in order)
    verdicts = [words for task in TASKS for words in _verdicts(task, [p for p in points if p.task == task])]
    of_each = [(one.task, one.architecture, one.num_params) for one in results]
    return InContextReport(points, tuple(verdicts), min(of_each.count(one) for one in of_each))


def _point(result: InContextResult) -> InContextPoint:
    """The jump is of the last condition: the most shots, the held-out pairs, the most steps."""
    course = [(0, 0.0), *((one.step, one.solved[-1]) for one in result.course)]
    rises = [(after[1] - before[1], before[0], after[0]) for before, after in itertools.pairwise(course)]
    jump, first, last = max(rises, default=(0.0, 0, 0))
    return InContextPoint(result.task, result.architecture, result.num_params, result.scores, jump, first, last)


def _verdicts(task: str, points: Sequence[InContextPoint]) -> Iterator[str]:
    transformers, lstms = ([p for p in points if p.architecture == name] for name in (TRANSFORMER, LSTM))
    if not transformers:
        return
    # Of steps no condition alone tells: at our size the most steps are out of reach, and one is within it.
    asked = ALL if task == "steps" else points[0].scores[-1].condition
    if len(transformers) > 1:
        small, large = (_score(p, asked) for p in (transformers[0], transformers[-1]))
        yield f"{task}, {asked}: by size, transformer {_told(small)} to {_told(large)}: {_change(large, small)}"
    largest = transformers[-1]
    if lstms:
        ours, theirs = _score(largest, asked), _score(lstms[-1], asked)
        yield f"{task}, {asked}: transformer {_told(ours)}, LSTM of its size {_told(theirs)}: {_change(ours, theirs)}"
    if task == "recall":
        none = _score(largest, largest.scores[0].condition)
        yield f"recall: {_told(none)} without a showing, {_told(_score(largest, asked))} after {asked}"
        yield (
            f"recall: the largest rise between two measurements is {largest.jump:.0%}, between steps "
            f"{largest.jump_from} and {largest.jump_to}"
        )
    elif task == "compositions":
        trained = _score(largest, "trained pair")
        yield (
            f"compositions: {_told(trained)} of trained pairs, {_told(_score(largest, asked))} of pairs in no "
            f"training: {_change(_score(largest, asked), trained)}"
        )
    else:
        for one in (largest, *lstms[-1:]):
            told = "; ".join(f"{p.condition} {_told(p.solved)}" for p in one.scores)
            yield f"steps, {one.architecture}: {told}"


def _score(point: InContextPoint, condition: str) -> Interval:
    if condition == ALL:
        asked = sum(one.solved.n for one in point.scores)
        return wilson(round(sum(one.solved.value * one.solved.n for one in point.scores)), asked)
    return next(one.solved for one in point.scores if one.condition == condition)


def _told(x: Interval) -> str:
    return f"{x.value:.0%} [{x.low:.0%}, {x.high:.0%}]"


def _change(ours: Interval, theirs: Interval) -> str:
    """The difference by Newcombe's interval of two Wilson ones (Newcombe 1998, method 10)."""
    gap = ours.value - theirs.value
    low = gap - math.hypot(ours.value - ours.low, theirs.high - theirs.value)
    high = gap + math.hypot(ours.high - ours.value, theirs.value - theirs.low)
    if low > 0:
        how = "more"
    elif high < 0:
        how = "fewer"
    else:
        how = "no difference is seen"
    return f"{gap:+.0%} [{low:+.0%}, {high:+.0%}], {how}"
