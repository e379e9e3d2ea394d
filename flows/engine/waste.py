"""What comes to nothing: failed, killed, interrupted and repeated attempts at stages, as rows of the table `waste`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.cost.ledger import Rates, entry, lost
from flows.engine.energy import meter
from flows.engine.graph import Node
from flows.engine.work import now
from flows.settings import ComputeConfig
from storage.home import Home

# Types of error of a stage that was ended from outside, see flows.engine.workers and flows.engine.runner.
KILLED = ("WorkerDied", "TimedOut")


@dataclass
class Attempt:
    """One that goes on: `used` is what the stage last told of itself, over all its attempts."""

    node: Node
    number: int
    began: float = field(default_factory=time.monotonic)
    used: Mapping[str, float] | None = None

    def seen(self, threads: int) -> dict[str, float]:
        """What it took; of one that told nothing the wall clock, with every thread busy."""
        if self.used is not None:
            return dict(self.used)
        seconds = time.monotonic() - self.began
        return {"seconds": seconds, "cpu_seconds": seconds * threads}


class Waste:
    """The attempts of one run, each booked when it ends without an artifact."""

    def __init__(self, home: Home, run_id: str, compute: ComputeConfig) -> None:
        self._home, self._run_id, self._compute = home, run_id, compute
        self._open: dict[str, Attempt] = {}
        self._numbers: dict[str, int] = {}
        self._earlier: dict[str, dict[str, Any]] = {}
        self._booked = 0.0
        self._booking = threading.Lock()
        self._lock = threading.Lock()

    def began(self, node: Node) -> None:
        """A worker began with the stage."""
        with self._lock:
            number = self._numbers[node.label] = self._numbers.get(node.label, 0) + 1
            self._open[node.label] = Attempt(node, number)

    def told(self, label: str, used: Mapping[str, float]) -> None:
        """What a stage has used by now."""
        if attempt := self._open.get(label):
            attempt.used = used

    def remember(self, keys: Collection[str]) -> None:
        """What earlier makings of these artifacts cost: if they are made again, that was in vain."""
        import pyarrow.dataset as pads

        rows = self._home.tables.read("costs", where=pads.field("key").isin(list(keys))).to_pylist()
        self._earlier.update({row["key"]: row for row in rows})

    def made(self, node: Node, usage: Mapping[str, float]) -> None:
        """The stage has its artifact, which took `usage`; an earlier one of the same key was made in vain."""
        with self._lock:
            attempt = self._open.pop(node.label, None)
            self._booked += entry(usage, self._compute.rates)["usd"]
        if row := self._earlier.pop(node.key, None):
            again = {"attempt": attempt.number if attempt else 1, "outcome": "repeated"}
            reason = f"its artifact was damaged or removed; run {self._run_id} made it again"
            self._write(f"{row['run_id']}-{_digest(node.label)}-for-{self._run_id}", row | again | {"reason": reason})

    def lost(self, label: str, outcome: str, reason: str) -> None:
        """The attempt came to nothing; books what no saved state holds, and what a state does hold until the stage that
        resumes from it ends."""
        with self._booking:  # whoever comes second finds it written
            with self._lock:
                attempt = self._open.pop(label, None)
            if attempt is None:
                return
            usd = book(self._home, describe(self._run_id, attempt, self._compute), outcome, reason)
            with self._lock:
                self._booked += usd

    def under_way(self) -> list[dict[str, Any]]:
        """What `book` needs of each attempt that goes on, as JSON: for whoever finds this run dead."""
        with self._lock:
            return [describe(self._run_id, attempt, self._compute) for attempt in self._open.values()]

    def usd(self) -> float:
        """Dollars of the run so far: what was made, what was lost, and the attempts that go on."""
        rates, threads = self._compute.rates, self._compute.threads_per_worker
        with self._lock:
            seen = [attempt.seen(threads) for attempt in self._open.values()]
            return self._booked + float(sum(entry(used, rates)["usd"] for used in seen))

    def _write(self, part: str, row: Mapping[str, Any]) -> None:
        self._home.tables.write("waste", part, [row])


def describe(run_id: str, attempt: Attempt, compute: ComputeConfig) -> dict[str, Any]:
    """An attempt as JSON."""
    node, rates = attempt.node, compute.rates
    return {
        "who": {
            "run_id": run_id,
            "key": node.key,
            "stage": node.stage.name,
            "group": node.stage.group,
            "label": node.label,
            "attempt": attempt.number,
        },
        "used": attempt.seen(compute.threads_per_worker),
        "rates": vars(rates),
    }


def book(home: Home, attempt: Mapping[str, Any], outcome: str, reason: str) -> float:
    """Write the rows of an attempt that came to nothing; returns the dollars that it lost. `attempt`: as `describe` has
    it."""
    who, rates = dict(attempt["who"]), Rates(**attempt["rates"])
    saved = saved_usage(home, who["key"])
    what = {"ended_at": now(), "outcome": outcome, "reason": reason}
    told = meter(rates.device)[1]
    row = {**who, **what, **entry(_whole(lost(attempt["used"], saved)), rates, told)}
    part = f"{who['run_id']}-{_digest(who['label'])}-{who['attempt']}"
    home.tables.write("waste", part, [row])
    if saved:
        held = {**who, **what, "outcome": "saved", **entry(_whole(saved), rates, told)}
        home.tables.write("waste", f"{who['key']}-saved", [held])
    return float(row["usd"])


def saved_usage(home: Home, key: str) -> dict[str, float]:
    """What the newest saved state of a stage says that it has used; nothing where there is none."""
    for file in sorted((home.local / "scratch" / key).glob("step-*.json"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError):
            return {name: float(value) for name, value in json.loads(file.read_bytes())["spent"].items()}
    return {}


def _whole(used: Mapping[str, float]) -> dict[str, float]:
    return {"seconds": 0.0, "cpu_seconds": 0.0, **used}


def _digest(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()[:16]
