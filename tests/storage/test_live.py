"""What a running stage logs is seen in SQL and by a reader with a cursor, and is counted once when it is sealed."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

import flows.engine.metric_buffer
from flows.engine.metric_buffer import LivePoints, Points
from storage.home import Home
from storage.live import LIVE_FILE, live_files, read_live
from storage.queries import query

KEY = "a" * 64


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.engine.metric_buffer, "LIVE_SECONDS", 0.0)


def live_of(home: Home, run_id: str = "r1") -> LivePoints:
    return LivePoints(home.scratch(KEY) / LIVE_FILE, run_id, KEY, "pretrain", "pretrain[a]")


def seen(home: Home) -> list[tuple[int, str, float | None]]:
    found = query(home, "SELECT step, name, value FROM live_metrics ORDER BY step, name").to_pylist()
    return [(row["step"], row["name"], row["value"]) for row in found]


def test_points_of_a_running_stage_are_seen_until_it_is_sealed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    points, live = Points(), live_of(home)
    assert seen(home) == []
    points.add(1, {"loss": 2.0, "lr": float("nan")}, 1.79e9)
    live.show(points)
    assert seen(home) == [(1, "loss", 2.0), (1, "lr", None)]
    points.add(2, {"loss": 1.5}, 1.79e9 + 1.25)
    live.show(points)
    assert seen(home)[-1] == (2, "loss", 1.5)
    (row,) = query(home, "FROM live_metrics WHERE step = 2").to_pylist()
    assert (row["run_id"], row["key"], row["stage"]) == ("r1", KEY, "pretrain")
    assert row["time"] == datetime.fromtimestamp(1.79e9 + 1.25, UTC)

    home.tables.write("metrics", KEY, points.table("r1", KEY, "pretrain"))
    assert len(seen(home)) == 3  # sealed, and the file is still there: no point counts twice
    live_files(home)[0].unlink()
    assert len(seen(home)) == 3


def test_a_reader_gets_each_point_once_and_all_again_after_a_new_attempt(tmp_path: Path) -> None:
    home = Home(tmp_path)
    points, live = Points(), live_of(home)
    for step in range(3):
        points.add(step, {"loss": float(step)}, 1.0)
        live.show(points)
    (file,) = live_files(home)
    first = read_live(file)
    assert [line["step"] for line in first.lines] == [[0], [1], [2]] and first.afresh
    assert read_live(file, first.cursor).lines == ()
    points.add(3, {"loss": 3.0}, 1.0)
    live.show(points)
    with file.open("ab") as torn:
        torn.write(b'{"key": "half')
    second = read_live(file, first.cursor)
    assert [line["step"] for line in second.lines] == [[3]] and not second.afresh
    assert len(seen(home)) == 4

    time.sleep(0.01)
    again, resumed = live_of(home, "r2"), Points([(0, "loss", 0.0, 1.0)])
    again.show(resumed)
    third = read_live(file, second.cursor)
    assert third.afresh and [(line["run_id"], line["step"]) for line in third.lines] == [("r2", [0])]


def test_a_stage_that_loaded_an_earlier_state_shows_its_points_anew(tmp_path: Path) -> None:
    home = Home(tmp_path)
    live = live_of(home)
    live.show(Points((step, "loss", 9.0, 1.0) for step in range(5)))
    live.show(Points([(0, "loss", 1.0, 1.0)]))
    assert seen(home) == [(0, "loss", 1.0)]


def test_what_is_new_waits_for_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows.engine.metric_buffer, "LIVE_SECONDS", 1e9)
    home = Home(tmp_path)
    points, live = Points(), live_of(home)
    for step in range(3):
        points.add(step, {"loss": 1.0}, 1.0)
        live.show(points)
    assert len(seen(home)) == 1
