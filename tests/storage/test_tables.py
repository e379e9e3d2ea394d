"""Rows come back as they went in, once, whatever is rewritten, compacted, or killed."""

from __future__ import annotations

import errno
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import durable
from storage.home import Home
from storage.queries import query
from storage.tables import SCHEMAS, TableError, Tables

NOW = datetime(2026, 11, 22, 14, 3, 5, 123456, tzinfo=UTC)


def metric(step: int = 0, value: Any = 0.5, **changes: Any) -> dict[str, Any]:
    row = {"run_id": "r", "key": "k", "stage": "s", "step": step, "name": "loss", "value": value, "time": NOW}
    return {**row, **changes}


@pytest.fixture(params=["local", "memory"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    return Tables(str(tmp_path / "t") if request.param == "local" else f"memory://{tmp_path.name}/t")


def steps(tables: Tables) -> list[int]:
    return sorted(tables.read("metrics")["step"].to_pylist())


def test_columns_have_types_that_every_reader_of_parquet_knows() -> None:
    assert {field.type for schema in SCHEMAS.values() for field in schema} == {
        pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us", tz="UTC")
    }  # fmt: skip


def test_a_part_written_again_replaces_its_rows(tables: Tables) -> None:
    assert tables.write("metrics", "a", [metric(1), metric(2)]) == 2
    tables.write("metrics", "b", [metric(3)])
    tables.write("metrics", "a", [metric(4)])
    assert steps(tables) == [3, 4]
    tables.write("metrics", "a", [])
    assert steps(tables) == [3]


def test_values_are_kept_to_the_last_bit(tables: Tables) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    row = metric(2**62, 0.1 + 0.2, name="é\n\0'\"", time=local)
    tables.write("metrics", "a", [row])
    assert tables.read("metrics").to_pylist() == [{**row, "time": NOW}]


_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
_rows = st.fixed_dictionaries(
    {"run_id": _texts, "key": _texts, "reason": _texts},
    optional={"source": st.none() | _texts, "line": st.none() | st.integers(-(2**63), 2**63 - 1)},
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["write", "write", "compact"]), st.sampled_from("abc"), st.lists(_rows))))
def test_any_history_of_writes_and_compactions_equals_the_last_writes(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, str, list[dict[str, Any]]]]
) -> None:
    tables = Tables(tmp_path_factory.mktemp("t"))
    last: dict[str, list[dict[str, Any]]] = {}
    for action, part, rows in history:
        if action == "compact":
            tables.compact(["quarantine"])
        else:
            tables.write("quarantine", part, rows)
            last[part] = rows
        names = SCHEMAS["quarantine"].names
        expected = [tuple(row.get(name) for name in names) for rows in last.values() for row in rows]
        found = [tuple(row.values()) for row in tables.read("quarantine").to_pylist()]
        assert sorted(found, key=repr) == sorted(expected, key=repr)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (metric(nam="x"), r"metrics row 1: unknown column 'nam'; metrics has run_id, key"),
        ({"run_id": "r", "key": "k"}, r"metrics row 1: missing column 'stage', 'step', 'name'"),
        (metric("3"), r"row 1, column step: got '3' \(str\), takes a whole number"),
        (metric(True), r"row 1, column step: got True \(bool\), takes a whole number"),
        (metric(1.5), r"row 1, column step: got 1\.5 \(float\), takes a whole number"),
        (metric(2**63), r"column step: .*does not fit 64 bits"),
        (metric(None), r"column step: got None .*must not be empty"),
        (metric(value="high"), r"column value: got 'high' \(str\), takes a number"),
        (metric(value=False), r"column value: got False \(bool\), takes a number"),
        (metric(name=b"x"), r"column name: got b'x' \(bytes\), takes a string"),
        (metric(time=NOW.replace(tzinfo=None)), r"column time: .*takes a time: not a datetime with a time zone"),
        (metric(time="2026-11-22"), r"column time: got '2026-11-22' \(str\)"),
    ],
)
def test_a_row_that_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path, row: Any, message: str) -> None:
    tables = Tables(tmp_path)
    tables.write("metrics", "a", [metric(7)])
    with pytest.raises(TableError, match=message):
        tables.write("metrics", "a", [metric(0), row])
    assert steps(tables) == [7]


def test_numbers_of_numpy_and_large_flops_fit(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    tables = Tables(tmp_path)
    tables.write("metrics", "a", [metric(numpy.int32(3), numpy.float32(0.5)), metric(4.0, 2**70)])
    assert tables.read("metrics", ["step", "value"]).to_pylist() == [
        {"step": 3, "value": 0.5},
        {"step": 4, "value": float(2**70)},
    ]


def test_json_columns_take_values(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    row = {"run_id": "r", "event": "started", "status": "running", "time": NOW, "config_json": {"b": [1], "a": None}}
    tables.write("runs", "r-started", [{**row, "host_json": '{"cpus": 2}'}])
    (back,) = tables.read("runs").to_pylist()
    assert (back["config_json"], back["host_json"]) == ('{"a": null, "b": [1]}', '{"cpus": 2}')
    with pytest.raises(TableError, match=r"column config_json: .*value\.x: got a set"):
        tables.write("runs", "r-started", [{**row, "config_json": {"x": {1}}}])


def test_arrow_tables_are_checked_like_rows(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    good = pa.Table.from_pylist([metric(1)]).drop_columns(["time"])
    tables.write("metrics", "a", good)
    assert tables.read("metrics")["time"].to_pylist() == [None]
    for bad, message in [
        (good.append_column("extra", pa.array([1])), "unknown column 'extra'"),
        (good.drop_columns(["step"]), "missing column 'step'"),
        (good.set_column(3, "step", pa.array(["x"])), "column step: got string, takes int64"),
        (good.set_column(3, "step", pa.array([1.5])), "column step: got double, takes int64"),
        (good.set_column(3, "step", pa.array([None], pa.int64())), "column step: 1 values are null"),
    ]:
        with pytest.raises(TableError, match=message):
            tables.write("metrics", "a", bad)


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    with pytest.raises(TableError, match=r"no table 'metric': there are runs, stages"):
        tables.write("metric", "a", [])
    for part in ("../x", "", ".hidden", "compacted-000001", "a/b"):
        with pytest.raises(TableError, match="part name"):
            tables.write("metrics", part, [metric()])


def test_compaction_merges_and_a_rewritten_part_wins(tables: Tables) -> None:
    for part in "abc":
        tables.write("metrics", part, [metric(ord(part))])
    assert tables.compact(["metrics"]) == {"metrics": 3}
    assert tables.compact(["metrics"]) == {"metrics": 0}
    assert steps(tables) == [97, 98, 99]
    assert len(tables._listing("metrics")) == 1
    tables.write("metrics", "b", [metric(1)])
    assert steps(tables) == [1, 97, 99]
    assert tables.read("metrics", ["step"], pads.field("step") > 90)["step"].to_pylist() == [97, 99]
    assert tables.compact() | {"metrics": 1} == tables.compact() | {"metrics": 1}
    assert steps(tables) == [1, 97, 99]


def test_a_compaction_killed_between_its_steps_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables(tmp_path)
    for part in "abc":
        tables.write("metrics", part, [metric(ord(part))])
    monkeypatch.setattr(tables, "_remove", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tables.compact(["metrics"])
    assert len(tables._listing("metrics")) == 4
    tables = Tables(tmp_path)
    assert steps(tables) == [97, 98, 99]
    tables.compact(["metrics"])
    assert steps(tables) == [97, 98, 99] and len(tables._listing("metrics")) == 1


def test_readers_and_writers_beside_compactions_see_every_row_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.tables.write("metrics", "fixed", [metric(step) for step in range(50)])
    ended = threading.Event()

    def compact() -> None:
        while not ended.wait(0.01):
            home.tables.compact(["metrics"])

    def write() -> None:
        for number in range(40):
            Tables(home.tables.url, locks=home.local / "locks").write("metrics", f"w{number % 3}", [metric(1000)])

    threads = [threading.Thread(target=compact), threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            (row,) = query(home, "SELECT count(*) n, sum(step) s FROM metrics WHERE step < 1000").to_pylist()
            assert row == {"n": 50, "s": sum(range(50))}
            assert home.tables.read("metrics", where=pads.field("step") < 1000).num_rows == 50
        threads[1].join()
    finally:
        ended.set()
        threads[0].join()
    assert home.tables.read("metrics", where=pads.field("step") == 1000).num_rows == 3


def test_torn_files_are_no_parts_and_damaged_ones_are_named(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.write("metrics", "good", [metric(1)])
    (tables.path("metrics") / ".bad.parquet.1-2.tmp").write_bytes(b"PAR1")  # a writer was killed here
    assert steps(tables) == [1]
    bad = tables.path("metrics") / "bad.parquet"
    whole = (tables.path("metrics") / "good.parquet").read_bytes()
    for content in (b"", whole[:-20], b"PAR1" + b"\0" * 60 + whole[64:]):
        bad.write_bytes(content)
        for read in (lambda: tables.read("metrics"), lambda: tables.compact(["metrics"])):
            with pytest.raises(TableError, match=rf"table metrics: damaged: {bad} .*doctor --mend"):
                read()
    bad.unlink()
    assert steps(tables) == [1]


def test_parts_of_an_older_schema_are_read(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    tables.path("metrics").mkdir(parents=True)
    older = pa.Table.from_pylist([metric(5)]).drop_columns(["time"]).append_column("gone", pa.array(["x"]))
    pa.parquet.write_table(older, tables.path("metrics") / "old.parquet")
    tables.write("metrics", "new", [metric(6)])
    expected = [None, NOW]
    assert sorted(tables.read("metrics")["time"].to_pylist(), key=repr) == expected
    tables.compact(["metrics"])
    assert sorted(tables.read("metrics")["time"].to_pylist(), key=repr) == expected


def test_a_full_disk_keeps_the_earlier_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = Tables(tmp_path)
    tables.write("metrics", "a", [metric(1)])
    monkeypatch.setattr(durable, "fsync_file", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(OSError, match="disk is full"):
        tables.write("metrics", "a", [metric(2)])
    assert steps(tables) == [1]
    assert [path.name for path in tables.path("metrics").iterdir()] == ["a.parquet"]
