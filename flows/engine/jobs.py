"""Executing one stage: in a worker process or in this one."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from components.cost.ledger import entry
from components.stage_results import to_facts
from flows.engine.device import TRAINING
from flows.engine.energy import meter
from flows.engine.metric_buffer import LivePoints
from flows.engine.ranks import on_ranks
from flows.engine.stage import Stage
from flows.engine.utilization import forget_peak_memory
from flows.engine.wire import Job, arrived, artifacts_from_json, input_keys
from flows.engine.work import Work, now
from flows.settings import ComputeConfig
from storage.artifacts import Artifact, Record
from storage.fingerprint import code_fingerprint
from storage.home import Home
from storage.live import LIVE_FILE
from storage.tables import SCHEMAS

Emit = Callable[[dict[str, Any]], None]


class CodeChanged(RuntimeError):
    """Code was edited between the making of the key and the execution of the stage."""


def load_stage(name: str) -> Stage:
    """The stage object behind `module:function`."""
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)
    if not isinstance(found, Stage):
        raise TypeError(f"{name} is a {type(found).__name__}, not a stage")
    return found


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
    with home.store.writing(job.key) as out, threads_of(stage, execution):
        forget_peak_memory(execution.device)
        state, far = home.scratch(job.key), home.unfinished(job.key)
        live = LivePoints(state / LIVE_FILE, job.run_id, job.key, stage.name, job.label)
        work = Work(out, state, execution, store=home.store, local=home.local, far=far, report=emit, live=live)
        try:
            if execution.ranks > 1 and stage.name in TRAINING:
                ranks = {"ranks": execution.ranks, "parallel": execution.parallel}
                facts = on_ranks(job, work, execution, emit) | ranks
            else:
                facts = _facts(job, stage.fn(work, **arguments, **inputs))
        except BaseException:
            emit({"event": "spent", "spent": work.spent()})
            raise
        spent = work.spent()
        artifact = Artifact(stage.produces, job.key, {**facts, "usage": spent})
        home.check_fence(f"stage-{job.key}", job.fence)  # a machine that was given up must not write over another's
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


@contextlib.contextmanager
def threads_of(stage: Stage, execution: ComputeConfig) -> Iterator[None]:
    """Torch and the kernels compute with the threads of the key meanwhile, in whatever process this is."""
    if stage.exact:
        yield
        return
    import torch  # here: stages on text do without it

    before = torch.get_num_threads()
    torch.set_num_threads(execution.threads_per_worker)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_code(job: Job, stage: Stage) -> None:
    """Refuse to make an artifact from other code than its key was made from: a worker imports later than that."""
    found = code_fingerprint(stage.fn)
    changed = sorted(name for name in {*found, *job.code} if found.get(name) != job.code.get(name))
    if changed:
        raise CodeChanged(f"{', '.join(changed)} was edited since the run began: run again, what is sealed stays")


def _facts(job: Job, result: object) -> dict[str, Any]:
    """What a stage returned, as JSON. Raises TypeError for what is no result."""
    if not dataclasses.is_dataclass(result) or isinstance(result, type):
        raise TypeError(
            f"{job.stage} returned a {type(result).__name__}; a stage returns its result, a frozen dataclass "
            "(components/stage_results.py)"
        )
    return to_facts(result)


def write_rows(
    home: Home, stage: Stage, job: Job, work: Work, spent: Mapping[str, float], execution: ComputeConfig
) -> None:
    """Metrics, cost and the stage's own rows, each a part file named by the key."""
    who = {"run_id": job.run_id, "key": job.key, "stage": stage.name, "group": stage.group}
    if len(work.points):
        home.tables.write("metrics", job.key, work.points.table(job.run_id, job.key, stage.name))
    made = {"label": job.label, "ended_at": now()}
    devices = execution.ranks if stage.name in TRAINING else 1  # of cores, each rank counts its own
    cost = made | entry(spent, execution.rates, meter(execution.device)[1], devices)
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
