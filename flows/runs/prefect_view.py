"""Prefect: a flow with a task per stage.

The runner decides what runs when; a task here waits for its stage and takes its state: *Cached* on a hit,
*Completed* on a miss, *Failed*, *Cancelled*. So Prefect shows the true graph, and a server that is slow to start, or
dies, costs the run nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.services import hermetic

hermetic.apply(os.environ.get("LIFESPAN_HOME", ".lifespan"))

from prefect import flow, tags  # noqa: E402 - the environment comes first
from prefect.artifacts import (  # noqa: E402
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.assets import Asset, AssetProperties, materialize  # noqa: E402
from prefect.cache_policies import NO_CACHE  # noqa: E402
from prefect.client.orchestration import get_client  # noqa: E402
from prefect.client.schemas.filters import FlowRunFilter  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.events.worker import EventsWorker  # noqa: E402
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings  # noqa: E402
from prefect.states import Cancelled, Completed, Crashed, Failed  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402

from flows.engine.workers import Interrupted, StageWaits  # noqa: E402

if TYPE_CHECKING:
    from dashboards.report_model import LifeReport
    from flows.engine.graph import Node
    from flows.engine.runner import Outcome, Runner

FLUSH_SECONDS = 5.0  # how long to wait until the server has written the last task states
PROGRESS_SECONDS = 15.0  # how often the page of a running stage is updated; each update takes some 40 ms of the cores
_log = logging.getLogger(__name__)
_runs: dict[str, tuple[Runner, Future[Any]]] = {}  # of this process; a flow's parameters must be JSON: it gets the id


def show_stage(node: Node, runner: Runner) -> Any:
    """The body of a stage's task: its progress, what it made, and a state that is the stage's."""
    progress: UUID | None = None
    while True:
        try:
            outcome = runner.wait(node.label, PROGRESS_SECONDS)
            break
        except TimeoutError:
            progress = _show_progress(node, runner, progress)
        except Interrupted as interrupted:
            return Cancelled(message=str(interrupted))
        except StageWaits as waits:
            return Cancelled(name="Waiting", message=str(waits))
    if progress:
        _optional(update_progress_artifact, artifact_id=progress, progress=100.0)
    handle = {"kind": outcome.artifact.kind, "key": outcome.artifact.key}
    if outcome.status == "cached":
        return Completed(name="Cached", message=outcome.reason, data=handle)
    _optional(create_markdown_artifact, markdown=summary(node, outcome), key=slug(node.label), description=node.label)
    return Completed(message=outcome.reason or None, data=handle)


def _show_progress(node: Node, runner: Runner, artifact: UUID | None) -> UUID | None:
    """Create or move the progress bar of a stage that runs; the id of its artifact."""
    row = runner.board.rows[node.label]
    if row.state != "running" or not row.total:
        return artifact
    share = min(100.0, 100.0 * row.done / row.total)
    if artifact is None:
        name = f"{slug(node.label)}-progress"
        return _optional(create_progress_artifact, progress=share, key=name, description=node.label)
    _optional(update_progress_artifact, artifact_id=artifact, progress=share)
    return artifact


def _optional(call: Callable[..., Any], **arguments: Any) -> Any:
    """What the page shows beside a stage; a server that is away must not cost the stage its state."""
    try:
        return call(**arguments)
    except Exception:
        _log.debug("%s failed", call.__name__, exc_info=True)
        return None


def slug(label: str) -> str:
    """A label as a key of Prefect: lower-case letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")


def summary(node: Node, outcome: Outcome) -> str:
    """What a stage made, as a page: its facts in a table, why it ran, its key."""
    facts = {name: value for name, value in outcome.artifact.facts.items() if isinstance(value, str | int | float)}
    rows = [
        f"| {name} | {value:.5g} |" if isinstance(value, float) else f"| {name} | {value} |"
        for name, value in facts.items()
    ]
    doc = (node.stage.fn.__doc__ or "").strip().splitlines()
    where = f" on {outcome.node}" if outcome.node else ""
    made = f"**{node.label}** made a {outcome.artifact.kind} in {outcome.seconds:.1f} s{where}: {outcome.reason}"
    head = [made, *doc[:1]]
    return "\n\n".join([*head, "\n".join(["| fact | value |", "|---|---|", *rows]), f"key `{outcome.artifact.key}`"])


def as_task(node: Node, runner: Runner) -> Any:
    """A stage as a Prefect task that materializes its artifact, an asset whose lineage follows the graph."""

    def body(label: str, key: str, inputs: Mapping[str, Any]) -> Any:  # `inputs` only draws the edges of the graph
        return show_stage(node, runner)

    asset = Asset(
        key=f"lifespan://{slug(runner.name)}/{node.stage.produces}/{slug(node.label)}",
        properties=AssetProperties(name=node.label, description=(node.stage.fn.__doc__ or "").strip()[:500] or None),
    )
    decorate = materialize(
        asset,
        by="lifespan",
        name=node.stage.name,
        task_run_name=node.label.replace("{", "(").replace("}", ")"),
        description=(node.stage.fn.__doc__ or "").strip() or None,
        tags=[node.stage.group],
        cache_policy=NO_CACHE,  # the key is ours; see storage/fingerprint.py
        persist_result=False,
    )
    return decorate(body)


def show_stages(runner: Runner) -> State:
    """Submit a task for every stage of a run within the flow run of this context; its final state."""
    futures: dict[str, Any] = {}
    for label, node in runner.graph.nodes.items():
        inputs = {need: futures[need] for need in node.needs}
        futures[label] = as_task(node, runner).submit(label=label, key=node.key, inputs=inputs)
    for future in futures.values():
        future.wait()
    return state_of_run({label: future.state for label, future in futures.items()})


def state_of_run(states: Mapping[str, State]) -> State:
    """The state of a flow run from those of its stages, by label. A life that found every stage in the cache is
    called "Cached", so that it stands out in the list of runs."""
    if held := [state for state in states.values() if state.name == "Waiting"]:
        return Cancelled(name="Waiting", message=held[0].message)
    if any(state.is_cancelled() for state in states.values()):
        return Cancelled(message="interrupted")
    if failed := [label for label, state in states.items() if not state.is_completed()]:
        return Failed(message=f"failed or skipped: {', '.join(failed)}")
    cached = sum(state.name == "Cached" for state in states.values())
    told = f"{cached} of {len(states)} stages cached"
    return Completed(name="Cached", message=told) if states and cached == len(states) else Completed(message=told)


def show_report(page: Path, report: LifeReport) -> None:
    """The page as a link and the ten lines as a table, on the flow run of this context."""
    link = page.resolve().as_uri()
    _optional(create_link_artifact, link=link, link_text="the report", key="report", description=report.run.run_id)
    seen = [effect for effect in report.headlines if effect.verdict != "not measured"]
    lines = [{"what": e.here, "verdict": e.verdict, "found": f"{e.numbers} {e.difference}".strip()} for e in seen]
    _optional(create_table_artifact, table=lines, key="headlines", description="what this run shows")


@flow(name="lifecycle", flow_run_name="{name} {run_id}", persist_result=False, validate_parameters=False)
def lifecycle(name: str, run_id: str) -> Any:
    """Every stage of a life as a task, with the edges of the graph, and in the end its report."""
    runner, concluded = _runs[run_id]
    state = show_stages(runner)
    if report := concluded.result():
        show_report(runner.home.report(run_id), report)
    return state


def mirror(runner: Runner, concluded: Future[Any], alive: Callable[[str], bool]) -> State:
    """Run the flow beside the runner; returns its final state once the server holds every task's state.

    `concluded` will be the run's report, or None if there is none. `alive` tells whether another run of this home still
    goes on: flow runs of dead ones are marked as crashed.
    """
    for name in ("prefect", EventsWorker.__name__):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the run itself reports failures
    _runs[runner.run_id] = runner, concluded
    width: Any = ThreadPoolTaskRunner(max_workers=len(runner.graph.nodes) + 1)
    try:
        with contextlib.suppress(Exception):
            bury(alive)
        # The heartbeat thread costs a second at the end of each flow; `bury` does its work at the next start.
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            wide: Any = lifecycle.with_options(task_runner=width)
            with tags(f"lifespan-run:{runner.run_id}"):
                state: State = wide(name=runner.name, run_id=runner.run_id, return_state=True)
        flush(state, len(runner.graph.nodes))
        return state
    finally:
        del _runs[runner.run_id]


def flush(state: State, num_tasks: int) -> None:
    """Task states travel as events: wait until the server has them all, before it is stopped."""
    EventsWorker.drain_all(timeout=FLUSH_SECONDS)
    flow_run_id = state.state_details.flow_run_id
    if flow_run_id is None:
        return
    deadline = time.monotonic() + FLUSH_SECONDS
    while time.monotonic() < deadline:
        states = task_states(flow_run_id)
        if len(states) >= num_tasks and all(found for found in states.values()):
            return
        time.sleep(0.1)


def task_states(flow_run_id: UUID) -> dict[str, str | None]:
    """Name of each task run's final state as the server has it; None while it is not final."""
    found: dict[str, str | None] = {}
    wanted = FlowRunFilter.model_validate({"id": {"any_": [str(flow_run_id)]}})
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_task_runs(flow_run_filter=wanted, limit=200, offset=len(found))
            for run in page:
                ended = run.state is not None and (run.state.is_final() or run.state.name == "NotReady")
                found[run.name] = run.state.name if ended and run.state else None
            if len(page) < 200:
                return found


def bury(alive: Callable[[str], bool]) -> int:
    """Mark flow runs of killed processes as crashed, which Prefect alone would show as running for ever."""
    buried = 0
    wanted = FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=wanted):
            marks = [tag.removeprefix("lifespan-run:") for tag in run.tags if tag.startswith("lifespan-run:")]
            if marks and not alive(marks[0]):
                client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
                buried += 1
    return buried
