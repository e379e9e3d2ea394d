"""The artifact store: sealed folders, each named by its key, with a record that was written last.

Layout of a local store (a remote one differs only in what `storage.remote` says):

    ab/abcd…/…files…          the bytes that a stage wrote
    ab/abcd…/record.json      what they are, how they came to be, a checksum per file
    .tmp/abcd…-PID-XXXX/      being written; swept when its owner is dead
    damaged/abcd…-XXXX/       failed its checksums; kept for inspection, never read again
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from storage import durable
from storage.json_values import plain_json
from storage.redaction import masked, masked_values
from storage.remote import RECORD, RemoteStore

_KEY = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class MissingArtifact(LookupError):
    """The store holds no artifact with this key."""


class DamagedArtifact(RuntimeError):
    """A file of an artifact is missing or changed; the artifact was moved aside, so the next run rebuilds it."""

    def __init__(self, message: str, key: str, file: str) -> None:
        super().__init__(message)
        self.key, self.file = key, file

    def __reduce__(self) -> tuple[type[DamagedArtifact], tuple[str, str, str]]:
        return DamagedArtifact, (str(self), self.key, self.file)


@dataclass(frozen=True)
class Artifact:
    """The handle that travels between stages; its bytes lie in the store.

    Attributes:
        kind: corpus, tokenizer, checkpoint, …
        key: 64 hex digits, its identity.
        facts: JSON scalars, lists and objects (`num_params`, `num_tokens`, …); `facts["usage"]` is what it cost.
    """

    kind: str
    key: str
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(
            {"kind": self.kind, "key": self.key, "facts": plain_json(self.facts, "facts")}, sort_keys=True
        )

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Artifact:
        """The inverse of `to_json`; takes the parsed object too."""
        data = json.loads(text) if isinstance(text, str) else text
        return cls(kind=data["kind"], key=data["key"], facts=data["facts"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


@lru_cache(maxsize=1)
def lifespan_version() -> str:
    """Version of the installed package, or "unknown" when it runs from a bare checkout."""
    try:
        return metadata.version("lifespan")
    except metadata.PackageNotFoundError:
        return "unknown"


@dataclass(frozen=True)
class Record:
    """What `record.json` holds: the artifact and everything that its key was made of.

    `files` is filled in by `Store.seal`: path inside the artifact -> {"sha256", "bytes"}.
    """

    artifact: Artifact
    stage: str
    config: Mapping[str, Any] = field(hash=False)
    inputs: Mapping[str, str | list[str]] = field(hash=False)
    code: Mapping[str, str] = field(hash=False)
    run_id: str
    created: str = field(default_factory=_now)
    lifespan: str = field(default_factory=lifespan_version)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)

    @property
    def key(self) -> str:
        return self.artifact.key

    @property
    def num_bytes(self) -> int:
        """Size of the artifact's files in bytes."""
        return sum(int(entry["bytes"]) for entry in self.files.values())

    def to_json(self) -> str:
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "artifact"}
        return json.dumps({"artifact": json.loads(self.artifact.to_json()), **data}, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | Mapping[str, Any]) -> Record:
        data = dict(json.loads(text) if isinstance(text, str) else text)
        return cls(**{**data, "artifact": Artifact.from_json(data["artifact"])})


def _checksum(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    """Checksum and size of each file under `folder`, by its path inside; every file is made durable."""
    files: dict[str, dict[str, Any]] = {}
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent) / name
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise ValueError(f"{path.relative_to(folder)}: an artifact holds plain files and folders only")
        for name in names:
            path = Path(parent) / name
            durable.fsync_file(path)
            files[path.relative_to(folder).as_posix()] = {"sha256": _checksum(path), "bytes": path.stat().st_size}
    if RECORD in files:
        raise ValueError(f"{RECORD}: this name is the store's own; a stage must call its file something else")
    for parent, _, _ in os.walk(folder, topdown=False):
        durable.fsync_folder(Path(parent))
    return dict(sorted(files.items()))


def _first_damage(folder: Path, record: Record, *, deep: bool) -> tuple[str, str] | None:
    """The first file that differs from its record, and how; `deep` reads every byte."""
    for name, entry in record.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError:
            return name, "is missing"
        if size != entry["bytes"]:
            return name, f"has {size} bytes, its record says {entry['bytes']}"
        if deep and _checksum(path) != entry["sha256"]:
            return name, "has a different SHA-256 than its record says"
    return None


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(f"artifact key {key!r}: takes 64 lower-case hex digits")


class Store:
    """Sealed artifacts under a local folder or any fsspec URL (`s3://…`, `gs://…`, `memory://…`).

    Safe with any number of processes: an artifact appears in one rename (remote: when its record lands), and of two
    that seal the same key, the second is silently dropped.

    Args:
        url: folder or URL; created by the first write.
        cache: local folder for downloads and for work in progress of a remote store; unused by a local one.
    """

    def __init__(self, url: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> None:
        self.url = os.fspath(url)
        self._known: dict[str, Record] = {}
        self._verified: set[str] = set()
        self._remote: RemoteStore | None = None
        if "://" in self.url and not self.url.startswith("file://"):
            self._remote = RemoteStore(self.url)
            self._root = Path(cache) if cache else Path(tempfile.gettempdir()) / "lifespan-cache"
        else:
            self._root = Path(self.url.removeprefix("file://")).expanduser().absolute()

    def __repr__(self) -> str:
        return f"Store({masked(self.url)!r})"

    # Looking up

    def find(self, key: str) -> Artifact | None:
        """The artifact of `key` if it is there and complete by names and sizes, else None."""
        record = self.record(key)
        return record.artifact if record else None

    def record(self, key: str) -> Record | None:
        """The record of `key`, or None. A record or artifact that is damaged is moved aside, and gives None too."""
        _check_key(key)
        known = self._known.get(key)
        if self._remote:
            record = known or self._parse(key, self._remote.read_record(key))
        else:
            folder = self._folder(key)
            try:
                record = (
                    known if known and (folder / RECORD).exists() else self._parse(key, (folder / RECORD).read_text())
                )
            except (FileNotFoundError, NotADirectoryError):
                record = None
            except UnicodeDecodeError as error:
                self._set_aside(key, RECORD, f"is not text ({error})")
                record = None
            if record and (damage := _first_damage(folder, record, deep=False)):
                self._set_aside(key, *damage)
                record = None
        if record is None:
            self._known.pop(key, None)
        else:
            self._known[key] = record
        return record

    def _parse(self, key: str, text: str | None) -> Record | None:
        if text is None:
            return None
        try:
            record = Record.from_json(text)
            if record.key != key:
                raise ValueError(f"it is of the artifact {record.key}")
            for name in record.files:
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise ValueError(f"it names the file {name!r}, which lies outside")
            return record
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._set_aside(key, RECORD, f"cannot be read ({error})")
            return None

    def records(self) -> Iterator[Record]:
        """Every record in the store, in no particular order."""
        for key in self._remote.keys() if self._remote else self._local_keys():
            if record := self.record(key):
                yield record

    def latest(self, stage: str) -> Record | None:
        """The newest record of `stage`, or None."""
        return max((r for r in self.records() if r.stage == stage), key=lambda r: (r.created, r.key), default=None)

    def _local_keys(self) -> Iterator[str]:
        if self._root.is_dir():
            for shelf in sorted(self._root.iterdir()):
                if len(shelf.name) == 2 and shelf.is_dir():
                    yield from sorted(folder.name for folder in shelf.iterdir() if _KEY.fullmatch(folder.name))

    def unsealed(self) -> list[str]:
        """Keys of folders without a record: made by hand, or left by an interrupted copy."""
        keys = [] if self._remote else self._local_keys()
        return [key for key in keys if not (self._folder(key) / RECORD).exists()]

    def set_unsealed_aside(self, key: str) -> str:
        """Move such a folder to `damaged/`; the message that says so."""
        return self.set_aside(key, f"its file {RECORD} is missing")

    def set_aside(self, key: str, why: str) -> str:
        """Move an artifact to `damaged/`, so that the next run rebuilds it; the message that says so."""
        _check_key(key)
        return str(self._set_aside(key, RECORD, why=why))

    # Reading

    def path(self, artifact: Artifact | str) -> Path:
        """Local folder with the artifact's files, checked against its record once per process. Read only.

        Raises:
            MissingArtifact: the store does not hold it.
            DamagedArtifact: a file is missing or changed; the artifact was moved to `damaged/`.
        """
        key = artifact.key if isinstance(artifact, Artifact) else artifact
        _check_key(key)
        folder = self._folder(key)
        if key in self._verified and (folder / RECORD).exists():
            return folder
        record = self._copied_record(key, folder) or self._record_for_reading(key)
        if self._remote and not (folder / RECORD).exists():
            self._download(self._remote, record, folder)
        damage = _first_damage(folder, record, deep=True)
        if damage and self._remote:  # perhaps only the copy here is damaged: fetch it once more
            shutil.rmtree(folder)
            record = self._record_for_reading(key)
            self._download(self._remote, record, folder)
            damage = _first_damage(folder, record, deep=True)
        if damage:
            raise self._set_aside(key, *damage)
        self._verified.add(key)
        return folder

    def _copied_record(self, key: str, folder: Path) -> Record | None:
        """Of a remote artifact that was fetched before: what a key names never changes."""
        try:
            record = Record.from_json((folder / RECORD).read_text()) if self._remote else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if record and record.key == key else None

    def _record_for_reading(self, key: str) -> Record:
        """Like `record`, but damage is an error that names the file."""
        try:
            text = self._remote.read_record(key) if self._remote else (self._folder(key) / RECORD).read_text()
        except (FileNotFoundError, NotADirectoryError):
            text = None
        except UnicodeDecodeError as error:
            raise self._set_aside(key, RECORD, f"is not text ({error})") from error
        if text is None:
            raise MissingArtifact(f"{masked(self.url)} holds no artifact {key}: run the stage that makes it")
        record = self._parse(key, text)
        if record is None:
            raise DamagedArtifact(f"artifact {key}: {RECORD} was damaged; run again to rebuild it", key, RECORD)
        return record

    def _set_aside(self, key: str, file: str, damage: str = "", why: str = "") -> DamagedArtifact:
        """Move an artifact aside because of the damage to `file`, or for another reason; the error that reports it."""
        self._known.pop(key, None)
        self._verified.discard(key)
        if self._remote:
            place = self._remote.set_aside(key)
            shutil.rmtree(self._folder(key), ignore_errors=True)
        else:
            aside = self._root / "damaged" / f"{key}-{durable.unique_suffix()}"
            aside.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process was faster
                self._folder(key).rename(aside)
            place = str(aside)
        why = why or f"its file {file} {damage}"
        message = f"artifact {key}: {why}; it was moved to {place}. Run again to rebuild it."
        _log.warning(masked(message))
        return DamagedArtifact(message, key, file)

    def remove(self, key: str) -> bool:
        """Remove an artifact for good; False when it was not there."""
        _check_key(key)
        self._known.pop(key, None)
        self._verified.discard(key)
        trash = self._root / ".tmp" / f"trash-{durable.unique_suffix()}"
        trash.parent.mkdir(parents=True, exist_ok=True)
        try:  # a rename first: nobody ever sees half an artifact
            self._folder(key).rename(trash)
            found = True
        except FileNotFoundError:
            found = False
        shutil.rmtree(trash, ignore_errors=True)
        return self._remote.remove(key) if self._remote else found

    # Writing

    @contextmanager
    def writing(self, key: str) -> Iterator[Path]:
        """Yield an empty temporary folder for the files of `key`; `seal` it before the block ends.

        Whatever was not sealed is removed, at the latest by the next writer when this process is killed.
        """
        _check_key(key)
        temporary = self._root / ".tmp" / f"{key}-{durable.unique_suffix()}"
        with durable.explain_full_disk(temporary):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            alive = temporary.with_name(f"{temporary.name}.lock")
            with durable.lock(alive):
                try:
                    self._sweep()
                    temporary.mkdir()  # on a full disk even this may fail
                    yield temporary
                finally:
                    shutil.rmtree(temporary, ignore_errors=True)
                    alive.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what killed processes left: nobody holds the locks of their folders. Anyone may empty the trash."""
        for trash in (self._root / ".tmp").glob("trash-*"):
            shutil.rmtree(trash, ignore_errors=True)
        for alive in (self._root / ".tmp").glob("*.lock"):
            try:
                with durable.lock(alive, timeout=0):
                    shutil.rmtree(alive.with_suffix(""), ignore_errors=True)
                    alive.unlink(missing_ok=True)
            except durable.LockTimeout:
                continue

    def seal(self, tmp: Path, record: Record) -> Artifact:
        """Make the folder from `writing` an artifact: checksums, record last, one atomic rename.

        Returns the artifact that the store then holds: this one, or the one that was sealed with this key before.

        Raises:
            ValueError: a file is a link, or has the name of the record.
            TypeError: a fact is not JSON; the message names it.
            OSError: the disk is full; nothing was stored.
        """
        _check_key(record.key)
        with durable.explain_full_disk(tmp):
            facts = masked_values(plain_json(record.artifact.facts, "facts"))
            artifact = dataclasses.replace(record.artifact, facts=facts)
            sealed = dataclasses.replace(record, artifact=artifact, files=_inventory(tmp))
            if self._remote:
                earlier = self._remote.upload(sealed.key, tmp, iter(sealed.files), json.loads(sealed.to_json()))
                if earlier:
                    sealed = self._parse(sealed.key, earlier) or sealed
                else:
                    self._keep(tmp, sealed)
            else:
                durable.write_bytes(tmp / RECORD, sealed.to_json().encode())
                sealed = self._place(tmp, sealed)
        self._known[sealed.key] = sealed
        return sealed.artifact

    def _place(self, tmp: Path, sealed: Record) -> Record:
        folder = self._folder(sealed.key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                tmp.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                if winner := self.record(sealed.key):
                    return winner
                if folder.exists():  # a folder without a record: made by hand, not by us
                    self._set_aside(sealed.key, RECORD, "is missing")
                continue
            durable.fsync_folder(folder.parent)
            self._verified.add(sealed.key)
            return sealed

    def _keep(self, tmp: Path, sealed: Record) -> None:
        """What was uploaded need not be fetched by who reads it on this machine."""
        (tmp / RECORD).write_text(sealed.to_json())
        folder = self._folder(sealed.key)
        shutil.rmtree(folder, ignore_errors=True)  # a copy of one that was set aside since
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # another process of this machine was faster
            tmp.rename(folder)

    def _folder(self, key: str) -> Path:
        return self._root / key[:2] / key

    def _download(self, remote: RemoteStore, record: Record, folder: Path) -> None:
        with self.writing(record.key) as temporary:
            for name in record.files:
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                remote.fetch(record.key, name, target)
            (temporary / RECORD).write_text(record.to_json())
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise  # else another process fetched it meanwhile
