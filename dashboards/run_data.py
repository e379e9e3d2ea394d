"""The rows of one run, read through SQL: the only place in the report that knows tables.

A stage that was cached keeps its rows under the run that made it, so every table is joined to the run's `stages` by
`key`. Facts come as the dataclass that their stage returned; what is not finite is None, and the report says "not
measured".
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import pyarrow as pa

from components.stage_results import OtherFacts, Result, from_facts
from components.statistics import Interval
from storage.home import Home
from storage.queries import query

Row = Mapping[str, Any]
Points = tuple[tuple[int, ...], tuple[float, ...]]  # steps, values


class Series:
    """A metric over the steps of a stage, in the order of the steps. It is read when it is first looked at."""

    def __init__(self, read: Callable[[], Points] = lambda: ((), ())) -> None:
        self._read = read

    @cached_property
    def _points(self) -> Points:
        return self._read()

    @property
    def steps(self) -> tuple[int, ...]:
        return self._points[0]

    @property
    def values(self) -> tuple[float, ...]:
        return self._points[1]

    def __bool__(self) -> bool:
        return bool(self.steps)


@dataclass(frozen=True)
class StageRow:
    """The last word on one stage of a run. `seconds` is the wall clock that this run spent on it."""

    stage: str
    label: str
    key: str
    kind: str
    group: str
    status: str
    reason: str
    started_at: datetime.datetime | None
    ended_at: datetime.datetime | None
    seconds: float | None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRows:
    """All that a report needs of one run. `read_series`: the points of a metric, from the key of its stage and its
    name. `config`: its settings."""

    run_id: str
    name: str
    profile: str
    status: str
    started_at: datetime.datetime | None
    ended_at: datetime.datetime | None
    stages: tuple[StageRow, ...] = ()
    read_series: Callable[[str, str], Points] = lambda key, name: ((), ())
    costs: tuple[Row, ...] = ()
    evals: tuple[Row, ...] = ()
    samples: tuple[Row, ...] = ()
    preferences: tuple[Row, ...] = ()
    judgements: tuple[Row, ...] = ()
    quarantine: tuple[Row, ...] = ()
    funnel: tuple[Row, ...] = ()
    scaling_points: tuple[Row, ...] = ()
    scaling_fits: tuple[Row, ...] = ()
    forecasts: tuple[Row, ...] = ()
    forgetting: tuple[Row, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        """By the clock: from its start to its end, or to its last stage's end while it is open."""
        end = self.ended_at or max((s.ended_at for s in self.stages if s.ended_at), default=None)
        return (end - self.started_at).total_seconds() if end and self.started_at else None

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.config.get("seed", 0))

    def made(self) -> Iterator[StageRow]:
        """The stages that have an artifact."""
        return (stage for stage in self.stages if stage.status in ("ran", "cached"))

    def find(self, name: str) -> StageRow | None:
        """The stage of that label, else the first of that name."""
        made = list(self.made())
        return next((s for s in made if s.label == name), None) or next((s for s in made if s.stage == name), None)

    def all(self, name: str) -> list[StageRow]:
        """Every stage of that name, whatever its label."""
        return [stage for stage in self.made() if stage.stage == name]

    def result(self, stage: StageRow, kind: type[Result]) -> Result:
        """What the stage returned.

        Raises:
            UnreadableFacts: another version of the stage wrote its facts.
        """
        try:
            return from_facts(kind, stage.facts)
        except OtherFacts as error:
            raise UnreadableFacts(
                f"another version of Lifespan wrote the facts of {stage.label} ({error}); a new run makes them again"
            ) from error

    def result_of(self, name: str, kind: type[Result]) -> Result | None:
        """What the stage of that label or name returned; None where the run has none. Raises as `result` does."""
        stage = self.find(name)
        return None if stage is None else self.result(stage, kind)

    def metric(self, stage: StageRow | None, *names: str) -> Series:
        """The first of the named metrics that the stage wrote, empty where it wrote none."""

        def read() -> Points:
            found = (self.read_series(stage.key, name) for name in names) if stage else iter(())
            return next((points for points in found if points[0]), ((), ()))

        return Series(read)

    def why_missing(self, group: str, what: str) -> str:
        """Why a part of the life has nothing to show."""
        stages = [stage for stage in self.stages if stage.group == group]
        failed = [stage for stage in stages if stage.status == "failed"]
        if failed:
            reason = f": {failed[0].reason.splitlines()[0]}" if failed[0].reason else ""
            return f"{what} is missing: the stage {failed[0].label} failed{reason}"
        if waiting := [stage for stage in stages if stage.status == "waiting"]:
            return f"{what} is missing: {waiting[0].reason}"
        if not stages:
            return f"{what} is missing: no stage of this part is in this run"
        return f"{what} is missing: its stages ({', '.join(stage.label for stage in stages[:4])}) wrote no such rows"


class UnknownRun(ValueError):
    """The home holds no run of that id, or none at all."""


class UnreadableFacts(ValueError):
    """Facts or details that another version of Lifespan wrote: the part of the report that needs them says so."""


def known(value: float | None) -> float | None:
    """A finite number, or None."""
    return None if value is None or not math.isfinite(value) else float(value)


def known_values(values: Mapping[str, float]) -> dict[str, float]:
    """Those that are finite, such as the losses by source."""
    return {name: value for name, value in values.items() if math.isfinite(value)}


def finite(x: Interval | None) -> Interval | None:
    """An interval whose value and both ends are finite, or None."""
    return x if x is not None and all(map(math.isfinite, (x.value, x.low, x.high))) else None


def interval(row: Row, name: str) -> Interval | None:
    """The columns `name`, `low`, `high` and `n` of a table's row; None unless value and both ends are there."""
    value, low, high = (row[column] for column in (name, "low", "high"))
    if value is None or low is None or high is None:
        return None
    return finite(Interval(value, low, high, row["n"] or 0))


def details(row: Row, kind: type[Result]) -> Result:
    """The `details_json` of a row.

    Raises:
        UnreadableFacts: another version wrote them.
    """
    try:
        return from_facts(kind, parsed(row["details_json"]))
    except OtherFacts as error:
        raise UnreadableFacts(f"details that another version of Lifespan wrote cannot be read: {error}") from error


def parsed(text: Any) -> dict[str, Any]:
    """The object in a *_json column; {} where there is none."""
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return dict(value) if isinstance(value, Mapping) else {}


_STAGES = """
    SELECT * FROM stages WHERE run_id = $run
    QUALIFY row_number() OVER (PARTITION BY label ORDER BY ended_at DESC NULLS LAST, started_at DESC NULLS LAST) = 1
    ORDER BY started_at NULLS LAST, label"""
_OF_RUN = """
    SELECT * FROM {table}
    WHERE key IN (SELECT key FROM stages WHERE run_id = $run AND status IN ('ran', 'cached'))"""

# Of a step written twice (before and after a resume) the last counts.
_SERIES = """
    SELECT step, last(value ORDER BY time) AS value FROM metrics
    WHERE key = $key AND name = $name AND isfinite(value) GROUP BY step ORDER BY step"""

# People judge answers whatever run made them: a batch is named by its texts, and the stage's facts say which it is.
_JUDGEMENTS = """
    SELECT * FROM judgements
    WHERE batch IN (SELECT facts_json->>'batch' FROM stages WHERE run_id = $run AND stage = 'sample_answers')
    ORDER BY annotator, submitted_at"""


def read_run(home: Home, run_id: str | None = None) -> RunRows:
    """Read a run; without an id, the one that started last.

    Raises:
        UnknownRun: no such run; names those that are there.
    """
    events = _dicts(query(home, "SELECT * FROM runs ORDER BY time"))
    known = list(dict.fromkeys(row["run_id"] for row in events if row["event"] == "started"))
    if not known:
        raise UnknownRun(f"{home!r} holds no run yet: start one with `lifespan run`")
    wanted = known[-1] if run_id is None else run_id
    mine = [row for row in events if row["run_id"] == wanted]
    if not mine:
        raise UnknownRun(f"no run {wanted!r} in {home!r}; the latest are {', '.join(known[-5:])}")
    first, last = mine[0], mine[-1]

    def table(name: str, order: str = "") -> tuple[Row, ...]:
        return tuple(_dicts(query(home, _OF_RUN.format(table=name) + order, {"run": wanted})))

    return RunRows(
        run_id=wanted,
        name=first["name"] or wanted,
        profile=first["profile"] or "",
        status=last["status"],
        started_at=first["time"],
        ended_at=last["time"] if last["event"] == "ended" else None,
        stages=tuple(_stage(row) for row in _dicts(query(home, _STAGES, {"run": wanted}))),
        read_series=partial(_points, home),
        costs=table("costs"),
        evals=table("evals", " ORDER BY suite, model, strategy, item_id"),
        samples=table("samples", " ORDER BY stage, key, step"),
        preferences=table("preferences", " ORDER BY pair_id"),
        judgements=tuple(_dicts(query(home, _JUDGEMENTS, {"run": wanted}))),
        quarantine=table("quarantine"),
        funnel=table("funnel", " ORDER BY position, source"),
        scaling_points=table("scaling_points", " ORDER BY sweep, variant, num_params, tokens, seed"),
        scaling_fits=table("scaling_fits", " ORDER BY sweep, law, parameter"),
        forecasts=table("forecasts", " ORDER BY made_at, target"),
        forgetting=table("forgetting", " ORDER BY position, unit, evaluation"),
        config=parsed(first["config_json"]),
    )


def _dicts(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


def _stage(row: Row) -> StageRow:
    return StageRow(
        stage=row["stage"],
        label=row["label"],
        key=row["key"],
        kind=row["kind"] or "",
        group=row["group"] or "",
        status=row["status"],
        reason=row["reason"] or "",
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        seconds=row["seconds"],
        facts=parsed(row["facts_json"]),
    )


def _points(home: Home, key: str, name: str) -> Points:
    found = query(home, _SERIES, {"key": key, "name": name})
    return tuple(found["step"].to_pylist()), tuple(found["value"].to_pylist())
