"""The tables, mirrored into MLflow for browsing: a parent run per lifecycle, a nested run per stage.

The tables are the source of truth and MLflow is a view of them, so `sync` may fail, be killed, or be left out: the next
one catches up. What is already mirrored is known from MLflow itself, by the tag `lifespan.state`: a digest of what was
mirrored, written last. Metrics have fixed steps and times, so writing them twice changes nothing.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as pads

from storage import queries
from storage.fingerprint import digest
from storage.home import Home
from storage.mlflow_params import allowed_name, cut, flatten, numbers, parsed
from storage.queries import query
from storage.redaction import masked

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, Run, RunTag
    from mlflow.tracking import MlflowClient

_log = logging.getLogger(__name__)

_PER_BATCH = 1000  # MLflow's limits for one request
_PARAMS_PER_BATCH = 100
_MAX_SINGLE_SEARCHES = 8  # nested runs that are searched one by one; beyond, all of a run are read at once
_STATUS = {
    "running": "RUNNING",
    "completed": "FINISHED",
    "failed": "FAILED",
    "interrupted": "KILLED",
    "waiting": "KILLED",  # for people; the next run continues
    "ran": "FINISHED",
    "cached": "FINISHED",
}


@dataclass
class SyncResult:
    """What one `sync` added or updated; all zero when MLflow was already up to date."""

    runs: int = 0
    stages: int = 0
    metrics: int = 0
    problem: str | None = field(default=None)


def sync(
    home: Home, run_ids: Sequence[str] | None = None, experiment: str | None = None, level: set[str] | None = None
) -> SyncResult:
    """Mirror runs, their finished stages and their metrics into MLflow at `home.mlflow_uri`.

    Idempotent and incremental; a run that a user deleted in MLflow stays deleted. The nested run of a cached
    stage has the last value of each metric: the curves are in the run that made it (tag `lifespan.produced_by`).

    Args:
        home: whose tables.
        run_ids: only these runs; None: all.
        experiment: name of the MLflow experiment; None: the profile of each run.
        level: states of stages that are already mirrored, for a caller who calls repeatedly: MLflow is not queried
            for these. This call adds the ones that it has mirrored.

    Returns:
        Counts; `problem` says why MLflow could not be brought up to date. Nothing is raised then, because an
        unreachable tracking server must not end a run.
    """
    result = SyncResult()
    try:
        with home.lock("mlflow-sync"):  # two at once would each create the same run
            runs = queries.query(home, "SELECT * FROM latest_runs ORDER BY started_at").to_pylist()
            runs = [run for run in runs if run_ids is None or run["run_id"] in run_ids]
            if runs:
                with _quiet():
                    _Mirror(home, result, level).bring_up_to_date(runs, experiment)
    except Exception as error:
        lines = str(_root(error)).strip().splitlines()
        result.problem = masked(f"MLflow at {home.mlflow_uri} is behind: {lines[0] if lines else type(error).__name__}")
        _log.warning("%s; the tables are complete, `lifespan sync` catches up", result.problem)
        _log.debug("sync failed", exc_info=True)
    return result


def behind(home: Home) -> list[str]:
    """Ids of ended runs that are missing in MLflow or differ from the tables; writes nothing.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    runs = queries.query(home, "SELECT * FROM latest_runs WHERE status <> 'running' ORDER BY started_at").to_pylist()
    if not runs:
        return []
    with _quiet():
        return _Mirror(home, SyncResult()).behind(runs)


def _root(error: BaseException) -> BaseException:
    """The error of the database itself, below those that two libraries made of it."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error


def migrate(home: Home) -> None:
    """Create or check MLflow's database: about 6 s the first time. Safe from several processes at once.

    Raises:
        Exception: whatever MLflow raises when the database cannot be made or the server does not answer.
    """
    with _quiet():
        _client(home)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Import MLflow and silence it: its messages about migrations must not break the live view."""
    # Read at import or at the first request; what the user has set wins.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # with its 7 an unreachable server costs minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    import mlflow.tracking
    import mlflow.utils.logging_utils  # noqa: F401

    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class Live:
    """The progress of a running stage: steps done of total, and what it last reported (loss, tokens, …)."""

    label: str
    stage: str
    started_at: datetime.datetime
    done: float
    total: float
    info: Mapping[str, float]


def show_live(home: Home, run_id: str, stages: Sequence[Live]) -> None:
    """Show running stages as nested runs with the metrics `live/…`; `sync` completes them when they have ended.

    Raises:
        Exception: whatever MLflow raises when it cannot be reached.
    """
    with home.lock("mlflow-sync"), connected(home) as client:
        mark = f"tags.`lifespan.run_id` = '{run_id}' AND tags.`lifespan.level`"
        places = [experiment.experiment_id for experiment in client.search_experiments()]
        parents = client.search_runs(places, f"{mark} = 'run'", max_results=1)
        if not parents:
            return
        place, parent = parents[0].info.experiment_id, parents[0].info.run_id
        # For runs that have ended, MLflow would read all parameters and metrics as well.
        found = client.search_runs([place], f"{mark} = 'stage' AND attributes.status = 'RUNNING'", max_results=1000)
        there = {run.data.tags["lifespan.label"]: run for run in found}
        mirror = _Mirror(home, SyncResult())
        for stage in stages:
            own = there.get(stage.label) or mirror.create_stage(
                place, parent, run_id, stage.label, stage.stage, stage.started_at
            )
            moment = _milliseconds(None)
            values = {"progress": stage.done / max(stage.total, 1.0), **stage.info}
            mirror.log(own.info.run_id, [(f"live/{n}", v, int(stage.done), moment) for n, v in values.items()])


@contextlib.contextmanager
def connected(home: Home) -> Iterator[MlflowClient]:
    """A client of this home's MLflow, silenced while the block lasts."""
    with _quiet():
        yield _client(home)


def _client(home: Home) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    home.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    with home.lock("mlflow-migrate"):  # processes that migrate one new database at once all fail
        client = MlflowClient(tracking_uri=home.mlflow_uri, registry_uri=home.mlflow_uri)
        client.search_experiments(max_results=1)
    return client


class _Mirror:
    """One `sync` under way."""

    def __init__(self, home: Home, result: SyncResult, level: set[str] | None = None) -> None:
        self.home, self.result = home, result
        self.level = set() if level is None else level
        self.client = _client(home)
        self._experiments: dict[str, str] = {}

    def bring_up_to_date(self, runs: list[dict[str, Any]], experiment: str | None) -> None:
        stages = self._by_run("run_stages", [run["run_id"] for run in runs])
        places: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            places.setdefault(self._experiment(experiment or run["profile"] or "lifespan"), []).append(run)
        for place, lives in places.items():
            there = self._runs(place, "tags.`lifespan.level` = 'run'", "lifespan.run_id", [r["run_id"] for r in lives])
            for run in lives:
                own = stages.get(run["run_id"], [])
                state = self._state_of(run, own)
                if not _is_level(there.get(run["run_id"]), state):
                    self._mirror_run(place, there.get(run["run_id"]), run, own, state)

    def behind(self, runs: list[dict[str, Any]]) -> list[str]:
        """Ids of the runs that `bring_up_to_date` would change."""
        from mlflow.entities import ViewType

        stages = self._by_run("run_stages", [run["run_id"] for run in runs])
        there: dict[str, Run] = {}
        for experiment in self.client.search_experiments(ViewType.ALL):
            found = self._runs(experiment.experiment_id, "tags.`lifespan.level` = 'run'", "lifespan.run_id")
            there |= {run_id: run for run_id, run in found.items() if _is_active(run) or run_id not in there}
        late = []
        for run in runs:
            own = there.get(run["run_id"])
            state = self._state_of(run, stages.get(run["run_id"], []))
            if not _is_level(own, state):
                late.append(str(run["run_id"]))
        return late

    def _state_of(self, run: dict[str, Any], stages: list[dict[str, Any]]) -> str:
        """Digest of what is mirrored of a run: of its rows and, after a colon, of its report if there is one."""
        report = self.home.report(run["run_id"])
        stamp = digest([report.stat().st_size, report.stat().st_mtime_ns]) if report.exists() else ""
        return f"{digest([_state(run), [_state(stage) for stage in stages]], 'run')}:{stamp}"

    # Runs

    def _mirror_run(
        self, place: str, there: Run | None, run: dict[str, Any], stages: list[dict[str, Any]], state: str
    ) -> None:
        start = _milliseconds(run["started_at"])
        params: dict[str, str] = {}
        if there is None:
            self.level.clear()  # of stages in a database that has gone, perhaps
            tags = {"lifespan.level": "run", "lifespan.run_id": run["run_id"], "lifespan.profile": run["profile"] or ""}
            there = self.client.create_run(place, start_time=start, tags=_with_source(tags), run_name=_run_name(run))
            self.result.runs += 1
            where = pads.field("run_id") == run["run_id"]
            for row in self.home.tables.read("runs", ["event", "config_json", "host_json"], where).to_pylist():
                if row["event"] == "started":
                    params = {**flatten(row["config_json"]), **flatten(row["host_json"], "host")}
        parent = there.info.run_id
        self._mirror_stages(place, parent, stages)
        report = self.home.report(run["run_id"])
        if report.exists():
            self.client.log_text(parent, report.read_text(encoding="utf-8"), "report.html")
        self._end(parent, run["status"], run["ended_at"])
        counts = [("stages." + name, run[name], 0, start) for name in ("ran", "cached", "failed")]
        self.log(
            parent,
            [*counts, *self._summary(run["run_id"], start)],
            params,
            {"lifespan.status": run["status"], "lifespan.state": state},
        )

    def _summary(self, run_id: str, start: int) -> list[tuple[str, float, int, int]]:
        """The numbers of a run's row in `run_summary`, so that MLflow's charts of runs have something to compare."""
        found = query(self.home, "SELECT * FROM run_summary WHERE run_id = $run", {"run": run_id}).to_pylist()
        return [
            (f"summary.{name}", float(value), 0, start)
            for row in found
            for name, value in row.items()
            if isinstance(value, int | float) and name not in ("ran", "cached", "failed")
        ]

    def _mirror_stages(self, place: str, parent: str, stages: list[dict[str, Any]]) -> None:
        states = {stage["label"]: digest(_state(stage)) for stage in stages}
        unknown = [label for label, state in states.items() if state not in self.level]
        there = self._runs(place, f"tags.`mlflow.parentRunId` = '{parent}'", "lifespan.label", unknown)
        behind = [
            stage
            for stage in stages
            if stage["label"] in unknown and not _is_level(there.get(stage["label"]), states[stage["label"]])
        ]
        if behind:
            self._mirror_late(place, parent, behind, there)
        self.level.update(states.values())

    def _mirror_late(self, place: str, parent: str, behind: list[dict[str, Any]], there: Mapping[str, Run]) -> None:
        keys = [stage["key"] for stage in behind]
        metrics = self._metrics(keys)
        costs = {
            row["key"]: row for row in self._by_run("run_costs", [behind[0]["run_id"]]).get(behind[0]["run_id"], [])
        }
        for stage in behind:
            found = there.get(stage["label"])
            self._mirror_stage(place, parent, found, stage, metrics.get(stage["key"], []), costs.get(stage["key"], {}))

    def _mirror_stage(
        self,
        place: str,
        parent: str,
        there: Run | None,
        stage: dict[str, Any],
        rows: list[dict[str, Any]],
        cost: Mapping[str, Any],
    ) -> None:
        ended = _milliseconds(stage["ended_at"] or stage["started_at"])
        params: dict[str, str] = {}
        if there is None:
            began = stage["started_at"] or stage["ended_at"]
            there = self.create_stage(place, parent, stage["run_id"], stage["label"], stage["stage"], began)
        if not there.data.params:  # one that was shown live has none yet
            params = flatten(stage["config_json"])
        own = there.info.run_id
        cached = stage["status"] == "cached"
        if cached:
            rows = list({row["name"]: row for row in rows}.values())
        totals = {**numbers(parsed(stage["facts_json"]), "fact"), **numbers(cost, "cost")}
        points = [(name, value, 0, ended) for name, value in totals.items()]
        for row in rows:
            time = _milliseconds(row["time"]) if row["time"] else ended
            points.append((row["name"], row["value"], row["step"], time))
        tags = {
            "lifespan.key": stage["key"],
            "lifespan.cached": str(cached).lower(),
            "lifespan.kind": stage["kind"] or "",
            "lifespan.group": stage["group"] or "",
            "lifespan.reason": cut(stage["reason"] or ""),
            "lifespan.produced_by": cost.get("paid_by_run") or stage["run_id"],
            **{f"lifespan.input.{name}": cut(value) for name, value in flatten(stage["inputs_json"]).items()},
            "lifespan.state": digest(_state(stage)),
        }
        self._end(own, stage["status"], stage["ended_at"])
        self.log(own, metrics=points, params=params, tags=tags)
        self.result.stages += 1
        self.result.metrics += len(rows)

    def create_stage(
        self, place: str, parent: str, run_id: str, label: str, stage: str, began: datetime.datetime
    ) -> Run:
        """The nested run of a stage, still empty."""
        tags = {
            "lifespan.level": "stage",
            "lifespan.run_id": run_id,
            "lifespan.label": label,
            "lifespan.stage": stage,
            "mlflow.parentRunId": parent,
        }
        return self.client.create_run(place, start_time=_milliseconds(began), tags=_with_source(tags), run_name=label)

    def _end(self, mlflow_id: str, status: str, ended_at: datetime.datetime | None) -> None:
        word = _STATUS.get(status, "FAILED")
        if word == "RUNNING" or ended_at is None:
            self.client.update_run(mlflow_id, status=word)
        else:
            self.client.set_terminated(mlflow_id, status=word, end_time=_milliseconds(ended_at))

    # Reading the tables

    def _by_run(self, view: str, run_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
        sql = f"SELECT * FROM {view} WHERE list_contains($runs, run_id) ORDER BY ALL"
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in queries.query(self.home, sql, {"runs": run_ids}).to_pylist():
            rows.setdefault(row["run_id"], []).append(row)
        return rows

    def _metrics(self, keys: list[str]) -> dict[str, list[dict[str, Any]]]:
        table = self.home.tables.read("metrics", ["key", "name", "step", "value", "time"], pads.field("key").isin(keys))
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in table.sort_by([("step", "ascending"), ("name", "ascending")]).to_pylist():
            if row["value"] is not None:
                rows.setdefault(row["key"], []).append(row)
        return rows

    # Reading and writing MLflow

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                # A server places artifacts itself; a database has only this machine's disk.
                local = "://" in self.home.mlflow_uri and not self.home.mlflow_uri.startswith("http")
                place = self.home.mlflow_artifacts.as_uri() if local else None
                tags = {
                    "mlflow.experimentKind": "custom_model_development",  # its pages would guess otherwise
                    "mlflow.note.content": f"Runs of the profile `{name}`, with a nested run per stage.",
                }
                self._experiments[name] = self.client.create_experiment(name, place, tags)
            else:
                if found.lifecycle_stage == "deleted":  # its name stays taken; its deleted runs stay deleted
                    self.client.restore_experiment(found.experiment_id)
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def _runs(self, place: str, condition: str, tag: str, values: Sequence[str] | None = None) -> dict[str, Run]:
        """Runs of an experiment that match a condition, by the value of a tag (None: any); including deleted ones.

        MLflow reads all parameters and last metrics of what it finds, 8 ms per run, so a few are searched one by one.
        """
        from mlflow.entities import ViewType

        if values is None or len(values) > _MAX_SINGLE_SEARCHES or any("'" in value for value in values):
            conditions = [condition]
        else:
            conditions = [f"{condition} AND tags.`{tag}` = '{value}'" for value in values]
        found: dict[str, Run] = {}
        for wanted in conditions:
            token: str | None = None
            while True:
                page = self.client.search_runs([place], wanted, ViewType.ALL, max_results=1000, page_token=token)
                found.update({run.data.tags[tag]: run for run in page if tag in run.data.tags})
                token = page.token
                if not token:
                    break
        return found

    def log(
        self,
        mlflow_id: str,
        metrics: Iterable[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log in as few requests as MLflow's limits allow; the tags go with the last one."""
        from mlflow.entities import Metric, Param, RunTag

        points: list[Metric] = [Metric(allowed_name(n), float(value), time, step) for n, value, step, time in metrics]
        settings: list[Param] = [Param(allowed_name(n), cut(value)) for n, value in (params or {}).items()]
        labels: list[RunTag] = [RunTag(allowed_name(n), value) for n, value in (tags or {}).items()]
        while len(points) + len(settings) + len(labels) > _PER_BATCH or len(settings) > _PARAMS_PER_BATCH:
            first, settings = settings[:_PARAMS_PER_BATCH], settings[_PARAMS_PER_BATCH:]
            room = _PER_BATCH - len(first)
            self.client.log_batch(mlflow_id, params=first, metrics=points[:room])
            points = points[room:]
        self.client.log_batch(mlflow_id, params=settings, metrics=points, tags=labels)


def _run_name(run: Mapping[str, Any]) -> str:
    """A name for people, in their own time zone: "laptop 2026-11-22 14:03"."""
    local = run["started_at"].astimezone()
    return f"{run['profile'] or run['name'] or 'lifespan'} {local:%Y-%m-%d %H:%M}"


def _with_source(tags: dict[str, str]) -> dict[str, str]:
    return {**tags, "mlflow.source.name": "lifespan", "mlflow.source.type": "LOCAL"}


def _state(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as digestible values."""
    return {name: value.isoformat() if isinstance(value, datetime.datetime) else value for name, value in row.items()}


def _is_active(run: Run) -> bool:
    return bool(run.info.lifecycle_stage == "active")


def _is_level(there: Run | None, state: str) -> bool:
    """Whether what MLflow has needs nothing: it is of this state, its report has been removed since, or a user deleted
    it."""
    if there is None or not _is_active(there):
        return there is not None
    shown = there.data.tags.get("lifespan.state", "")
    return shown == state or (state.endswith(":") and shown.startswith(state))


def _milliseconds(time: datetime.datetime | None) -> int:
    return int((time or datetime.datetime.now(datetime.UTC)).timestamp() * 1000)
