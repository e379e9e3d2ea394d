"""What the stages of the studies of context return."""

from __future__ import annotations

from dataclasses import dataclass

from components.statistics import Interval


@dataclass(frozen=True)
class ConditionScore:
    """Share of the questions of one condition that a model solves, with Wilson's 95% interval over them."""

    condition: str
    solved: Interval


@dataclass(frozen=True)
class TrainedCourse:
    """After `step` steps: the shares solved, in the order of the last measurement's conditions."""

    step: int
    solved: tuple[float, ...]


@dataclass(frozen=True)
class InContextResult:
    """One model on one task. num_params: all; tokens: that it read in training."""

    task: str
    architecture: str
    num_params: int
    tokens: int
    loss: float
    scores: tuple[ConditionScore, ...]
    course: tuple[TrainedCourse, ...]


@dataclass(frozen=True)
class InContextPoint:
    """A row of the comparison. jump: the largest rise of the hardest condition between two measurements of one
    training, and the steps between which it lies."""

    task: str
    architecture: str
    num_params: int
    scores: tuple[ConditionScore, ...]
    jump: float
    jump_from: int
    jump_to: int


@dataclass(frozen=True)
class InContextReport:
    """All models, by task, architecture and rising size. verdicts: in words, one or more a task; trainings: of each
    model, so that no sentence speaks of more than it has seen."""

    points: tuple[InContextPoint, ...]
    verdicts: tuple[str, ...]
    trainings: int
