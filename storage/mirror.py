"""Copies on this disk of the files of remote tables, each fetched once, by its name and version.

A request to an object store takes tens of milliseconds and costs money, and a query reads hundreds of part files. One
request lists up to a thousand files with their versions (ETags); what changed is fetched, all else is here already. A
copy never changes: another version lies in another folder, so a query reads what it began with.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from storage import durable

_KEPT_SECONDS = 3600.0  # a copy that is no longer listed may still be read by a query that began before


class Mirror:
    """The Parquet files below a remote folder, by the folders that hold them.

    Args:
        filesystem: fsspec's.
        root: the remote folder, without protocol.
        folder: for the copies.
    """

    def __init__(self, filesystem: Any, root: str, folder: Path) -> None:
        self._filesystem, self._root, self._folder = filesystem, root, folder
        self._versions: dict[str, dict[str, str]] = {}  # folder -> name -> version, as last listed
        self._lock = threading.Lock()
        self._swept = False

    def refresh(self, table: str = "") -> None:
        """Look again which files there are: of one folder, or of all."""
        place = f"{self._root}/{table}".rstrip("/")
        self._filesystem.invalidate_cache()
        try:
            found: Mapping[str, Mapping[str, Any]] = self._filesystem.find(place, detail=True)
        except FileNotFoundError:
            found = {}
        seen: dict[str, dict[str, str]] = {table: {}} if table else {}
        for path, info in found.items():
            inside = PurePosixPath(str(path)).relative_to(self._root)
            if len(inside.parts) == 2 and inside.suffix == ".parquet":
                seen.setdefault(inside.parts[0], {})[inside.name] = _version(info)
        with self._lock:
            if table:
                self._versions.update(seen)
            else:
                self._versions = seen
                self._sweep()

    def names(self, table: str) -> list[str]:
        """Names of a folder's files, as last listed."""
        with self._lock:
            return sorted(self._versions.get(table, {}))

    def stamp(self) -> tuple[tuple[str, str, str], ...]:
        """Changes whenever a file does, as last listed."""
        with self._lock:
            return tuple(sorted((t, n, v) for t, names in self._versions.items() for n, v in names.items()))

    def paths(self, table: str, names: Iterable[str]) -> list[Path]:
        """Copies of these files; what is not here yet is fetched.

        Raises:
            FileNotFoundError: one has gone since it was listed.
        """
        with self._lock:
            versions = self._versions.get(table, {})
            wanted = {name: self._folder / table / versions[name] / name for name in names if name in versions}
        if gone := [name for name in names if name not in wanted]:
            raise FileNotFoundError(f"{self._root}/{table}/{gone[0]}")
        missing = {name: path for name, path in wanted.items() if not path.exists()}
        if missing:
            temporary = [path.parent / f".{path.name}.{durable.unique_suffix()}" for path in missing.values()]
            for path in temporary:
                path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._filesystem.get([f"{self._root}/{table}/{name}" for name in missing], list(map(str, temporary)))
                for copy, path in zip(temporary, missing.values(), strict=True):
                    copy.replace(path)
            finally:
                for copy in temporary:
                    copy.unlink(missing_ok=True)
        return list(wanted.values())

    def _sweep(self) -> None:
        """Once a process: remove copies that nothing has listed for long."""
        if self._swept:
            return
        self._swept = True
        listed = {self._folder / t / v / n for t, names in self._versions.items() for n, v in names.items()}
        for parent, _, names in os.walk(self._folder):
            for name in names:
                path = Path(parent, name)
                try:
                    if path not in listed and time.time() - path.stat().st_mtime > _KEPT_SECONDS:
                        path.unlink()
                        path.parent.rmdir()
                except OSError:
                    continue  # another process was faster, or the folder holds more


def _version(info: Mapping[str, Any]) -> str:
    """What tells one content of a file from another: its ETag where the store has such, else time and size."""
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash") or info.get("generation")
    if not tag:
        changed = info.get("LastModified") or info.get("mtime") or info.get("created") or info.get("updated")
        tag = f"{changed}-{info.get('size')}"
    return hashlib.sha256(str(tag).encode()).hexdigest()[:16]
