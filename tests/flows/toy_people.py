"""A life of three stages in which the second waits for a person; a file stands in for the judgements."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from flows.engine.graph import Graph
from flows.engine.stage import stage
from flows.engine.work import Waiting, Work
from flows.settings import Settings
from storage.artifacts import Artifact


class PeopleConfig(Settings):
    pass


@dataclass(frozen=True)
class Said:
    said: str = ""


@stage(produces="answers", group="rlhf", seconds=0.1)
def answers(work: Work) -> Said:
    (work.out / "answers").write_text("a b")
    return Said()


@stage(produces="preference_set", group="rlhf", seconds=0.1)
def judged(work: Work, *, said: str, answers: Artifact) -> Said:
    if not said:
        raise Waiting("nobody judged yet: write the file")
    return Said(said)


@stage(produces="reward_model", group="rlhf", seconds=0.1)
def trained(work: Work, *, preferences: Artifact) -> Said:
    return Said(preferences.facts["said"])


def life(cfg: PeopleConfig, run: Graph) -> None:
    path = Path(os.environ["TOY_JUDGEMENTS"])
    said = path.read_text() if path.exists() else ""
    trained.submit(run, preferences=judged.submit(run, said=said, answers=answers.submit(run)))
