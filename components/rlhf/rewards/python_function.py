"""A reward that is a Python function of the user's.

    def score(completion, answer, **columns) -> float

It is called once for each answer, with those of these arguments that it names (all of them where it takes `**columns`):

    prompt      str    what the user said last
    messages    list   the whole prompt, {"role", "content"} each
    completion  str    the answer to be judged, without the end of its turn
    answer      str    the reference; "" where the prompt has none
    finished    bool   the answer ended by itself, not at the length limit
    metadata    dict   the other columns of the prompt
    <column>           any of those columns by its own name

It returns a number (True and False count as 1 and 0). An exception, or anything that is no finite number, makes a
failed score. Its file and what that imports from beside it are part of the stage's key: an edit runs again what depends
on it.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from components.rlhf.rewards.answers import RewardError, Sample, Score, Scorer

OFFERED = ("prompt", "messages", "completion", "answer", "finished", "metadata")


@dataclass(frozen=True)
class PythonReward:
    """function: "my_rewards.py:score", the file relative to the folder in which Lifespan runs."""

    function: str
    kind: Literal["python"] = "python"
    name: str = ""
    weight: float = 1.0

    def __post_init__(self) -> None:
        file, colon, name = self.function.rpartition(":")
        if not colon or not file.endswith(".py") or not name.isidentifier():
            raise ValueError(f'function is {self.function!r}: give a file and a function, as in "my_rewards.py:score"')

    @property
    def file(self) -> Path:
        """The file that holds the function."""
        return Path(self.function.rpartition(":")[0])

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """The function decides for itself."""
        return ""


def open_function(config: PythonReward, columns: Sequence[str]) -> Scorer:
    """The function, ready to be called. `columns`: those of the prompts, beside `answer`.

    Raises RewardError where there is no such function, or where it wants an argument that no prompt has.
    """
    function = _loaded(config)
    wanted, everything = _parameters(config.function, function, columns)

    def score(sample: Sample) -> Score:
        offered = {
            **sample.metadata,
            "prompt": sample.prompt,
            "messages": [dict(message) for message in sample.messages],
            "completion": sample.completion,
            "answer": sample.answer,
            "finished": sample.finished,
            "metadata": dict(sample.metadata),
        }
        arguments = offered if everything else {name: offered[name] for name in wanted if name in offered}
        try:
            value = function(**arguments)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            return Score.failed(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")
        return as_score(value)

    return lambda samples: [score(sample) for sample in samples]


def as_score(value: object) -> Score:
    """What a user's code returned, as a score."""
    if isinstance(value, bool):
        return Score(float(value))
    try:
        number = float(value)  # type: ignore[arg-type]  # also numbers of numpy and torch
    except (TypeError, ValueError, OverflowError):
        return Score.failed(f"returned {value!r:.80}, which is no number")
    return Score(number) if math.isfinite(number) else Score.failed(f"returned {number}, which is not finite")


def _loaded(config: PythonReward) -> Callable[..., Any]:
    file, name = config.file.resolve(), config.function.rpartition(":")[2]
    if not file.is_file():
        raise RewardError(f"rewards: {config.function}: no file {config.file} in {Path.cwd()}")
    module = _run(file, config.function)
    function = getattr(module, name, None)
    if not callable(function):
        there = ", ".join(x for x, y in vars(module).items() if inspect.isfunction(y) and not x.startswith("_"))
        raise RewardError(f"rewards: {config.file} has no function {name!r}; it has {there or 'none'}")
    return function


def _run(file: Path, shown: str) -> ModuleType:
    """Run the file as a module. What it imports from beside it is read anew: it may have been edited, and another
    reward's folder may hold a module of the same name."""
    folder = file.parent
    beside = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    beside -= {*_OURS, *sys.stdlib_module_names}
    for name in [name for name in sys.modules if name.partition(".")[0] in beside]:
        del sys.modules[name]
    spec = importlib.util.spec_from_file_location(f"lifespan_reward_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(folder))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        raise RewardError(f"rewards: {shown} cannot be imported: {said}") from error
    finally:
        sys.path.remove(str(folder))
    return module


_OURS = ("components", "flows", "storage", "dashboards", "__main__")


def _parameters(shown: str, function: Callable[..., Any], columns: Sequence[str]) -> tuple[tuple[str, ...], bool]:
    """The names that the function takes, and whether it takes all that there are."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C code
        return (), True
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    alone = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if alone:
        raise RewardError(f"rewards: {shown}: arguments are given by name; {alone[0]!r} takes none (a / follows it)")
    known = {*OFFERED, *columns}
    unknown = [p.name for p in named if p.default is p.empty and p.name not in known]
    if unknown:
        offered = ", ".join([*OFFERED, *(x for x in columns if x not in OFFERED)])
        raise RewardError(f"rewards: {shown} takes {unknown[0]!r}, which no prompt has; there are {offered}")
    return tuple(p.name for p in named), any(p.kind is p.VAR_KEYWORD for p in parameters)
