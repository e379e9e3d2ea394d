"""One run from start to end: home, Prefect, tracking, the live view, the rows of `runs`, Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flows.engine.graph import Graph
from flows.engine.progress import Board
from flows.engine.runner import Outcome, Runner, summary
from flows.engine.work import now
from flows.runs.budget import check_budget, estimate, reached, score
from flows.runs.registry import is_alive, registered, write_event
from flows.runs.start import Start
from flows.services import server_process
from flows.settings import Settings
from storage.durable import DiskFull
from storage.home import Home
from storage.redaction import masked

if TYPE_CHECKING:
    from storage import tracker

SYNC_SECONDS = 30.0  # how often the tracker is brought up to date while stages run
LAST_SECONDS = 60.0  # how long the end of a run waits for Prefect and the tracker
LAST_SECONDS_INTERRUPTED = 3.0
RECENT_RUNS = 5  # the tracker is brought up to date with these too: an interrupted run had no time for it
MANY_PARTS = 300  # files of a table; to open one takes a query about 0.1 ms


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        status: completed, waiting (for people), failed or interrupted.
        outcomes: by label, the stages that ended well.
        failures: by label, the message of each that failed.
        waiting: by label, what people have to do first.
        warnings: what went wrong beside the stages (Prefect, tracker).
        report: what `conclude` made of it, if there was one.
    """

    run_id: str
    status: str
    seconds: float
    summary: str
    outcomes: Mapping[str, Outcome]
    failures: Mapping[str, str] = field(default_factory=dict)
    waiting: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    report: Any = None


def new_run_id() -> str:
    """Sorts by time, unique without a server: 20250131-142501-3fa9."""
    return f"{now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def run_graph(
    graph: Graph,
    cfg: Settings,
    start: Start,
    *,
    profile: str = "",
    prefect: bool = True,
    mlflow: bool = True,
    conclude: Callable[[Home, str], Any] | None = None,
    show: Callable[[Runner], Any] | None = None,
    showcase: Callable[[Home, str, Any], Any] | None = None,
) -> RunResult:
    """Run a graph and show it; returns when all has ended. KeyboardInterrupt ends it within seconds.

    Args:
        graph: as `flows.engine.graph.assemble` makes it.
        cfg: the settings; `cfg.compute` says how to run.
        start: where the run lies and is shown, from `flows.runs.start.starting`.
        profile: its name, for the `runs` table.
        prefect: show the run in Prefect. Off for tests.
        mlflow: mirror the run to MLflow. Off for tests.
        show: shows the stages in a flow run of Prefect that is there already; by default a new one is made.
        showcase: what MLflow is to show of the run, from the home, the run's id and what `conclude` returned.
        conclude: called with the home and the run's id when all rows are written, unless the run was interrupted.
    """
    run_id = new_run_id()
    warnings: list[str] = []
    home, board, server = start.home, start.board, start.server
    board.title = f"{masked(cfg.name)} · {run_id}"
    begun, made = now(), estimate(graph, home, cfg.compute)
    check_budget(made, cfg.budget)
    if home.is_remote and not home.root.startswith("memory://") and (problem := home.lease_problem):
        warnings.append(f"{home.shown} cannot hold leases ({problem}): let one machine at a time run in it")
    runner = Runner(graph, home, run_id, cfg.compute, board, masked(cfg.name))
    with registered(home, run_id, board, cfg, profile):
        runner.start()
        board.say("")
        threads = []
        stop_syncing = threading.Event()
        shown: list[Any] = []
        concluded: Future[Any] = Future()
        if prefect:
            beside = show or (lambda runner: _show_in_prefect(runner, concluded, server, home))
            threads.append(_beside(lambda: beside(runner), "Prefect", warnings))
        if mlflow:
            threads.append(_beside(lambda: _keep_tracked(home, runner, stop_syncing, shown), "MLflow", warnings))
        status = "failed"
        try:
            while not runner.finished.wait(0.2):
                if why := reached(cfg.budget, runner.waste.usd(), (time.monotonic() - board.began) / 3600):
                    board.say("the budget is reached: ending the workers")
                    warnings.append(why)
                    runner.cancel(why)
                    break
            status = "interrupted" if runner.cancelled else "completed"
            if status == "completed" and any(future.exception() for future in runner.outcomes.values()):
                status = "waiting" if runner.waiting() and not runner.failures() else "failed"
        except KeyboardInterrupt:
            status = "interrupted"
            board.say("interrupted: ending the workers")
            runner.cancel()
        hours = (time.monotonic() - board.began) / 3600
        threads.append(
            _beside(lambda: score(home, run_id, made, begun, hours, status == "completed"), "forecasts", warnings)
        )
        try:
            write_event(home, run_id, "ended", status, cfg, profile)
        except DiskFull as error:  # the next run enters it as ended
            warnings.append(str(error))
        report = None
        if conclude and status != "interrupted":
            board.say("writing the report")
            try:
                report = conclude(home, run_id)
                shown += [showcase(home, run_id, report)] if showcase else []
            except Exception as error:
                warnings.append(masked(f"report: {type(error).__name__}: {error}"))
        concluded.set_result(report)
        if status != "interrupted":
            threads.append(_beside(lambda: _tidy(home), "tables", warnings))
        stop_syncing.set()
        patience = LAST_SECONDS_INTERRUPTED if status == "interrupted" else LAST_SECONDS
        _finish(threads, patience, board, warnings)
        board.say(status)
        ended = {label: future for label, future in runner.outcomes.items() if future.done()}
        outcomes = {label: future.result() for label, future in ended.items() if not future.exception()}
        failures = {label: str(error) for label, error in runner.failures().items()}
        seconds = time.monotonic() - board.began
        waits = runner.waiting()
        return RunResult(run_id, status, seconds, summary(runner), outcomes, failures, waits, tuple(warnings), report)


# --- beside the stages ---------------------------------------------------------------------------------------------


def _beside(work: Callable[[], None], name: str, warnings: list[str]) -> threading.Thread:
    """Run something that must never fail the run; its error becomes a warning."""

    def guarded() -> None:
        try:
            work()
        except Exception as error:
            kind = "" if type(error) is RuntimeError else f"{type(error).__name__}: "
            warnings.append(masked(f"{name}: {kind}{error}"))

    thread = threading.Thread(target=guarded, name=name, daemon=True)
    thread.start()
    return thread


def _show_in_prefect(runner: Runner, concluded: Future[Any], server: server_process.Server | None, home: Home) -> None:
    if server:
        os.environ["PREFECT_API_URL"] = f"{server.url}/api"  # before prefect is imported, which reads it once
    try:
        from flows.runs.prefect_view import mirror

        if server:
            server.wait_healthy()
        mirror(runner, concluded, lambda run_id: is_alive(home, run_id))
    finally:
        if server:
            os.environ.pop("PREFECT_API_URL", None)


def _keep_tracked(home: Home, runner: Runner, stop: threading.Event, shown: Sequence[Any]) -> None:
    from storage import registry, tracker

    run_id = runner.run_id

    tracker.migrate(home)  # the first time takes seconds: while stages run
    recent = sorted(set(home.tables.read("runs", ["run_id"]).column("run_id").to_pylist()))[-RECENT_RUNS:]
    tracker.sync(home, recent)
    level: set[str] = set()
    while not stop.wait(SYNC_SECONDS):
        if not tracker.sync(home, [run_id], level=level).problem:
            with contextlib.suppress(Exception):  # a server that went away meanwhile; the next sync tells
                tracker.show_live(home, run_id, _live(runner))
    if problem := tracker.sync(home, [run_id], level=level).problem:
        raise RuntimeError(f"{problem}; `lifespan sync` catches up later")
    for showcase in shown:
        registry.publish(home, run_id, showcase)


def _live(runner: Runner) -> list[tracker.Live]:
    """The stages that run now and have told how far they are."""
    from storage.tracker import Live

    clock, found = time.monotonic(), []
    for label, row in list(runner.board.rows.items()):
        if row.state == "running" and row.total:
            numbers = {name: float(value) for name, value in row.info.items() if isinstance(value, int | float)}
            began = now() - timedelta(seconds=row.seconds(clock))
            found.append(Live(label, runner.graph.nodes[label].stage.name, began, row.done, row.total, numbers))
    return found


def _tidy(home: Home) -> None:
    """Merge the part files where there are enough of them to slow a query down."""
    if not home.is_remote:  # there two compactions at once are not safe: `lifespan compact` when no run goes on
        home.tables.compact(above=MANY_PARTS)


def _finish(threads: list[threading.Thread], patience: float, board: Board, warnings: list[str]) -> None:
    deadline = time.monotonic() + patience
    for thread in threads:
        if thread.is_alive():
            board.say(f"finishing {thread.name}")
        try:
            thread.join(max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            deadline = time.monotonic()
        if thread.is_alive() and patience > LAST_SECONDS_INTERRUPTED:
            again = "`lifespan sync` catches up" if thread.name == "MLflow" else "its pages may lack the last states"
            warnings.append(f"{thread.name} did not finish in time; {again}")
