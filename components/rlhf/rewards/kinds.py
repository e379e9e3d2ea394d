"""Every kind of reward, by the `kind` of its settings; one more kind is a file, and its two lines here."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from components.rlhf.rewards.choice import ChoiceReward
from components.rlhf.rewards.command import CommandReward
from components.rlhf.rewards.exact import ExactReward
from components.rlhf.rewards.json_schema import JsonSchemaReward
from components.rlhf.rewards.judge import JudgeReward
from components.rlhf.rewards.math_answer import MathReward
from components.rlhf.rewards.number import NumberReward
from components.rlhf.rewards.pattern import PatternReward
from components.rlhf.rewards.python_function import PythonReward
from components.rlhf.rewards.reward_model import ModelReward
from components.rlhf.rewards.sequence_classifier import ClassifierReward
from components.rlhf.rewards.unit_tests import UnitTestsReward

Verifier = (
    ExactReward | NumberReward | ChoiceReward | MathReward | PatternReward | JsonSchemaReward | UnitTestsReward
)  # judges one answer by itself: `score(sample)`
RewardConfig = (
    ExactReward
    | NumberReward
    | ChoiceReward
    | MathReward
    | PatternReward
    | JsonSchemaReward
    | UnitTestsReward
    | PythonReward
    | CommandReward
    | JudgeReward
    | ModelReward
    | ClassifierReward
)
KINDS: dict[str, type] = {kind.__dataclass_fields__["kind"].default: kind for kind in get_args(RewardConfig)}
VERIFIERS = tuple(name for name, kind in KINDS.items() if kind in get_args(Verifier))


def from_settings(value: Any, where: str = "rewards") -> Any:
    """A reward as a profile writes it, with its `kind`: "number", "my_rewards.py:score", or a table.

    Raises ValueError for a kind that there is not.
    """
    if isinstance(value, str):
        value = {"kind": "python", "function": value} if ".py:" in value else {"kind": value}
    if not isinstance(value, Mapping):
        return value  # the section's own check says what it takes
    kind = value.get("kind")
    if kind is None and "function" in value:
        return {"kind": "python", **value}
    if kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        found = "no kind" if kind is None else f"no kind {kind!r}"
        raise ValueError(f'{where}: there is {found}{hint}; it takes {", ".join(KINDS)}, or "my_rewards.py:score"')
    return dict(value)


def name_of(config: RewardConfig) -> str:
    """What a reward is called: its name, its function's, or its kind."""
    if config.name:
        return config.name
    return config.function.rpartition(":")[2] if isinstance(config, PythonReward) else config.kind


def check_names(configs: Sequence[RewardConfig], where: str) -> None:
    """Raises ValueError where two rewards have one name, under which their parts are logged, or a weight is no
    number."""
    twice = [name for name, count in Counter(map(name_of, configs)).items() if count > 1]
    if twice:
        raise ValueError(f"{where}: two are called {twice[0]!r}: give one a name of its own")
    for config in configs:
        if not abs(config.weight) < float("inf"):
            raise ValueError(f"{where}: {name_of(config)}.weight is {config.weight}: give a finite number")


def files_of(config: RewardConfig) -> tuple[str, ...]:
    """Files that a reward reads, other than Python code."""
    return config.files if isinstance(config, (JsonSchemaReward, CommandReward)) else ()
