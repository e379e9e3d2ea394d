"""Points come back as they were logged, to the last bit, and lie in the table with their times."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.engine.metric_buffer import Points
from storage.tables import Tables

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_points = st.lists(
    st.tuples(st.integers(0, 2**62), st.sampled_from(["loss", "é", ""]), st.floats(), st.floats(0, 4e9, width=32))
)


@given(_points, st.integers(0, 5))
def test_points_come_back_in_order_from_any_place_on(points: list[tuple[int, str, float, float]], start: int) -> None:
    held = Points(points)
    assert len(held) == len(points)
    assert repr(held.rows(start)) == repr(points[start:])  # repr: NaN is not equal to itself


def test_points_become_rows_of_metrics(tmp_path: Path) -> None:
    held = Points()
    held.add(3, {"loss": np.float32(0.5), "lr": 1}, 1.790000000123456e9)
    held.add(4, {"loss": math.nan}, 1e9)
    tables = Tables(tmp_path)
    assert tables.write("metrics", "k", held.table("r", "k", "pretrain")) == 3
    first, second, third = sorted(tables.read("metrics").to_pylist(), key=lambda row: (row["step"], row["name"]))
    at = EPOCH + timedelta(seconds=1790000000, microseconds=123456)
    assert first == {
        "run_id": "r",
        "key": "k",
        "stage": "pretrain",
        "step": 3,
        "name": "loss",
        "value": 0.5,
        "time": at,
    }
    assert (second["name"], second["value"]) == ("lr", 1.0) and math.isnan(third["value"])


def test_a_wrong_value_leaves_no_half_of_a_point() -> None:
    held = Points()
    for step, value in ((1, "high"), (1.5, 2.0)):
        with pytest.raises((TypeError, ValueError)):
            held.add(step, {"loss": value}, 0.0)  # type: ignore[arg-type, dict-item]
    held.add(2, {"loss": 3.0}, 0.0)
    assert held.rows() == [(2, "loss", 3.0, 0.0)]
