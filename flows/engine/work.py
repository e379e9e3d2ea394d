"""What a stage's function is handed: where to write, what to read, whom to tell, and how to survive a kill.

Everything that a stage reports (metrics, rows, usage) is held in memory and travels with `save_state`, so a stage
that was killed and resumed reports each row once: rows younger than the last state are made again, older ones are
read back.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.cost.ledger import COUNTED
from flows.engine.device import usable
from flows.engine.energy import EnergySpan, meter
from flows.engine.metric_buffer import LivePoints, Point, Points
from flows.engine.utilization import peak_memory_bytes
from flows.settings import ComputeConfig
from storage.durable import replacing, write_bytes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from storage.artifacts import Artifact, Store
    from storage.remote_state import RemoteState

KEPT_STATES = 2  # the newest may be torn by a dying disk; the one before it then serves
SAVING_SHARE = 0.05  # of the time that saving states may take
PROGRESS_SECONDS = 0.2


class Notice:
    """A request to end, SIGTERM, as pre-emption gives it: a stage that saves states saves one more first.

    A worker process has one, `NOTICE`; it executes one stage at a time.
    """

    def __init__(self) -> None:
        self.given = False
        self.saves = False  # whether the stage that runs now saves states

    def give(self, number: int = 0, frame: Any = None) -> None:
        """Handle SIGTERM: end now, or when the next state is saved."""
        self.given = True
        if not self.saves:
            self.leave()

    def leave(self) -> None:
        """End as SIGTERM ends a process, so that whoever waits for it sees what it was."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)

    def stage_ended(self) -> None:
        """Nothing is left to save."""
        self.saves = False
        if self.given:
            self.leave()


NOTICE = Notice()


class Waiting(RuntimeError):
    """A stage cannot go on before people have done something; the message says what, and how. The next run goes on."""


class Work:
    """One execution of one stage.

    Attributes:
        out: empty folder; what is written here becomes the artifact's files.
        state: folder that survives a kill and is removed when the stage is sealed.
        execution: where and how this runs; of it device and threads alone may have a say in the bits of a result, and
            are in the key.
        local: the home's folder on this machine, where people's judgements lie; None in most unit tests.
        points: the metrics that were logged.
    """

    def __init__(
        self,
        out: Path,
        state: Path,
        execution: ComputeConfig | None = None,
        *,
        store: Store | None = None,
        local: Path | None = None,
        far: RemoteState | None = None,
        report: Callable[[dict[str, Any]], None] = lambda event: None,
        agree: Callable[[bool], bool] | None = None,
        live: LivePoints | None = None,
    ) -> None:
        self.out = out
        self.state = state
        self.execution = execution or ComputeConfig()
        self.local = local
        self._agree = agree  # of many ranks: whether any of them says so; they save together
        self._far = far  # where states go beside the disk, so that they survive the machine
        self._store = store
        self._report = report
        self._live = live
        self.points = Points()
        self._rows: list[tuple[str, dict[str, Any]]] = []
        self._saved_points = self._saved_rows = 0  # how many of them the last state holds
        self._segments: list[str] = []  # files of the state folder with the rows so far
        self._used: dict[str, float] = dict.fromkeys(COUNTED, 0.0)
        # Wall and CPU seconds and joules of the killed attempts, as far as they were saved.
        self._spent_before: dict[str, float] = {}
        self._energy = EnergySpan(self.execution.device, meter(self.execution.device)[0])
        self._started = time.monotonic()
        self._cpu_started = cpu_seconds()
        self._state_saved_at = self._started
        self._saving_seconds = 0.0  # what the last state took
        self._told_at = 0.0

    # --- reading --------------------------------------------------------------------------------------------------

    def open(self, artifact: Artifact) -> Path:
        """Local folder with the artifact's files, checked against their checksums. Read only."""
        if self._store is None:
            raise RuntimeError("this Work has no store: a unit test passes store=Store(tmp_path)")
        return self._store.path(artifact)

    @property
    def device(self) -> torch.device:
        """Where this stage computes; see `flows.engine.device`."""
        return usable(self.execution.device)

    # --- reporting ------------------------------------------------------------------------------------------------

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step; they become rows of the `metrics` table when the stage is sealed, and those of
        `live_metrics` within a second."""
        self.points.add(step, values, time.time())
        if self._live is not None:
            self._live.show(self.points)

    def rows(self, table: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Rows of a table, without `run_id`, `key`, `stage` and `group`, which are filled in."""
        self._rows.extend((table, dict(row)) for row in rows)

    def progress(self, done: float, total: float, **info: Any) -> None:
        """For the live view: how far, and what to show beside it (`loss=…`, `tokens=…` so far). Cheap to call often."""
        now = time.monotonic()
        if now - self._told_at >= PROGRESS_SECONDS or done >= total:
            self._told_at = now
            shown = {name: value if isinstance(value, str) else float(value) for name, value in info.items()}
            far = {"done": float(done), "total": float(total), "info": shown}
            self._report({"event": "progress", **far, "spent": self.spent()})

    def usage(
        self,
        *,
        tokens: float = 0,
        flops: float = 0,
        flops_6nd: float = 0,
        prompt_tokens: float = 0,
        generated_tokens: float = 0,
    ) -> None:
        """Add to what the stage processed; becomes its row in `costs`. `tokens`: all; of them `prompt_tokens` were read
        and `generated_tokens` sampled by a model that answers. `flops`: exact; `flops_6nd`: by 6N a token of training
        and 2N a token of a forward pass."""
        given = (tokens, prompt_tokens, generated_tokens, flops, flops_6nd)
        for name, value in zip(COUNTED, given, strict=True):
            self._used[name] += float(value)

    def spent(self) -> dict[str, float]:
        """What was counted, wall and CPU seconds so far, killed attempts included as far as a state was saved; the peak
        of memory; and joules where there is a meter."""
        before, cpu = self._spent_before, cpu_seconds() - self._cpu_started
        joules = self._energy.joules(cpu)
        return {
            **self._used,
            "seconds": before.get("seconds", 0.0) + time.monotonic() - self._started,
            "cpu_seconds": before.get("cpu_seconds", 0.0) + cpu,
            "peak_memory_bytes": max(before.get("peak_memory_bytes", 0.0), peak_memory_bytes(self.execution.device)),
            **({} if joules is None else {"energy_joules": before.get("energy_joules", 0.0) + joules}),
        }

    def spent_elsewhere(self, spent: Mapping[str, float]) -> None:
        """Other processes did the work: theirs is what `spent` tells from now on."""
        self._used = {name: spent.get(name, 0.0) for name in COUNTED}
        self._spent_before = {name: value for name, value in spent.items() if name not in COUNTED}
        self._started, self._cpu_started = time.monotonic(), cpu_seconds()

    def metrics(self) -> list[Point]:
        """What was logged: (step, name, value, Unix time)."""
        return self.points.rows()

    def table_rows(self) -> dict[str, list[dict[str, Any]]]:
        """What `rows` collected, by table."""
        tables: dict[str, list[dict[str, Any]]] = {}
        for table, row in self._rows:
            tables.setdefault(table, []).append(row)
        return tables

    # --- surviving a kill -----------------------------------------------------------------------------------------

    def state_due(self) -> bool:
        """True when it is time for the next `save_state`: `seconds_between_states` since the last one, or the process
        is asked to end."""
        NOTICE.saves = True
        between = seconds_between_states(self.execution.checkpoint_seconds, self._saving_seconds)
        due = NOTICE.given or time.monotonic() - self._state_saved_at >= between
        return self._agree(due) if self._agree else due

    def save_state(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Save all that is needed to go on after `step` steps: atomic, the last two are kept.

        `meta` is JSON. Write order: the new rows, the tensors, then the description that makes both count. Tensors in
        the memory of the CPU go to the file from where they lie. Ends the process when it was asked to end.
        """
        from safetensors.torch import save_file

        began = time.monotonic()
        self.state.mkdir(parents=True, exist_ok=True)
        with replacing(self.state / f"step-{step:09d}.safetensors") as temporary:
            save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary)
            digest = checksum(temporary)
        self._describe(step, {"meta": meta, "sha256": digest}, began)

    def save_state_of_ranks(self, step: int, rank: int, save: Callable[[Path], None]) -> None:
        """The same where many ranks write one state, each its part: every rank calls it, and `save`, which returns when
        all have written into the folder that it is handed."""
        began, folder = time.monotonic(), self.state / f"step-{step:09d}.ranks"
        if rank == 0:  # nobody writes before all have agreed on who writes what
            shutil.rmtree(folder, ignore_errors=True)  # of a killed attempt, perhaps with more ranks
            folder.mkdir(parents=True)
        save(folder)
        if rank == 0:
            sums = {file.name: checksum(file) for file in folder.iterdir()}
            self._describe(step, {"meta": {}, "folder": sums}, began)
        self._saved(began)
        if self._agree and self._agree(NOTICE.given):
            if self._far:
                self._far.flush(self.execution.grace_seconds)
            NOTICE.leave()

    def _saved(self, began: float) -> None:
        self._state_saved_at = time.monotonic()
        self._saving_seconds = self._state_saved_at - began

    def _describe(self, step: int, what: Mapping[str, Any], began: float) -> None:
        """Write the new rows, then the description that makes rows and tensors count; drop older states. The saving
        began at that time of the monotonic clock."""
        if len(self.points) > self._saved_points or len(self._rows) > self._saved_rows:
            segment = f"rows-{step:09d}.jsonl"
            new = {
                "metrics": self.points.rows(self._saved_points),
                "rows": [(table, pack(row)) for table, row in self._rows[self._saved_rows :]],
            }
            write_bytes(self.state / segment, json.dumps(new).encode())
            self._segments = [*(name for name in self._segments if name != segment), segment]
            self._saved_points, self._saved_rows = len(self.points), len(self._rows)
        description = {"step": step, "segments": self._segments, "spent": self.spent(), **what}
        name = f"step-{step:09d}"
        write_bytes(self.state / f"{name}.json", json.dumps(description).encode())
        if self._far:
            tensors = (
                [f"{name}.ranks/{file}" for file in what["folder"]] if "folder" in what else [f"{name}.safetensors"]
            )
            self._far.push([self.state / file for file in (*self._segments, *tensors)], self.state / f"{name}.json")
        for old in sorted(self.state.glob("step-*.json"))[:-KEPT_STATES]:
            old.unlink()
            old.with_suffix(".safetensors").unlink(missing_ok=True)
            shutil.rmtree(old.with_suffix(".ranks"), ignore_errors=True)
        self._saved(began)
        NOTICE.saves = True
        if NOTICE.given and not self._agree:
            if self._far:
                self._far.flush(self.execution.grace_seconds)
            NOTICE.leave()

    def load_state(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest whole state (step, tensors, meta), with the rows of that moment; None for a fresh start.

        Of a state of many ranks there are no tensors: `meta["folder"]` says where they lie.
        """
        from safetensors.torch import load_file

        if self._far:
            self._far.pull(self.state)
        for file in sorted(self.state.glob("step-*.json"), reverse=True):
            try:
                description = json.loads(file.read_bytes())
                folder = file.with_suffix(".ranks")
                if "folder" in description:
                    if any(checksum(folder / name) != sha for name, sha in description["folder"].items()):
                        continue
                    held, meta = None, {**description["meta"], "folder": str(folder)}
                else:
                    held, meta = file.with_suffix(".safetensors"), description["meta"]
                    if checksum(held) != description["sha256"]:
                        continue
                points, rows = Points(), []
                for name in description["segments"]:
                    segment = json.loads((self.state / name).read_bytes())
                    for step, metric, value, at in segment["metrics"]:
                        points.add(step, {metric: value}, at)
                    rows += [(table, unpack(row)) for table, row in segment["rows"]]
            except (OSError, ValueError, KeyError):
                continue  # torn or damaged: the one before it serves
            self.points, self._rows = points, rows
            self._segments = list(description["segments"])
            self._saved_points, self._saved_rows = len(points), len(rows)
            spent = description["spent"]
            self._used = {name: spent.get(name, 0.0) for name in COUNTED}
            self._spent_before = {name: value for name, value in spent.items() if name not in COUNTED}
            return description["step"], load_file(held) if held else {}, meta
        return None

    def forget_rows(self) -> None:
        """Begin anew: what a killed attempt had reported is reported again."""
        self.points, self._rows, self._segments = Points(), [], []
        self._saved_points = self._saved_rows = 0

    def forget_state(self) -> None:
        """Remove the state folder; the sealed artifact has taken its place."""
        shutil.rmtree(self.state, ignore_errors=True)
        if self._far:
            self._far.remove()


def cpu_seconds() -> float:
    """CPU time of this process and its ended children."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in usage)


def seconds_between_states(checkpoint_seconds: float, saving_seconds: float) -> float:
    """How long to train until the next state, where the last one took `saving_seconds`: checkpoint_seconds, or as long
    as it takes for saving to be `SAVING_SHARE` of the time. A checkpoint_seconds of 0 asks for a state after every
    step, whatever it costs."""
    if not checkpoint_seconds:
        return 0.0
    return max(checkpoint_seconds, saving_seconds * (1 - SAVING_SHARE) / SAVING_SHARE)


def checksum(path: Path) -> str:
    """SHA-256 of a file that may be larger than memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def pack(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON; only times need help."""
    return {name: {"$time": value.isoformat()} if isinstance(value, datetime) else value for name, value in row.items()}


def unpack(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value["$time"]) if isinstance(value, dict) and "$time" in value else value
        for name, value in row.items()
    }


def now() -> datetime:
    return datetime.now(UTC)
