"""One owner a name across machines, in an object store: leases by conditional put.

A lease is an object that is created only where there is none, and replaced only by who knows its last version (ETag):
of any number of contenders one wins. Its holder writes it anew every few seconds. Who waits takes it over when it has
seen the same version for `seconds` by its own clock: no two clocks are compared. A holder that could not write for two
thirds of that knows that it may have lost it, before anyone can have taken it. Unreachable is not dead: a machine that
comes back finds a higher token in the lease (`check`), and writes nothing more.

    leases/stage-abcd….json    {"owner": "host-123-r1", "token": 3, "beat": 17, "held": true}
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from storage.durable import LockTimeout
from storage.remote import read_object

SECONDS = 30.0  # without a sign of life, after which a lease may be taken over
_POLL_SECONDS = 2.0


class LeaseLost(RuntimeError):
    """Another owner has this lease now: what was done under it must not be written."""


@dataclass(frozen=True)
class _Seen:
    """What an object held, and its version."""

    version: str
    owner: str
    token: int
    held: bool


class Lease:
    """A lease that is held.

    Attributes:
        token: higher than that of every owner before.
        lost: set when it may have another owner.
    """

    def __init__(self, name: str, token: int) -> None:
        self.name, self.token, self.lost = name, token, threading.Event()
        self.written = b""  # what the object held last, as far as its holder knows


class Leases:
    """The leases below one folder of an object store.

    Args:
        filesystem: fsspec's; it must honour the two conditions, see `probe`.
        root: folder, without protocol.
        seconds: see the module's text.
    """

    def __init__(self, filesystem: Any, root: str, seconds: float = SECONDS) -> None:
        self.filesystem, self.root, self._seconds = filesystem, root, seconds
        self._seen_at: dict[str, tuple[str, float]] = {}  # of the leases of others: version, and since when
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, name: str, timeout: float | None = None) -> Iterator[Lease]:
        """Hold a lease for a `with` block.

        Raises:
            LockTimeout: another owner holds it still, after `timeout` seconds; 0 tries once, None waits for ever.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        owner = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        while (lease := self._try(name, owner)) is None:
            left = _POLL_SECONDS if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise LockTimeout(f"{self.root}/{name}: held by another machine after {timeout:g} s")
            time.sleep(min(_POLL_SECONDS, self._seconds / 4, left))
        ended = threading.Event()
        beating = threading.Thread(target=self._keep, args=(lease, owner, ended), daemon=True)
        beating.start()
        try:
            yield lease
        finally:
            ended.set()
            beating.join()
            if not lease.lost.is_set():
                self._release(lease)

    def check(self, name: str, token: int) -> None:
        """Raises LeaseLost when an owner after the one with this token holds or held the lease."""
        try:
            found = json.loads(read_object(self.filesystem, self._path(name)))["token"]
        except FileNotFoundError:
            found = None
        if found != token:
            raise LeaseLost(f"{name}: another machine makes it now")

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}.json"

    def _try(self, name: str, owner: str) -> Lease | None:
        """The lease, if it was free or its owner gave no sign of life."""
        path = self._path(name)
        with self._lock:
            waiting = name in self._seen_at
        try:
            if not waiting:
                self.filesystem.pipe_file(path, _content(owner, 1, 0, True), mode="create")
                return Lease(name, 1)
        except FileExistsError:
            pass
        seen = self._read(name)
        if seen is None:  # removed meanwhile; the next try creates it
            with self._lock:
                self._seen_at.pop(name, None)
            return None
        if seen.held and not self._is_stale(name, seen.version):
            return None
        token = seen.token + 1
        if not replace_if(self.filesystem, path, _content(owner, token, 0, True), seen.version):
            return None
        return Lease(name, token)

    def _is_stale(self, name: str, version: str) -> bool:
        with self._lock:
            known, since = self._seen_at.get(name, ("", 0.0))
            if known != version:
                self._seen_at[name] = version, time.monotonic()
                return False
            return time.monotonic() - since >= self._seconds

    def _read(self, name: str) -> _Seen | None:
        path = self._path(name)
        try:
            # The version first: if the object changes in between, the condition on the older version fails.
            version = version_of(self.filesystem, path)
            data = json.loads(read_object(self.filesystem, path))
            return _Seen(version, str(data["owner"]), int(data["token"]), bool(data["held"]))
        except FileNotFoundError:
            return None

    def _keep(self, lease: Lease, owner: str, ended: threading.Event) -> None:
        """Write the lease anew until it is given back; say so when it may be lost."""
        beat, last = 0, time.monotonic()
        written = _content(owner, lease.token, beat, True)
        while not ended.wait(self._seconds / 4):
            asked = time.monotonic()
            beat += 1
            content = _content(owner, lease.token, beat, True)
            try:
                if not self._write_over(lease.name, written, content):
                    lease.lost.set()
                    return
                written, last = content, asked
            except Exception:  # of the network; whether that matters, the clock tells
                if time.monotonic() - last > self._seconds * 2 / 3:
                    lease.lost.set()
                    return
        lease.written = written

    def _release(self, lease: Lease) -> None:
        with suppress(Exception):  # who waits takes it over later
            self._write_over(lease.name, lease.written, _content("", lease.token, 0, False))

    def _write_over(self, name: str, written: bytes, content: bytes) -> bool:
        """Replace what we wrote last; False when somebody else wrote since."""
        path = self._path(name)
        # Most stores take the MD5 for the version of such an object: then this is one request.
        if replace_if(self.filesystem, path, content, f'"{hashlib.md5(written, usedforsecurity=False).hexdigest()}"'):
            return True
        version, found = "", b""
        with suppress(FileNotFoundError):
            version, found = version_of(self.filesystem, path), read_object(self.filesystem, path)
        if found == content:  # the answer to our last request was lost
            return True
        ours = json.loads(found or b"{}")
        mine = json.loads(written)
        same = (ours.get("owner"), ours.get("token")) == (mine["owner"], mine["token"])
        return same and replace_if(self.filesystem, path, content, version)


def _content(owner: str, token: int, beat: int, held: bool) -> bytes:
    return json.dumps({"owner": owner, "token": token, "beat": beat, "held": held}).encode()


def version_of(fs: Any, path: str) -> str:
    """The version (ETag) of an object; empty where the file system knows none. Raises FileNotFoundError."""
    fs.invalidate_cache()
    return str(fs.info(path).get("ETag") or "")


def replace_if(fs: Any, path: str, content: bytes, version: str) -> bool:
    """Replace an object if it has this version still; whether it was replaced."""
    try:
        fs.pipe_file(path, content, IfMatch=version)
        return True
    except FileNotFoundError:
        return False
    except OSError as error:
        if _is_refused(error):
            return False
        raise


def _is_refused(error: BaseException) -> bool:
    """Whether a store's error means that the condition did not hold (412, or 409 of a race)."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        code = str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
        if code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
            return True
        seen = seen.__cause__ or seen.__context__
    return "pre-conditions" in str(error) or "PreconditionFailed" in str(error)


def probe(fs: Any, root: str) -> str:
    """Why this store cannot hold leases; empty if it can. Tries both conditions on an object of its own.

    Raises what the store's client does when no object can be written at all.
    """
    path = f"{root}/probe-{secrets.token_hex(8)}.json"

    def refused(action: Callable[[], Any]) -> bool:
        try:
            return action() is False
        except FileExistsError:
            return True

    try:
        fs.pipe_file(path, b"1", mode="create")
    except (TypeError, NotImplementedError, ValueError) as error:
        return f"it takes no condition ({error})"
    try:
        try:
            if not refused(lambda: fs.pipe_file(path, b"2", mode="create")):
                return "it replaces an object that was only to be created (If-None-Match)"
            version = version_of(fs, path)
            if not version:
                return "its objects have no version (ETag)"
            if not replace_if(fs, path, b"3", version):
                return "it does not replace an object by its version (If-Match)"
            if not refused(lambda: replace_if(fs, path, b"4", version)):
                return "it replaces an object by an old version (If-Match)"
        finally:
            fs.rm_file(path)
    except (OSError, TypeError, NotImplementedError, ValueError) as error:
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ""
