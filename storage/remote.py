"""A remote artifact store: any fsspec file system.

An object store has no rename, so the record decides on completeness: the files are uploaded first, to a folder that no
other writer uses, and the record, which names that folder, is uploaded last.

    ab/abcd…/PID-XXXX/…files…
    ab/abcd…/record.json      with an additional field: "folder": "PID-XXXX"; created, never replaced
    damaged/abcd…-XXXX.json   the record of an artifact that failed its checksums
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from storage import durable

RECORD = "record.json"


def write_object(fs: Any, path: str, content: bytes | Path, **options: Any) -> None:
    """Write an object from bytes or a file; where the file system wants folders, make the object's own first.
    `options` as of fsspec's `pipe_file`: mode="create" raises FileExistsError where there is one already."""

    def write() -> None:
        if isinstance(content, Path):
            fs.put_file(str(content), path, **options)
        else:
            fs.pipe_file(path, content, **options)

    try:
        write()
    except FileNotFoundError:
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        write()


def read_object(fs: Any, path: str) -> bytes:
    """A small object in one request: without a range, s3fs would ask for the size first. Raises FileNotFoundError."""
    content: bytes = fs.cat_file(path, start=0)
    return content


class RemoteStore:
    """Reads and writes the objects of one store; knows nothing of artifacts beyond keys, names and records."""

    def __init__(self, url: str) -> None:
        import fsspec  # here: a local store does not need the import

        self.fs, root = fsspec.core.url_to_fs(url)
        self.root = str(root).rstrip("/")
        self.protocol = url.split("://", 1)[0]
        self._folders: dict[str, str] = {}

    def _place(self, key: str) -> str:
        return f"{self.root}/{key[:2]}/{key}"

    def _url(self, path: str) -> str:
        return f"{self.protocol}://{path.lstrip('/')}"

    def read_record(self, key: str) -> str | None:
        """The record as it was passed to `upload`, or None when there is none; damaged text is returned as it is."""
        try:
            content = read_object(self.fs, f"{self._place(key)}/{RECORD}")
        except FileNotFoundError:
            return None
        text = content.decode(errors="replace")
        try:
            data = json.loads(text)
            self._folders[key] = str(data.pop("folder"))
        except (ValueError, KeyError, AttributeError):
            return text
        return json.dumps(data)

    def fetch(self, key: str, name: str, target: Path) -> None:
        """Copy one file here; a missing one leaves nothing, which the checksums then detect."""
        if key not in self._folders:
            self.read_record(key)
        try:
            self.fs.get_file(f"{self._place(key)}/{self._folders.get(key, '')}/{name}", str(target))
        except FileNotFoundError:
            target.unlink(missing_ok=True)

    def upload(self, key: str, source: Path, names: Iterator[str], record: Mapping[str, Any]) -> str | None:
        """Upload the files, then the record. Returns the text of an earlier record if another writer was faster: where
        the store can create an object only if there is none, of any number of writers one wins."""
        folder = durable.unique_suffix()
        place = f"{self._place(key)}/{folder}"
        for name in names:
            write_object(self.fs, f"{place}/{name}", source / name)
        content = json.dumps({"folder": folder, **record}, indent=1).encode()
        try:
            write_object(self.fs, f"{self._place(key)}/{RECORD}", content, mode="create")
        except FileExistsError:
            with suppress(FileNotFoundError):  # an artifact without files
                self.fs.rm(place, recursive=True)
            return self.read_record(key)
        self._folders[key] = folder
        return None

    def set_aside(self, key: str) -> str:
        """Move the record away so that nobody reads the artifact; returns where it is now."""
        target = f"{self.root}/damaged/{key}-{durable.unique_suffix()}.json"
        self.fs.makedirs(f"{self.root}/damaged", exist_ok=True)
        with suppress(FileNotFoundError):  # another process was first
            self.fs.mv(f"{self._place(key)}/{RECORD}", target)
        self.fs.invalidate_cache()
        self._folders.pop(key, None)
        return self._url(target)

    def remove(self, key: str) -> bool:
        """Remove the record, then the files; False when there was no record."""
        found = bool(self.fs.exists(f"{self._place(key)}/{RECORD}"))
        if found:
            self.fs.rm_file(f"{self._place(key)}/{RECORD}")
        if self.fs.exists(self._place(key)):
            self.fs.rm(self._place(key), recursive=True)
        self._folders.pop(key, None)
        return found

    def keys(self) -> Iterator[str]:
        """Keys of all artifacts with a record."""
        self.fs.invalidate_cache()
        for path in self.fs.glob(f"{self.root}/*/*/{RECORD}"):
            if match := re.search(r"/([0-9a-f]{64})/record\.json$", str(path)):
                yield match[1]
