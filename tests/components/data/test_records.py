"""One reader for records: containers by their content, and what is broken is named while the rest is read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.data.records import Record, Rejected, container_of, decompressed, lone_surrogate, read_records

ROWS = [{"a": "one", "b": 'x, "y"\nz'}, {"a": "zwei ✓", "b": None}, {"a": "three", "b": "last"}]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    cells = [['"' + (v or "").replace('"', '""') + '"' for v in row.values()] for row in rows]
    return ("\ufeffa,b\r\n" + "".join(",".join(line) + "\r\n" for line in cells)).encode()


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


CONTAINERS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "lines": lines,
    "lines with a mark": lambda rows: b"\xef\xbb\xbf" + lines(rows).replace(b"\n", b"\r\n"),
    "array": lambda rows: json.dumps(rows).encode(),
    "array over lines": lambda rows: ("\ufeff" + json.dumps(rows, indent=2, ensure_ascii=False) + "\n").encode(),
    "array, an object each line": lambda rows: ("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]").encode(),
    "holder": lambda rows: json.dumps({"version": 1, "data": rows}, indent=1).encode(),
    "csv": as_csv,
    "parquet": parquet,
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gz": gzip.compress,
    "gz in two members": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
    "zst in two frames": lambda data: zstd(data[:20]) + zstd(data[20:]),
}


def read(data: bytes, name: str = "data.bin") -> list[Record | Rejected]:
    return list(read_records(decompressed(io.BytesIO(data)), name))


def values(data: bytes, name: str = "data.bin") -> list[Any]:
    found = read(data, name)
    assert not [item for item in found if isinstance(item, Rejected)], found
    return [item.value for item in found if isinstance(item, Record)]


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_in_every_packing_whatever_its_name(container: str, packing: str) -> None:
    data = PACKINGS[packing](CONTAINERS[container](ROWS))
    assert values(data) == ROWS
    assert values(data, "data.json.gz" if container != "csv" else "data.csv") == ROWS


def test_numbers_are_of_lines_and_rows() -> None:
    assert [r.number for r in read(b'\n{"a": 1}\n\n{"a": 2}\n', "x.jsonl")] == [2, 4]
    assert [r.number for r in read(as_csv(ROWS), "x.csv")] == [2, 4, 5]  # the first row has a newline in a cell
    assert [r.number for r in read(json.dumps(ROWS, indent=3).encode())] == [1, 2, 3]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b'{"a": "cut', "broken JSON: Unterminated string"),
        (b'{"a": caf\xe9}', "not UTF-8 (byte 0xe9"),
        (b'{"a": "caf\xe9"}', "not UTF-8 (byte 0xe9"),
        (b"[" * 100_000, "broken JSON: nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "broken JSON: Exceeds the limit"),
    ],
)
def test_a_broken_record_is_rejected_and_the_rest_is_read(broken: bytes, reason: str) -> None:
    good = b'{"a": "good"}'
    found = read(b"\n".join((good, broken, good)), "x.jsonl")
    assert [type(item) for item in found] == [Record, Rejected, Record]
    assert (found[1].number, found[2].number) == (2, 3) and found[1].reason.startswith(reason)  # type: ignore[union-attr]
    found = read(b"[" + b",\n".join((good, broken, good)) + b"]", "x.json")
    assert [type(item) for item in found] == [Record, Rejected, Record]
    assert (found[1].number, found[2].number) == (2, 3)


def test_a_broken_row_of_csv_is_rejected_and_the_rest_is_read() -> None:
    data = b'a,b\n1,2\n3\n"open,4\n5,6\ncaf\xe9,7\n8,"9"\n'
    found = read(data, "x.csv")
    assert [item.value for item in found if isinstance(item, Record)] == [
        {"a": "1", "b": "2"},
        {"a": "5", "b": "6"},
        {"a": "8", "b": "9"},
    ]
    assert [(item.number, item.reason.split(":")[0]) for item in found if isinstance(item, Rejected)] == [
        (3, "1 cells, the header has 2"),
        (4, "broken CSV"),
        (6, "not UTF-8"),
    ]


def test_a_row_of_parquet_that_is_no_text_is_rejected_alone() -> None:
    bad = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    sink = io.BytesIO()
    pq.write_table(pa.table({"a": bad}), sink)
    found = read(sink.getvalue())
    assert [item.value["a"] for item in found if isinstance(item, Record)] == ["good", "fine"]
    assert [(item.number, item.reason[:17]) for item in found if isinstance(item, Rejected)] == [
        (2, "cannot be decoded")
    ]


def test_an_array_that_breaks_off_gives_what_came_before() -> None:
    found = read(b'[{"a": 1}, {"a": 2}', "x.json")
    assert [item.value["a"] for item in found if isinstance(item, Record)] == [1, 2]
    assert isinstance(found[-1], Rejected) and "breaks off" in found[-1].reason


@pytest.mark.parametrize("size", [1, 7, 1 << 18])
def test_records_longer_than_a_block_and_cut_anywhere(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.records._BUFFER", max(size, 1))
    rows = [{"a": "✓" * 40, "n": 123456}, {"a": "}],[{", "n": 7}]
    assert values(json.dumps(rows, ensure_ascii=False).encode(), "x.json") == rows


@pytest.mark.parametrize(
    ("head", "name", "container"),
    [
        (b"plain words", "a.txt", "text"),
        (b"[see](there)", "a.md", "text"),
        (b"{braces} in prose\nand more", "a.txt", "text"),
        (b'[{"instruction": "x"', "a.txt", "array"),
        (b'["p"]\n{"a": 1}\n', "a.jsonl", "lines"),
        (b'{nope\n{"a": 1}\n', "a.jsonl", "lines"),
        (b'{"a": \n{"a": 1}\n', "a.txt", "lines"),
        (b"a,b\n1,2\n", "a.csv.zst", "csv"),
    ],
)
def test_the_content_tells_what_a_file_is_and_the_name_decides_where_it_leaves_it_open(
    head: bytes, name: str, container: str
) -> None:
    assert container_of(head, name) == container


def test_what_holds_no_records_says_so() -> None:
    for data, reason in (
        (b"", "empty file"),
        (b"just words", "neither JSON"),
        (b"PK\x03\x04", "binary"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        (b'{"prompt":\n {"0": "x"}, "answer": {"0": "y"}}', "of columns, not of records"),
    ):
        [found] = read(data)
        assert isinstance(found, Rejected) and found.number == 0 and reason in found.reason


def test_half_a_character_is_found_anywhere() -> None:
    value = {"a": ["x", {"b": "y", "c": ["\ud83d"]}]}
    assert lone_surrogate(value) == "a[1].c[0]"
    assert lone_surrogate({"a": "\U0001f600", "n": 3}) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=5,
)


@given(
    st.lists(st.dictionaries(st.sampled_from("ab"), json_values), min_size=1, max_size=5), st.sampled_from([None, 1])
)
@settings(max_examples=60, deadline=None)
def test_any_array_is_read_as_it_was_written(rows: list[dict[str, Any]], indent: int | None) -> None:
    assert values(json.dumps(rows, indent=indent).encode(), "x.json") == rows
    assert values(lines(rows), "x.jsonl") == rows


def test_a_file_with_a_wrong_name_is_still_read(tmp_path: Path) -> None:
    from components.data.sources import Document, SourceConfig, read_source

    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"text": "not packed at all"}\n')
    (tmp_path / "packed.jsonl").write_bytes(zstd(b'{"text": "packed"}\n'))
    found = list(read_source(SourceConfig("s", "files", str(tmp_path))))
    assert {item.text for item in found if isinstance(item, Document)} == {"not packed at all", "packed"}
