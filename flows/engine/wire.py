"""What travels between the run and its workers, as JSON: a job, its settings, its artifacts.

A job names its stage (`flows.stages.training:pretrain`) and carries JSON alone, never code or pickles. Its settings
become dataclasses again through the annotations of the stage's function.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from storage.artifacts import Artifact


@dataclass(frozen=True)
class Job:
    """What a worker needs to know to execute one stage."""

    stage: str  # module:function
    label: str
    key: str
    run_id: str
    home: str
    home_local: str
    arguments: Mapping[str, Any]  # identity settings as JSON
    inputs: Mapping[str, Any]  # name -> artifact, list or dict of artifacts, as JSON
    identity: Mapping[str, Any]  # as recorded: the settings in canonical form
    code: Mapping[str, str] = field(default_factory=dict)
    execution: Mapping[str, Any] = field(default_factory=dict)
    fence: int = 0  # token of the lease under which the run has it made; 0: none

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


def travelling(value: Any) -> Any:
    """A setting, or all of a run, as JSON values; NaN and infinities by name."""
    return to_jsonable_python(value, inf_nan_mode="constants")


def arrived(name: str, value: Any, annotation: Any) -> Any:
    """The inverse of `travelling`, by the annotation of the parameter."""
    try:
        return _adapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise TypeError(f"parameter {name}: {error.errors()[0]['msg']}; it must survive a trip through JSON") from error


@cache
def _adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation)  # some ms each, and a life binds the same few types again and again


def artifacts_to_json(value: Any) -> Any:
    """An artifact, or a list or dict of them, as JSON values."""
    if isinstance(value, Artifact):
        return {"kind": value.kind, "key": value.key, "facts": dict(value.facts)}
    if isinstance(value, Mapping):
        return {"$named": {name: artifacts_to_json(item) for name, item in value.items()}}
    return [artifacts_to_json(item) for item in value]


def artifacts_from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [artifacts_from_json(item) for item in value]
    if "$named" in value:
        return {name: artifacts_from_json(item) for name, item in value["$named"].items()}
    return Artifact.from_json(value)


def input_keys(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """name -> key of its artifact, or the keys of a list; a dict of artifacts becomes `name.item` -> key."""
    keys: dict[str, Any] = {}
    for name, value in inputs.items():
        if isinstance(value, Artifact):
            keys[name] = value.key
        elif isinstance(value, Mapping):
            keys |= {f"{name}.{item}": artifact.key for item, artifact in value.items()}
        else:
            keys[name] = [artifact.key for artifact in value]
    return keys
