"""`lifespan doctor`: what is wrong with this installation and this home, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.run import close_dead_runs, is_alive
from storage import durable
from storage.artifacts import DamagedArtifact
from storage.home import Home
from storage.tables import SCHEMAS

Level = Literal["ok", "note", "bad"]
LEAST_FREE_BYTES = 2 * 10**9
# What installs, passes `pip check`, and breaks at run time: measured with prefect 3.8.8.
KNOWN_BAD = (
    ("sqlalchemy", ">=2.1", "Prefect's scheduler then creates no runs, and says nothing"),
    ("fastapi", ">=0.151", "Prefect's server then dies at its start"),
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `bad` needs a hand, `note` is worth knowing."""

    level: Level
    what: str
    advice: str = ""


def examine(home: Home, *, deep: bool = False, mend: bool = False) -> Iterator[Finding]:
    """Look at everything, one finding at a time.

    Args:
        home: the home to look at.
        deep: read every artifact and compare checksums; damaged ones are moved aside.
        mend: put right what can be: end orphaned processes, close killed runs, remove dead temporary folders.
    """
    yield from versions()
    yield from disk(home)
    yield from ports()
    yield from orphans(mend)
    yield from unfinished(home, mend)
    yield from tables(home)
    if deep:
        yield from artifacts(home)


def requirements() -> list[str]:
    """What the project asks for: from its metadata, or from pyproject.toml in a bare checkout."""
    try:
        return [text for text in importlib.metadata.requires("lifespan") or [] if "extra ==" not in text]
    except importlib.metadata.PackageNotFoundError:
        file = Path(__file__).parents[1] / "pyproject.toml"
        return list(tomllib.loads(file.read_text())["project"]["dependencies"]) if file.exists() else []


def versions() -> Iterator[Finding]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    wrong = 0
    wanted = [Requirement(text) for text in requirements()]
    for requirement in wanted:
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong += 1
            yield Finding("bad", f"{requirement.name} is not installed", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong += 1
            what = f"{requirement.name} {found} is not {requirement.specifier}"
            yield Finding("bad", what, f"pip install '{requirement}'")
    for name, bad, effect in KNOWN_BAD:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if SpecifierSet(bad).contains(found, prereleases=True):
            wrong += 1
            yield Finding("bad", f"{name} {found}: {effect}", f"pip install '{name}{bad.replace('>=', '<')}'")
    if not wrong:
        yield Finding("ok", f"{len(wanted)} required packages have versions that work together")


def disk(home: Home) -> Iterator[Finding]:
    try:
        home.local.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home.local):
            pass
        yield Finding("ok", f"{home.local} is writable")
    except OSError as error:
        yield Finding("bad", f"{home.local} is not writable: {error.strerror}", "point LIFESPAN_HOME to another folder")
        return
    free = shutil.disk_usage(home.local).free
    text = f"{free / 1e9:.1f} GB free at {home.local}"
    if free < LEAST_FREE_BYTES:
        yield Finding("bad", text, "free some space: a full disk stops a run (what is sealed stays)")
    else:
        yield Finding("ok", text)


def ports() -> Iterator[Finding]:
    for port, name in ((5000, "MLflow"), (4200, "Prefect")):
        with socket.socket() as probe:
            probe.settimeout(0.5)
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        if taken:
            yield Finding("note", f"port {port} is taken", f"`lifespan ui` shows {name} on another one")
        else:
            yield Finding("ok", f"port {port} is free for {name}")


def orphaned_processes() -> list[tuple[int, str]]:
    """Our workers and servers whose run is gone (Linux): process id and command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if not ({b"flows.worker", b"flows.child"} & set(command)):
                continue
            environment = dict(item.partition(b"=")[::2] for item in (folder / "environ").read_bytes().split(b"\0"))
            parent = int(environment[b"LIFESPAN_PARENT"])
            status = (folder / "status").read_text()
            actual = int(next(line.split()[1] for line in status.splitlines() if line.startswith("PPid:")))
        except (OSError, KeyError, ValueError, StopIteration):
            continue
        if actual != parent:
            found.append((int(folder.name), b" ".join(command).decode(errors="replace").strip()))
    return found


def orphans(mend: bool) -> Iterator[Finding]:
    found = orphaned_processes()
    for pid, command in found:
        if mend:
            os.kill(pid, signal.SIGKILL)
            yield Finding("ok", f"ended the orphaned process {pid}: {command}")
        else:
            yield Finding("bad", f"orphaned process {pid}: {command}", "`lifespan doctor --mend` ends it")
    if not found:
        yield Finding("ok", "no orphaned workers or servers")


def unfinished(home: Home, mend: bool) -> Iterator[Finding]:
    dead = [folder.name for folder in (home.local / "running").glob("*") if not is_alive(home, folder.name)]
    if dead and mend:
        yield Finding("ok", f"marked as interrupted: {', '.join(close_dead_runs(home))}")
    elif dead:
        yield Finding("note", f"killed runs: {', '.join(dead)}", "the next run says so, and resumes their work")
    temporary = [] if home.is_remote else [*Path(home.root, "artifacts", ".tmp").glob("*.lock")]
    left = [file for file in temporary if remove_if_dead(file, mend)]
    if left and mend:
        yield Finding("ok", f"removed {len(left)} temporary folders of killed stages")
    elif left:
        yield Finding("note", f"{len(left)} temporary folders of killed stages", "the next run removes them")
    states = [folder for folder in (home.local / "scratch").glob("*") if any(folder.iterdir())]
    if states:
        yield Finding("note", f"{len(states)} unfinished stages have a saved state", "run again to resume them")


def remove_if_dead(lock: Path, mend: bool) -> bool:
    """True when nobody holds the lock of a temporary folder any more."""
    try:
        with durable.lock(lock, timeout=0):
            if mend:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            return True
    except durable.LockTimeout:
        return False


def tables(home: Home) -> Iterator[Finding]:
    damage = [text for table in SCHEMAS if (text := home.tables.damage(table))]
    yield from (Finding("bad", text) for text in damage)
    if not damage:
        yield Finding("ok", f"{len(SCHEMAS)} tables can be read")


def artifacts(home: Home) -> Iterator[Finding]:
    whole = num_bytes = 0
    for record in home.store.records():
        try:
            home.store.path(record.artifact)
            whole, num_bytes = whole + 1, num_bytes + record.num_bytes
        except DamagedArtifact as error:
            yield Finding("bad", str(error), "run again to rebuild it")
    yield Finding("ok", f"{whole} artifacts ({num_bytes / 1e6:.1f} MB) agree with their checksums")
