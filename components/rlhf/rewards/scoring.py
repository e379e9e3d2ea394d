"""Rewards added up: every part is kept, a failure of one answer is kept and counted, and too many end the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from components.reasoning.scoring.scorers import STATUSES, Status
from components.rlhf.rewards.answers import RewardError, Sample, Score, Scorer
from components.rlhf.rewards.command import CommandReward, open_command
from components.rlhf.rewards.judge import JudgeReward, open_judge
from components.rlhf.rewards.kinds import RewardConfig, name_of
from components.rlhf.rewards.python_function import PythonReward, open_function
from components.rlhf.rewards.reward_model import ModelReward
from components.rlhf.rewards.sequence_classifier import ClassifierReward, open_classifier
from components.rlhf.rewards.unit_tests import UnitTestsReward


@dataclass(frozen=True)
class Part:
    """One reward of a sum."""

    name: str
    weight: float
    score: Scorer


@dataclass(frozen=True)
class Judged:
    """One answer. total: Σ weight · value over the parts, in which a failed part counts 0."""

    sample: Sample
    total: float
    parts: Mapping[str, Score]

    @property
    def failures(self) -> dict[str, str]:
        """Why a part failed, by its name."""
        return {name: score.note for name, score in self.parts.items() if score.status == "failed"}


@dataclass
class Rewards:
    """A weighted sum of rewards, with what failed so far.

    max_failed: share of all scores so far that may have failed; one failure alone never ends a run.
    """

    parts: tuple[Part, ...]
    max_failed: float = 0.1
    num_scored: int = 0
    num_failed: int = 0
    _last: str = field(default="", repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    def judge(self, samples: Sequence[Sample]) -> list[Judged]:
        """In the order of the samples. Raises RewardError once more than `max_failed` of all scores have failed."""
        if not samples:
            return []
        scores = {part.name: part.score(samples) for part in self.parts}
        judged = []
        for i, sample in enumerate(samples):
            mine = {name: found[i] for name, found in scores.items()}
            judged.append(Judged(sample, sum(part.weight * mine[part.name].value for part in self.parts), mine))
        for one in judged:
            for name, note in one.failures.items():
                self.num_failed += 1
                self._last = f"{name}: {note}"
        self.num_scored += len(samples) * len(self.parts)
        if self.num_failed > 1 and self.num_failed > self.max_failed * self.num_scored:
            raise RewardError(
                f"rewards: {self.num_failed} of {self.num_scored} scores failed, more than reward_limits.max_failed = "
                f"{self.max_failed:g} allows; the last: {self._last}"
            )
        return judged

    def counted(self, counts: Mapping[str, int]) -> None:
        """Go on from the counts of a run that was killed."""
        self.num_scored, self.num_failed = int(counts["scored"]), int(counts["failed"])

    @property
    def counts(self) -> dict[str, int]:
        """The inverse of `counted`."""
        return {"scored": self.num_scored, "failed": self.num_failed}


@dataclass(frozen=True)
class Means:
    """What is reported of many judged answers: the mean of every part by name, and the share of each status."""

    total: float
    parts: Mapping[str, float]
    statuses: Mapping[Status, float]

    def metrics(self, prefix: str = "reward/") -> Iterator[tuple[str, float]]:
        """By the names of docs/metrics.md."""
        yield from ((f"{prefix}{name}", value) for name, value in self.parts.items())
        yield from ((f"{prefix}{status}", share) for status, share in self.statuses.items() if status != "answered")


def means(judged: Sequence[Judged]) -> Means:
    """Of at least one answer. A failed score counts 0, as it does in the sum; its share is told beside it."""
    n = len(judged)
    names = list(judged[0].parts)
    shares: dict[Status, float] = {status: sum(_status(one) == status for one in judged) / n for status in STATUSES}
    parts = {name: sum(one.parts[name].value for one in judged) / n for name in names}
    return Means(sum(one.total for one in judged) / n, parts, shares)


def _status(judged: Judged) -> Status:
    """The worst of its parts."""
    found = {score.status for score in judged.parts.values()}
    return next(status for status in reversed(STATUSES) if status in found)


def open_rewards(
    configs: Sequence[RewardConfig],
    columns: Sequence[str] = (),
    max_failed: float = 0.1,
    *,
    judge: Callable[[JudgeReward], Callable[[Sequence[str], int], list[str]]] | None = None,
    reward_model: Scorer | None = None,
) -> Rewards:
    """Rewards ready to judge. `columns`: of the prompts; `judge`: how the server of a judge is asked; `reward_model`:
    of the life.

    Raises RewardError for a reward that cannot be used.
    """

    def opened(config: RewardConfig) -> Scorer:
        match config:
            case PythonReward():
                return open_function(config, columns)
            case CommandReward():
                return open_command(config)
            case JudgeReward():
                if judge is None:
                    raise RewardError("rewards: a judge cannot be asked here")
                return open_judge(config, judge(config))
            case ModelReward():
                if reward_model is None:
                    raise RewardError("rewards: reward_model: this life trains no reward model")
                return reward_model
            case ClassifierReward():
                return open_classifier(config)
            case UnitTestsReward():
                return config.scores
            case verifier:
                return lambda samples: [verifier.score(sample) for sample in samples]

    return Rewards(tuple(Part(name_of(config), config.weight, opened(config)) for config in configs), max_failed)
