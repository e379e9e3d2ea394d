"""Questions made by reasoning-gym, an optional extra (`pip install .[reasoning-gym]`): `gym:TASK` or `gym:TASK:SIZE`.

Its verifiers give a score; right is a score of 1. Those of the tasks below are broken, and they are refused by name:
each was tried with its own answer (which must score 1), with none, an empty one and junk (0), and twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from components.data.files import Quarantined, SourceError
from components.reasoning.scoring.equality import Equality
from components.reasoning.scoring.scorers import Scorer, chosen_scorer
from components.reasoning.task_files.reading import TaskItem

GYM = "gym:"
VERSION = "0.1.25"
DEFAULT_SIZE = 100
BROKEN = {
    "game_of_life_halting": "its verifier gives junk a full score",
    "prime_factorization": "its verifier raises on junk",
    "boxnet": "its verifier gives its own answer 0",
    "graph_color": "its verifier gives its own answer 0",
    "propositional_logic": "its verifier gives its own answer 0",
    "rubiks_cube": "its verifier gives its own answer 0",
    "rush_hour": "its verifier gives its own answer 0",
    "knight_swap": "its questions are not the same at every call",
    "composite": "it is a mixture and needs settings of its own",
}


@dataclass(frozen=True)
class GeneratedTask:
    """A data set of reasoning-gym behind the face of a task."""

    name: str
    size: int
    seed: int
    dataset: Any = field(repr=False)

    @property
    def described(self) -> str:
        """What is asked and how it is judged."""
        return (
            f"task {GYM}{self.name}: {self.size} questions of reasoning-gym {VERSION}, seed {self.seed}; "
            "right is a score of 1 by its own verifier"
        )

    def items(self) -> Iterator[TaskItem | Quarantined]:
        """Every question, made anew at each call."""
        base = chosen_scorer("exact")
        for number in range(self.size):
            entry = self.dataset[number]
            scorer = Scorer("exact", base.extractors, _as_the_verifier_says(self.dataset, entry), base.markers)
            name = f"{self.name}-{self.seed}-{number}"
            yield TaskItem(name, entry["question"], str(entry["answer"]).strip(), "", name, self.name, scorer)


def _as_the_verifier_says(dataset: Any, entry: Any) -> Equality:
    def equal(found: str, reference: str) -> bool:
        try:
            return bool(dataset.score_answer(answer=found.strip(), entry=entry) == 1.0)
        except Exception:  # a verifier that stumbles over an answer does not take it for right
            return False

    return Equality(f"reasoning-gym-{VERSION}", 1, lambda reference: "", equal)


def open_generated(path: str, seed: int, limit: int) -> GeneratedTask:
    """The task of that name. Raises SourceError where the package is absent, or the task unknown or broken."""
    name, _, size = path.removeprefix(GYM).partition(":")
    if name in BROKEN:
        raise SourceError(f"{path}: {BROKEN[name]} (reasoning-gym {VERSION}): take another task")
    if size and not (size.isdigit() and int(size)):
        raise SourceError(f"{path}: {size!r} is no number of questions")
    try:
        import reasoning_gym
    except ImportError:
        raise SourceError(f"{path}: needs reasoning-gym: pip install '.[reasoning-gym]'") from None
    count = int(size) if size else limit or DEFAULT_SIZE
    try:
        dataset = reasoning_gym.create_dataset(name, size=count, seed=seed)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    return GeneratedTask(name, count, seed, dataset)
