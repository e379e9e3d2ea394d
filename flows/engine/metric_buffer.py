"""Metric points in memory, a column an array: cheap to add to in a training loop, and Arrow without a copy."""

from __future__ import annotations

import json
import math
import time
from array import array
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

Point = tuple[int, str, float, float]  # step, name, value, Unix time
LIVE_SECONDS = 1.0  # between two lines of a stage's live points


class Points:
    """Points in the order in which they were logged: 28 bytes each."""

    def __init__(self, points: Iterable[Point] = ()) -> None:
        self._steps, self._values, self._times = array("q"), array("d"), array("d")
        self._codes = array("i")  # places in `_names`
        self._names: dict[str, int] = {}
        for step, name, value, at in points:
            self.add(step, {name: value}, at)

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: int, values: Mapping[str, float], at: float) -> None:
        """Add a point for each of `values`; `at` is Unix time."""
        names = self._names
        for name, value in values.items():
            number = float(value)
            self._steps.append(step)
            self._codes.append(names.setdefault(name, len(names)))
            self._values.append(number)
            self._times.append(at)

    def rows(self, start: int = 0) -> list[Point]:
        """The points from number `start` on."""
        names = list(self._names)
        texts = (names[code] for code in self._codes[start:])
        return list(zip(self._steps[start:], texts, self._values[start:], self._times[start:], strict=True))

    def table(self, run_id: str, key: str, stage: str) -> pa.Table:
        """The points as rows of the table `metrics`."""
        import numpy as np
        import pyarrow as pa

        microseconds = np.rint(np.frombuffer(self._times) * 1e6).astype(np.int64)
        codes = pa.array(np.frombuffer(self._codes, np.int32))
        whole = {"run_id": run_id, "key": key, "stage": stage}
        columns = {name: pa.repeat(pa.scalar(text), len(self)) for name, text in whole.items()} | {
            "step": pa.array(np.frombuffer(self._steps, np.int64)),
            "name": pa.DictionaryArray.from_arrays(codes, pa.array(list(self._names), pa.string())),
            "value": pa.array(np.frombuffer(self._values)),
            "time": pa.array(microseconds).view(pa.timestamp("us", tz="UTC")),
        }
        return pa.table(columns)


class LivePoints:
    """Lets others see a stage's points while it runs: what is new goes to the end of a file, once a second.

    A line is a JSON object: run_id, key, stage, label, began (when the file did, Unix time), and the new points as
    lists of equal length: step, name, value (null where it is not finite), time. `storage.live` reads it. The file
    begins anew with each attempt, and goes away with the stage's state when the artifact is sealed.
    """

    def __init__(self, file: Path, run_id: str, key: str, stage: str, label: str) -> None:
        self._file, self._written, self._wrote_at = file, 0, -math.inf
        self._who: dict[str, str | float] = {"run_id": run_id, "key": key, "stage": stage, "label": label}

    def show(self, points: Points) -> None:
        """Append what is new, unless that was done less than `LIVE_SECONDS` ago. Cheap to call at every step."""
        at = time.monotonic()
        if at - self._wrote_at < LIVE_SECONDS or len(points) == self._written:
            return
        self._wrote_at = at
        afresh = self._written == 0 or len(points) < self._written  # an earlier state was loaded
        if afresh:
            self._who["began"] = time.time()
        steps, names, values, times = zip(*points.rows(0 if afresh else self._written), strict=True)
        finite = [value if math.isfinite(value) else None for value in values]
        line = {**self._who, "step": steps, "name": names, "value": finite, "time": times}
        with suppress(OSError):  # a disk that is full must not end the stage here
            with self._file.open("wb" if afresh else "ab") as out:
                out.write(json.dumps(line).encode() + b"\n")  # one write: a reader finds whole lines
            self._written = len(points)
