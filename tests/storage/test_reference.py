"""docs/tables.md says what is so, and its SQL reads the files without us."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.home import Home
from storage.queries import query
from storage.reference import LAST_VALUES, RULE, about, meanings, render
from storage.tables import SCHEMAS, TableError, Tables

NOW = datetime(2026, 11, 22, 14, 3, 5, 123456, tzinfo=UTC)


def metric(step: int, value: float | None = 0.5, name: str = "loss") -> dict[str, Any]:
    return {"run_id": "r", "key": "k", "stage": "s", "step": step, "name": name, "value": value, "time": NOW}


def test_the_page_is_the_one_that_the_code_makes() -> None:
    page = Path(__file__).parents[2] / "docs" / "tables.md"
    assert page.read_text(encoding="utf-8") == render(), "make it anew: python -m storage.reference"


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_table_and_column_is_described(table: str) -> None:
    assert about(table), f"say what a row of {table} is, in storage/reference.py"
    assert list(meanings(table)) == SCHEMAS[table].names, f"describe the columns of {table} in storage/reference.py"
    assert all(meanings(table).values())


COLUMNS = "key, step, name, value"


def by_the_rule(home: Home) -> list[str]:
    with duckdb.connect() as plain:
        sql = RULE.replace("'metrics/", f"'{home.root}/tables/metrics/")
        return sorted(map(repr, plain.execute(f"SELECT {COLUMNS} FROM ({sql})").fetchall()))


_values = st.none() | st.floats()
_steps = st.lists(st.tuples(st.integers(0, 3), _values, st.sampled_from(["loss", "lr"])), max_size=4)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["write", "write", "compact"]), st.sampled_from(["a", "b.c", "d"]), _steps)))
def test_the_sql_of_the_page_reads_any_state_of_the_files_as_we_do(
    tmp_path_factory: pytest.TempPathFactory, history: Sequence[tuple[str, str, list[tuple[int, float | None, str]]]]
) -> None:
    home = Home(tmp_path_factory.mktemp("h"))
    for action, part, steps in history:
        if action == "compact":
            home.tables.compact(["metrics"])
        else:
            home.tables.write("metrics", part, [{**metric(*step), "key": part} for step in steps])
    ours = [tuple(row.values()) for row in query(home, f"SELECT {COLUMNS} FROM metrics").to_pylist()]
    if home.tables.layout("metrics").files:
        assert by_the_rule(home) == sorted(map(repr, ours))  # repr: NaN is not equal to itself
    # What compaction has worked out beforehand is what the page says that it is.
    which = "key, name, step, n"
    defined = query(home, f"SELECT {which} FROM ({LAST_VALUES}) ORDER BY ALL").to_pylist()
    assert query(home, f"SELECT {which} FROM last_values ORDER BY ALL").to_pylist() == defined
    for last in query(home, "SELECT key, step, name, value FROM last_values").to_pylist():
        assert repr(tuple(last.values())) in map(repr, ours)


def test_pandas_reads_a_compacted_folder(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.tables.write("metrics", "a", [metric(2), metric(1, math.nan)])
    home.tables.write("metrics", "b", [metric(3, None, "lr")])
    home.tables.compact()
    assert [path.name for path in home.tables.path("metrics").iterdir()] == ["compacted-000001.parquet"]
    frame = pd.read_parquet(home.tables.path("metrics"))
    assert frame["step"].tolist() == [1, 2, 3] and frame["part"].tolist() == ["a", "a", "b"]
    assert str(frame["time"].dtype) == "datetime64[us, UTC]"
    file = pq.ParquetFile(home.tables.path("metrics") / "compacted-000001.parquet")
    assert file.schema_arrow.remove_metadata().names == [*SCHEMAS["metrics"].names, "part"]
    assert file.schema_arrow.field("time").type == pa.timestamp("us", tz="UTC")


def test_a_column_that_came_later_is_null_in_older_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    home.tables.write("prices", "old", [{"hardware": "cpu", "usd_per_hour": 0.5}])
    home.tables.write("prices", "older", [{"hardware": "tpu", "usd_per_hour": 1.5}])
    home.tables.compact(["prices"])
    home.tables.write("prices", "single", [{"hardware": "gpu", "usd_per_hour": 2.5}])
    with monkeypatch.context() as later:
        later.setitem(SCHEMAS, "prices", SCHEMAS["prices"].append(pa.field("spot", pa.bool_())))
        again = Home(tmp_path)
        again.tables.write("prices", "new", [{"hardware": "new", "usd_per_hour": 3.5, "spot": True}])
        for _ in range(2):
            found = query(again, "SELECT hardware, spot FROM prices ORDER BY hardware").to_pylist()
            assert [tuple(row.values()) for row in found] == [
                ("cpu", None),
                ("gpu", None),
                ("new", True),
                ("tpu", None),
            ]
            read = again.tables.read("prices", ["hardware", "spot"]).to_pylist()
            assert sorted(read, key=repr) == sorted(found, key=repr)
            again.tables.compact(["prices"])
    # An older Lifespan reads what a newer one wrote, without the column that it does not know.
    assert query(Home(tmp_path), "SELECT count(*) AS n FROM prices").to_pylist() == [{"n": 4}]


def test_compaction_leaves_small_tables_alone_when_asked(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for part in "abc":
        tables.write("metrics", part, [metric(1)])
    assert tables.compact(["metrics"], above=3) == {"metrics": 0}
    assert tables.compact(["metrics"], above=2) == {"metrics": 3}


def test_rows_are_sorted_so_that_one_curve_lies_together(tmp_path: Path) -> None:
    tables = Tables(tmp_path)
    for part in ("b", "a"):
        rows = [{**metric(step, name=name), "run_id": part} for step in (2, 1) for name in ("lr", "loss")]
        tables.write("metrics", part, rows)
    tables.compact(["metrics"])
    rows = pq.read_table(tables.path("metrics")).to_pylist()
    order = [(row["name"], row["run_id"], row["step"]) for row in rows]
    assert order == sorted(order)


def test_a_damaged_compaction_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for part in "ab":
        home.tables.write("metrics", part, [metric(1)])
    home.tables.compact()
    file = next(home.tables.path("metrics").iterdir())
    file.write_bytes(file.read_bytes()[:-10])
    for ask in (lambda: query(home, "FROM metrics"), lambda: home.tables.read("metrics")):
        with pytest.raises(TableError, match=rf"damaged: {file}"):
            ask()
