"""A life of three stages in which the second waits for a person; a file stands in for the judgements."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flows.engine.graph import Graph
from flows.engine.stage import stage
from flows.engine.work import Waiting, Work
from flows.settings import Settings
from storage.artifacts import Artifact


class PeopleConfig(Settings):
    pass


@stage(produces="answers", group="rlhf", seconds=0.1)
def answers(work: Work) -> dict[str, Any]:
    (work.out / "answers").write_text("a b")
    return {}


@stage(produces="preference_set", group="rlhf", seconds=0.1)
def judged(work: Work, *, said: str, answers: Artifact) -> dict[str, Any]:
    if not said:
        raise Waiting("nobody judged yet: write the file")
    return {"said": said}


@stage(produces="reward_model", group="rlhf", seconds=0.1)
def trained(work: Work, *, preferences: Artifact) -> dict[str, Any]:
    return {"from": preferences.facts["said"]}


def life(cfg: PeopleConfig, run: Graph) -> None:
    path = Path(os.environ["TOY_JUDGEMENTS"])
    said = path.read_text() if path.exists() else ""
    trained.submit(run, preferences=judged.submit(run, said=said, answers=answers.submit(run)))
