"""Files that survive a kill, a full disk, and a second process: atomic writes, locks, clear disk errors."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT}


class LockTimeout(TimeoutError):
    """Another process still holds the lock."""


class DiskFull(OSError):
    """No space or quota is left where something was to be written."""


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into a `DiskFull` that says where and what to do; other errors pass unchanged."""
    try:
        yield
    except Exception as error:
        number = _out_of_space(error)
        if isinstance(error, DiskFull) or not number:
            raise
        what = "disk is full" if number == errno.ENOSPC else "disk quota is used up"
        advice = f"{what} while writing {path}: nothing was stored; free some space or point LIFESPAN_HOME elsewhere"
        raise DiskFull(number, advice) from error


def _out_of_space(error: Exception) -> int:
    """The error number if there was no space left, else 0. Libraries in Rust report it in their own words."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _OUT_OF_SPACE else 0
    return next((number for number in _OUT_OF_SPACE if f"os error {number})" in str(error)), 0)


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    fsync_folder(path)


def unique_suffix() -> str:
    """A part of a name that no other process, thread, or call produces."""
    return f"{os.getpid()}-{secrets.token_hex(4)}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; on success it replaces `path` in one step, on failure it is gone.

    The temporary name starts with a dot, so nobody who lists the folder mistakes a torn file for a whole one.
    """
    with explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{unique_suffix()}.tmp"
        try:
            yield temporary
            fsync_file(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync_folder(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def lock(path: Path, *, shared: bool = False, timeout: float | None = None) -> Iterator[None]:
    """Hold an advisory lock on the file `path`, against other processes and threads.

    The kernel releases it when the holder dies, so a `kill -9` never leaves one behind; the file itself is never
    removed. Waits with short sleeps rather than in the kernel, so that Ctrl-C works in every thread.

    Raises:
        LockTimeout: after `timeout` seconds; 0 tries once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = 0.005
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        while True:
            try:
                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    raise LockTimeout(f"{path}: still held by another process after {timeout:g} s") from None
                time.sleep(pause)
                pause = min(pause * 1.5, 0.2)
        yield
    finally:
        os.close(descriptor)
