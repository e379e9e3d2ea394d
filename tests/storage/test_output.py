"""What a query prints: read back by machines, aligned for people, harmless to terminals."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.output import format_of, write_result

START = datetime(2026, 11, 22, 14, 3, tzinfo=UTC)

RESULT = pa.table(
    {
        "name": ['a,\n"b"', None],
        "value": [1.5, math.nan],
        "n": [2**53 + 1, None],
        "time": pa.array([START, None], pa.timestamp("us", tz="UTC")),
        "list": [[1.0, math.inf], []],
    }
)


def written(format: Any, table: pa.Table = RESULT) -> str:
    out = io.StringIO()
    write_result(table, format, out)
    return out.getvalue()


def test_csv_is_read_back() -> None:
    first, second = list(csv.DictReader(io.StringIO(written("csv"))))
    assert first["name"] == 'a,\n"b"' and first["n"] == "9007199254740993"
    assert first["time"] == "2026-11-22T14:03:00+00:00"
    assert (second["name"], second["n"], second["value"]) == ("", "", "nan")


def test_json_is_strict() -> None:
    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    first, second = json.loads(written("json"), parse_constant=no_constant)
    assert first["time"] == "2026-11-22T14:03:00+00:00" and first["list"] == [1.0, None]
    assert second == {"name": None, "value": None, "n": None, "time": None, "list": []}
    doubled = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    assert json.loads(written("json", doubled)) == [{"x": 1, "x_2": 2}]
    assert json.loads(written("json", RESULT.slice(0, 0))) == []


def test_parquet_is_read_back_and_kept_from_terminals(tmp_path: Path) -> None:
    write_result(RESULT, "parquet", tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").schema == RESULT.schema
    binary = io.BytesIO()
    write_result(RESULT, "parquet", binary)
    assert pq.read_table(io.BytesIO(binary.getvalue())).num_rows == 2

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(ValueError, match="redirect"):
        write_result(RESULT, "parquet", Terminal())
    with pytest.raises(ValueError, match=r"no such type.*cast the column"):
        write_result(pa.table({"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}), "parquet", io.BytesIO())
    doubled = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["x", "x"])
    write_result(doubled, "parquet", tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").to_pylist() == [{"x": 1, "x_2": 2}]


def test_the_ending_of_a_file_names_its_format() -> None:
    assert [format_of(None, Path(name)) for name in ("a.CSV", "b.parquet", "c.json", "d.txt")] == [
        "csv", "parquet", "json", "table"
    ]  # fmt: skip
    assert format_of("json", Path("a.csv")) == "json" and format_of(None) == "table"
    with pytest.raises(ValueError, match="takes table, lines, csv, json, parquet"):
        format_of("xml")
    with pytest.raises(ValueError, match=r"output a\.xlsx: \.xlsx is not a known format"):
        format_of(None, Path("a.xlsx"))
    assert format_of("csv", Path("a.xlsx")) == "csv" and format_of(None, Path("a")) == "table"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    write_result(RESULT, "parquet", file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match="no such type"):
        write_result(pa.table({"x": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}), "parquet", file)
    assert file.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["x.parquet"]
    write_result(RESULT, "csv", Path(os.devnull))  # a device is written to, not replaced
    assert Path(os.devnull).is_char_device()


def test_intervals_read_as_time() -> None:
    parts = [(0, 0, 125_500_000_000), (14, -1, 0), (0, 0, 0), (0, 2, -3_600_000_000_000)]
    table = pa.table({"took": pa.array(parts, pa.month_day_nano_interval())})
    text = ["00:02:05.500000", "14 months -1 day", "00:00:00", "2 days -01:00:00"]
    assert written("csv", table).splitlines() == ["took", *text]
    assert [row["took"] for row in json.loads(written("json", table))] == text
    assert "00:02:05.500000" in written("table", table)


def test_null_and_empty_text_differ_in_csv() -> None:
    table = pa.table({"a": ["", None, "x y", 'say "hi"'], "b": [True, False, None, True]})
    assert written("csv", table).splitlines() == ["a,b", '"",true', ",false", "x y,", '"say ""hi""",true']


def test_nested_and_wide_numbers_are_json() -> None:
    table = pa.table(
        {
            "sum": pa.array([Decimal(3), Decimal(2**70)], pa.decimal128(38, 0)),
            "price": pa.array([Decimal("1.5"), None], pa.decimal128(5, 2)),
            "bytes": [b"\x00a", None],
            "nested": [{"a": [1, None], "b": "é"}, None],
        }
    )
    first, second = json.loads(written("json", table))
    assert first == {"sum": 3, "price": 1.5, "bytes": "0061", "nested": {"a": [1, None], "b": "é"}}
    assert second == {"sum": 2**70, "price": None, "bytes": None, "nested": None}
    assert '"{""a"": [1, null], ""b"": ""é""}"' in written("csv", table)


def test_text_aligns_numbers_to_the_right() -> None:
    table = pa.table({"stage": ["pretrain", "ppo"], "usd": [0.123456789, 12.0], "ok": [True, None]})
    assert written("table", table).splitlines() == [
        "stage          usd  ok",
        "────────  ────────  ────",
        "pretrain  0.123457  true",
        "ppo             12",
        "(2 rows)",
    ]
    assert "…" in written("table", pa.table({"x": ["y" * 100]}))


def test_what_a_model_wrote_cannot_move_the_cursor() -> None:
    hostile = pa.table({"completion": ["\x1b[2Jgone\tand\nback\x07"]})
    for format in ("table", "lines"):
        assert r"\x1b[2Jgone\x09and back\x07" in written(format, hostile)


def test_wide_characters_keep_the_columns_straight() -> None:
    table = pa.table({"text": ["日本", "abc", "é\u0301"], "n": [1, 2, 3]})
    assert written("table", table).splitlines()[2:5] == ["日本  1", "abc   2", "é\u0301     3"]


def test_a_table_wider_than_the_terminal_becomes_lines() -> None:
    out = io.StringIO()
    write_result(pa.table({"a": ["x" * 50], "long_name": [None], "b": [2.5]}), "table", out, width=60)
    expected = ["── row 1 ──", f"a          {'x' * 50}", "long_name", "b          2.5", "(1 row)"]
    assert out.getvalue().splitlines() == expected
