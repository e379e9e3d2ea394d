"""Copies of remote tables' files: each fetched once, never changed under who reads it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import fsspec
import pytest

from storage.mirror import Mirror


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """An in-memory file system, with what was fetched in `files.fetched`."""

    class Counting:
        def __init__(self) -> None:
            self.fs, self.root, self.fetched, self.listed = fsspec.filesystem("memory"), f"/{tmp_path.name}", [], 0

        def put(self, path: str, content: bytes) -> None:
            self.fs.pipe_file(f"{self.root}/{path}", content)

        def invalidate_cache(self) -> None:
            self.fs.invalidate_cache()

        def find(self, path: str, detail: bool) -> Any:
            self.listed += 1
            return self.fs.find(path, detail=detail)

        def get(self, remote: list[str], local: list[str]) -> None:
            self.fetched += [path.removeprefix(f"{self.root}/") for path in remote]
            for source, target in zip(remote, local, strict=True):
                self.fs.get_file(source, target)

    return Counting()


def read(mirror: Mirror, table: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in mirror.paths(table, mirror.names(table))}


def test_a_file_is_fetched_once_and_again_when_it_changes(files: Any, tmp_path: Path) -> None:
    files.put("runs/a.parquet", b"one")
    files.put("runs/b.parquet", b"two")
    files.put("runs/notes.txt", b"no table's")
    mirror = Mirror(files, files.root, tmp_path / "copies")
    mirror.refresh()
    before = mirror.stamp()
    assert read(mirror, "runs") == read(mirror, "runs") == {"a.parquet": b"one", "b.parquet": b"two"}
    (held,) = mirror.paths("runs", ["a.parquet"])
    another = Mirror(files, files.root, tmp_path / "copies")  # another process of this machine
    another.refresh()
    assert read(another, "runs") == read(mirror, "runs")
    assert sorted(files.fetched) == ["runs/a.parquet", "runs/b.parquet"]
    files.put("runs/a.parquet", b"three")
    assert read(mirror, "runs")["a.parquet"] == b"one"  # as it was last seen
    mirror.refresh("runs")
    assert mirror.stamp() != before
    assert read(mirror, "runs") == {"a.parquet": b"three", "b.parquet": b"two"}
    assert held.read_bytes() == b"one"  # a query that began before reads on
    assert files.fetched[2:] == ["runs/a.parquet"]


def test_a_file_that_has_gone_is_missing_and_not_served_from_a_copy(files: Any, tmp_path: Path) -> None:
    files.put("runs/a.parquet", b"one")
    mirror = Mirror(files, files.root, tmp_path / "copies")
    mirror.refresh()
    read(mirror, "runs")
    files.fs.rm_file(f"{files.root}/runs/a.parquet")
    mirror.refresh("runs")
    assert mirror.names("runs") == []
    with pytest.raises(FileNotFoundError, match=r"a\.parquet"):
        mirror.paths("runs", ["a.parquet"])


def test_copies_that_nothing_lists_for_long_are_removed(files: Any, tmp_path: Path) -> None:
    files.put("runs/a.parquet", b"one")
    first = Mirror(files, files.root, tmp_path / "copies")
    first.refresh()
    (old,) = first.paths("runs", ["a.parquet"])
    files.put("runs/a.parquet", b"two")
    Mirror(files, files.root, tmp_path / "copies").refresh()
    assert old.exists()  # a query may still read it
    os.utime(old, (time.time() - 7200,) * 2)
    Mirror(files, files.root, tmp_path / "copies").refresh()
    assert not old.exists()
