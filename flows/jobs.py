"""One stage to execute, as JSON, and its execution: in a worker process or in this one.

A job names its stage (`flows.stages.pretraining:pretrain`) and carries JSON alone, never code or pickles. Its
settings become dataclasses again through the annotations of the stage's function.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from flows.settings import ComputeConfig
from flows.work import Work
from storage.artifacts import Artifact, Record
from storage.fingerprint import code_fingerprint
from storage.home import Home
from storage.tables import SCHEMAS

if TYPE_CHECKING:
    from flows.stage import Stage

Emit = Callable[[dict[str, Any]], None]


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

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        return cls(**json.loads(text))


class CodeChanged(RuntimeError):
    """Code was edited between the making of the key and the execution of the stage."""


def load_stage(name: str) -> Stage:
    """The stage object behind `module:function`."""
    from flows.stage import Stage

    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)
    if not isinstance(found, Stage):
        raise TypeError(f"{name} is a {type(found).__name__}, not a stage")
    return found


def travelling(value: Any) -> Any:
    """A setting as JSON values."""
    return to_jsonable_python(value, inf_nan_mode="constants")


def arrived(name: str, value: Any, annotation: Any) -> Any:
    """The inverse of `travelling`, by the annotation of the parameter."""
    try:
        return TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise TypeError(f"parameter {name}: {error.errors()[0]['msg']}; it must survive a trip through JSON") from error


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


def execute(job: Job, emit: Emit) -> Artifact:
    """Run the stage in a temporary folder, write its rows, seal its artifact.

    The rows go first: part files are named by the key, so a kill in between only means that they are written again,
    and a sealed artifact always has its rows.
    """
    stage = load_stage(job.stage)
    check_code(job, stage)
    home = Home(job.home, local=job.home_local)
    execution = arrived("execution", dict(job.execution), ComputeConfig)
    hints = typing.get_type_hints(stage.fn)
    arguments = {name: arrived(name, value, hints[name]) for name, value in job.arguments.items()}
    inputs = {name: artifacts_from_json(value) for name, value in job.inputs.items()}
    with home.store.writing(job.key) as out:
        work = Work(out, home.scratch(job.key), execution, store=home.store, local=home.local, report=emit)
        facts = stage.fn(work, **arguments, **inputs)
        if not isinstance(facts, Mapping):
            raise TypeError(f"{job.stage} returned a {type(facts).__name__}; a stage returns its facts, a dict")
        spent = work.spent()
        artifact = Artifact(stage.produces, job.key, {**facts, "usage": spent})
        write_rows(home, stage, job, work, spent, execution)
        record = Record(
            artifact=artifact,
            stage=stage.name,
            config=job.identity,
            inputs=input_keys(inputs),
            code=job.code,
            run_id=job.run_id,
        )
        sealed = home.store.seal(out, record)
    work.forget_state()
    return sealed


def check_code(job: Job, stage: Stage) -> None:
    """Refuse to make an artifact from other code than its key was made from: a worker imports later than that."""
    found = code_fingerprint(stage.fn)
    changed = sorted(name for name in {*found, *job.code} if found.get(name) != job.code.get(name))
    if changed:
        raise CodeChanged(f"{', '.join(changed)} was edited since the run began: run again, what is sealed stays")


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


def write_rows(
    home: Home, stage: Stage, job: Job, work: Work, spent: Mapping[str, float], execution: ComputeConfig
) -> None:
    """Metrics, cost and the stage's own rows, each a part file named by the key."""
    who = {"run_id": job.run_id, "key": job.key, "stage": stage.name, "group": stage.group}
    if len(work.points):
        home.tables.write("metrics", job.key, work.points.table(job.run_id, job.key, stage.name))
    energy = spent["cpu_seconds"] * execution.watts_per_core
    usd = spent["seconds"] / 3600 * execution.threads_per_worker * execution.usd_per_core_hour
    cost = {**spent, "energy_joules": energy, "usd": usd, "hardware": execution.hardware}
    for table, rows in {**work.table_rows(), "costs": [cost]}.items():
        if table not in SCHEMAS:
            raise ValueError(f"{job.stage} wrote rows for {table!r}; tables: {', '.join(SCHEMAS)}")
        filled = {name: value for name, value in who.items() if name in SCHEMAS[table].names}
        home.tables.write(table, job.key, [{**filled, **row} for row in rows])


def run_here(job: Job, emit: Emit) -> Artifact:
    """Execute in this process, for `workers = 0` and for tests."""
    started = time.monotonic()
    emit({"event": "started"})
    artifact = execute(job, emit)
    emit({"event": "done", "seconds": time.monotonic() - started})
    return artifact
