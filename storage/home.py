"""The home of everything that Lifespan writes: artifacts, tables, tracking, reports, unfinished work."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from pathlib import Path

from storage import durable
from storage.annotations import Annotations
from storage.artifacts import Store
from storage.leases import Lease, Leases, probe
from storage.redaction import masked
from storage.remote import RemoteStore
from storage.remote_state import RemoteState
from storage.sqlite_url import sqlite_url
from storage.tables import Tables

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
LEASE_PATIENCE = 5.0  # seconds of one wait for another machine; each look costs requests


class HomeError(ValueError):
    """LIFESPAN_HOME does not name a place where a home can be."""


class Home:
    """One folder (or fsspec URL) and what lies in it.

    Artifacts and tables live under `root`, which may be remote. What needs a real disk (locks, unfinished work, the
    MLflow database, reports) lives under `local`: the same folder when `root` is one, else `.lifespan/<hash of root>`.

    Args:
        root: folder or fsspec URL.
        local: folder for what must be on a local disk.

    Raises:
        HomeError: the root is empty, or a URL whose protocol is unknown or needs a package.
    """

    def __init__(self, root: str | os.PathLike[str], local: str | os.PathLike[str] | None = None) -> None:
        text = os.fspath(root).removeprefix("file://")
        if not text.strip():
            raise HomeError("LIFESPAN_HOME is empty: give a folder or a URL such as s3://bucket/lifespan, or unset it")
        self.is_remote = "://" in text
        if self.is_remote:
            self.root = text.rstrip("/")
            _check_protocol(self.root)
            default = Path(".lifespan") / hashlib.sha256(self.root.encode()).hexdigest()[:12]
            self.local = Path(local or default).expanduser().absolute()
        else:
            self.root = str(Path(text).expanduser().absolute())
            self.local = Path(local).expanduser().absolute() if local else Path(self.root)

    @classmethod
    def from_env(cls) -> Home:
        """The home that LIFESPAN_HOME names, else `.lifespan` in the current folder."""
        return cls(os.environ.get("LIFESPAN_HOME", ".lifespan"))

    def __repr__(self) -> str:
        return f"Home({self.shown!r})"

    @property
    def shown(self) -> str:
        """`root` for messages: without credentials."""
        return masked(self.root)

    @cached_property
    def store(self) -> Store:
        """The artifacts."""
        return Store(f"{self.root}/artifacts", cache=self.local / "cache")

    @cached_property
    def tables(self) -> Tables:
        """The tables."""
        return Tables(f"{self.root}/tables", locks=self.local / "locks", cache=self.local / "cache" / "tables")

    @cached_property
    def leases(self) -> Leases | None:
        """One owner a name across machines; None for a home on a disk, where locks do, and for a store that cannot hold
        leases, which `lifespan doctor` tells: there one machine at a time may run."""
        return self._remote_leases if self.is_remote and not self.lease_problem else None

    @cached_property
    def lease_problem(self) -> str:
        """Why the store of a remote home cannot hold leases; empty if it can. Asks it with a few requests, once.

        Raises:
            HomeError: the store cannot be reached, has no such bucket, or lets nobody write with these credentials.
        """
        leases = self._remote_leases
        try:
            return probe(leases.filesystem, leases.root)
        except Exception as error:  # each store's client has its own
            reason = masked(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
            raise HomeError(f"LIFESPAN_HOME={self.shown}: nothing can be written there: {reason}") from error

    def check_store(self) -> None:
        """Raises HomeError when nothing can be written to the store of a remote home."""
        _ = self.lease_problem

    @cached_property
    def _remote_leases(self) -> Leases:
        store = RemoteStore(f"{self.root}/leases")
        return Leases(store.fs, store.root)

    def check_fence(self, name: str, token: int) -> None:
        """Raises LeaseLost when another machine has the lease by now. Token 0: there was no lease."""
        if token:
            self._remote_leases.check(name, token)

    def unfinished(self, key: str) -> RemoteState | None:
        """Where the state of an unfinished stage of a remote home survives the loss of this machine."""
        return RemoteState(RemoteStore(f"{self.root}/state/{_file_name(key)}")) if self.is_remote else None

    @cached_property
    def annotations(self) -> Annotations:
        """What people judge and how they judged it; always on a local disk."""
        return Annotations(self.local / "annotations")

    @property
    def mlflow_uri(self) -> str:
        """Where MLflow tracks: the database in this home, unless MLFLOW_TRACKING_URI names another place."""
        return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(self.local / "mlflow.db")

    @property
    def mlflow_artifacts(self) -> Path:
        """Folder of the files that MLflow shows beside a run."""
        return self.local / "mlflow-artifacts"

    @property
    def reports(self) -> Path:
        """Folder of the HTML reports, `<run_id>.html`."""
        folder = self.local / "reports"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def report(self, run_id: str) -> Path:
        """Path of the HTML report of a run."""
        return self.reports / f"{_file_name(run_id)}.html"

    def keeps(self, path: Path) -> bool:
        """Whether a path lies inside the artifacts or tables of this home, where only the home itself may write."""
        own = [] if self.is_remote else [Path(self.root, name).resolve() for name in ("artifacts", "tables")]
        return any(folder == path.resolve() or folder in path.resolve().parents for folder in own)

    def scratch(self, key: str) -> Path:
        """Folder where an unfinished stage keeps the state that it resumes from; the stage's caller removes it."""
        folder = self.local / "scratch" / _file_name(key)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def turn(self, name: str, timeout: float) -> Iterator[Lease | None]:
        """Hold the lock and, where the home's store can, the lease of a name, against this machine and all others.

        Raises:
            storage.durable.LockTimeout: after `timeout` seconds for the lock, and some for the lease.
        """
        with self.lock(name, timeout):
            if self.leases is None:
                yield None
                return
            with self.leases.holding(_file_name(name), LEASE_PATIENCE) as lease:
                yield lease

    def lock(self, name: str, timeout: float | None = None) -> AbstractContextManager[None]:
        """Hold the lock `name` for a `with` block; other processes of this machine wait for their turn.

        Raises:
            storage.durable.LockTimeout: after `timeout` seconds; None waits for ever, 0 tries once.
        """
        return durable.lock(self.local / "locks" / f"{_file_name(name)}.lock", timeout=timeout)


def _check_protocol(url: str) -> None:
    import fsspec  # here: a local home need not pay for the import

    try:
        fsspec.get_filesystem_class(fsspec.core.split_protocol(url)[0])
    except (ImportError, ValueError) as error:  # what is not installed, and what nobody knows
        raise HomeError(f"LIFESPAN_HOME={masked(url)}: {error}") from None


def _file_name(name: str) -> str:
    """`name` itself where it is safe as a file name, else its hash."""
    return name if _PLAIN_NAME.fullmatch(name) else hashlib.sha256(name.encode()).hexdigest()
