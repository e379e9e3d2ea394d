"""Metric points in memory, a column an array: cheap to add to in a training loop, and Arrow without a copy."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

Point = tuple[int, str, float, float]  # step, name, value, Unix time


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
