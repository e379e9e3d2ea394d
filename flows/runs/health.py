"""What is wrong with an installation and a home, and what to do about it: the checks of `lifespan doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import signal
import tempfile
import tomllib
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows.runs.registry import close_dead_runs, is_alive
from flows.services import hermetic, services
from flows.services.servers import MLFLOW_PORT, PREFECT_PORT
from flows.services.sockets import LOOPBACK, CannotListen, listen, local_url, open_directly
from storage import durable
from storage.artifacts import DamagedArtifact
from storage.home import Home, HomeError
from storage.redaction import masked
from storage.sqlite_url import sqlite_url
from storage.tables import SCHEMAS

Level = Literal["ok", "note", "bad"]
MIN_FREE_BYTES = 2 * 10**9
_KEYED = re.compile(r"-([0-9a-f]{64})\.parquet$")  # a file with the rows of one artifact, set aside
MANY_RESTARTS = 3  # this many restarts of a service are no accident
# Versions that install, pass `pip check`, and break at run time: measured with prefect 3.8.8.
KNOWN_BAD = (
    ("sqlalchemy", ">=2.1", "Prefect's scheduler creates no runs with it, without a message"),
    ("fastapi", ">=0.151", "Prefect's server does not start with it"),
)


@dataclass(frozen=True)
class Finding:
    """The result of one check. `bad` needs action, `note` is worth knowing."""

    level: Level
    what: str
    advice: str = ""


def examine(home: Home, *, deep: bool = False, mend: bool = False) -> Iterator[Finding]:
    """Run every check, one finding at a time.

    Args:
        home: the home to check.
        deep: read every artifact and compare checksums; damaged ones are set aside.
        mend: repair what can be repaired: end orphaned processes, close killed runs, remove stale temporary folders,
            set aside what cannot be read, bring MLflow up to date.
    """
    yield from versions()
    yield from disk(home)
    if _unwritable(home):  # the other checks take locks in the home
        return
    if home.is_remote:
        yield object_store(home)
    group = services.running(home)
    yield from ports(group)
    yield from running_services(home, group)
    yield from orphans(mend)
    yield from unfinished(home, mend)
    yield from unsealed(home, mend)
    damaged = False
    lost: set[str] = set()
    for finding in tables(home, mend, lost):
        damaged |= finding.level == "bad"
        yield finding
    if not damaged:
        yield from without_rows(home, mend, lost)
        yield from tracking(home, mend)
    if deep:
        yield from artifacts(home)


def requirements() -> list[str]:
    """The packages that the project requires: from its metadata, or from pyproject.toml in a bare checkout."""
    try:
        return [text for text in importlib.metadata.requires("lifespan") or [] if "extra ==" not in text]
    except importlib.metadata.PackageNotFoundError:
        file = Path(__file__).parents[2] / "pyproject.toml"
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
            what = f"{requirement.name} {found} does not match {requirement.specifier}"
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


def _unwritable(home: Home) -> str:
    """Why the home is not writable; "" if it is."""
    try:
        home.local.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=home.local):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def disk(home: Home) -> Iterator[Finding]:
    if why := _unwritable(home):
        yield Finding("bad", f"{home.local} is not writable: {why}", "point LIFESPAN_HOME to another folder")
        return
    yield Finding("ok", f"{home.local} is writable")
    free = shutil.disk_usage(home.local).free
    text = f"{free / 1e9:.1f} GB free at {home.local}"
    if free < MIN_FREE_BYTES:
        yield Finding("bad", text, "free some space: a full disk stops a run (sealed artifacts stay)")
    else:
        yield Finding("ok", text)


def object_store(home: Home) -> Finding:
    """Whether several machines may run in this home at once: tried with a few small objects."""
    try:
        problem = home.lease_problem
    except HomeError as error:
        return Finding("bad", str(error), "check address, bucket, region and credentials (docs/cluster.md)")
    if not problem:
        return Finding("ok", f"{home.shown} holds leases: several machines may run in it at once")
    return Finding(
        "bad",
        masked(f"{home.shown} cannot hold leases: {problem}"),
        "let one machine at a time run in it, or take a store with conditional puts (Amazon S3, MinIO, Ceph)",
    )


def ports(group: services.Running | None) -> Iterator[Finding]:
    ours = [service.url.rsplit(":", 1)[-1] for service in group.services] if group else []
    for port, name in ((MLFLOW_PORT, "MLflow"), (PREFECT_PORT, "Prefect")):
        if str(port) in ours:
            continue
        try:
            listen(LOOPBACK, port).close()
            yield Finding("ok", f"port {port} is free for {name}")
        except CannotListen:
            yield Finding("note", f"port {port} is in use", f"`lifespan ui` will show {name} on another one")


def running_services(home: Home, group: services.Running | None) -> Iterator[Finding]:
    """The services of `lifespan up`: whether each is alive and answers, and whether one keeps exiting."""
    if group is None:
        if (home.local / "services.json").exists():
            yield Finding("note", "the services of `lifespan up` were killed", "`lifespan up` starts them again")
        return
    logs = home.local / "logs"
    for service in group.services:
        log = logs / {"MLflow": "mlflow-ui.log", "Prefect": "prefect-ui.log"}.get(service.name, "worker.log")
        where = f" at {service.url}" if service.url else ""
        restarts = f", restarted {service.restarts} times" if service.restarts else ""
        if not _is_running(service.pid) or (service.url and not _answers(service.url, group.host)):
            yield Finding(
                "bad", f"{service.name}{where} is down{restarts}", f"it is restarted automatically; see {log}"
            )
        elif service.restarts >= MANY_RESTARTS:
            yield Finding("bad", f"{service.name}{where} keeps exiting{restarts}", f"see {log}")
        else:
            yield Finding("ok", f"{service.name}{where} is up{restarts}")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return not Path(f"/proc/{pid}/stat").exists() or ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True


def _answers(url: str, host: str) -> bool:
    try:
        with open_directly(f"{local_url(host, int(url.rsplit(':', 1)[-1]))}/health", timeout=5.0):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def orphaned_processes() -> list[tuple[int, str]]:
    """Our workers and servers whose parent process is gone (Linux): process id and command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if not ({b"flows.engine.worker", b"flows.services.server_process"} & set(command)):
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
        yield Finding(
            "note", f"killed runs: {', '.join(dead)}", "the next run marks them as interrupted and resumes their work"
        )
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
    """True when no process holds the lock of a temporary folder any more; `mend` then removes the folder."""
    try:
        with durable.lock(lock, timeout=0):
            if mend:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
            return True
    except durable.LockTimeout:
        return False


def unsealed(home: Home, mend: bool) -> Iterator[Finding]:
    for key in home.store.unsealed():
        if mend:
            yield Finding("ok", home.store.set_unsealed_aside(key))
        else:
            yield Finding("bad", f"artifact {key} was never sealed", "`lifespan doctor --mend` sets it aside")


def tables(home: Home, mend: bool, lost: set[str]) -> Iterator[Finding]:
    """Part files that cannot be read. The keys whose rows were in files that are set aside are added to `lost`."""
    damage = {table: text for table in SCHEMAS if (text := home.tables.damage(table))}
    for table, text in damage.items():
        if not mend:
            yield Finding("bad", text)
        for place in home.tables.set_damaged_aside(table) if mend else ():
            yield Finding("ok", f"table {table}: a damaged file was moved to {place}")
            lost.update(_KEYED.findall(place))
    if not damage:
        yield Finding("ok", f"{len(SCHEMAS)} tables are readable")


def without_rows(home: Home, mend: bool, lost: set[str]) -> Iterator[Finding]:
    """Artifacts whose rows are gone. A stage writes its rows before its artifact is sealed, and always some costs; only
    running it again brings them back."""
    ran = set(home.tables.read("stages", ["key"]).column("key").to_pylist())
    paid = set(home.tables.read("costs", ["key"]).column("key").to_pylist())
    for record in home.store.records():
        key = record.artifact.key
        if key not in lost and (key in paid or key not in ran):
            continue
        what = f"rows of {record.stage} are missing in the tables"
        if mend:
            yield Finding("ok", home.store.set_aside(key, what))
        else:
            yield Finding("bad", f"artifact {key}: {what}", "`lifespan doctor --mend` makes the next run rebuild it")


def tracking(home: Home, mend: bool) -> Iterator[Finding]:
    """Whether MLflow agrees with the tables; nothing is checked before the first run has created its database."""
    uri, own = home.mlflow_uri, home.local / "mlflow.db"
    file = own if uri == sqlite_url(own) else Path(uri.removeprefix("sqlite:///"))
    if (file == own or uri.startswith("sqlite:///")) and not file.exists():
        return
    hermetic.apply(home.local)
    from storage import tracker

    try:
        late = tracker.behind(home)
    except Exception as error:  # MLflow has exceptions of its own
        yield Finding("bad", masked(f"MLflow at {home.mlflow_uri} does not answer: {str(error).splitlines()[0]}"))
        return
    some = ", ".join(late[:3]) + (", …" if len(late) > 3 else "")
    if not late:
        yield Finding("ok", "MLflow is up to date with the tables")
    elif not mend:
        yield Finding("bad", f"MLflow is missing or behind on {len(late)} runs: {some}", "`lifespan sync` updates it")
    elif problem := tracker.sync(home, late).problem:
        yield Finding("bad", problem)
    else:
        yield Finding("ok", f"{len(late)} runs were brought up to date in MLflow: {some}")


def artifacts(home: Home) -> Iterator[Finding]:
    whole = num_bytes = 0
    for record in home.store.records():
        try:
            home.store.path(record.artifact)
            whole, num_bytes = whole + 1, num_bytes + record.num_bytes
        except DamagedArtifact as error:
            yield Finding("bad", str(error), "run again to rebuild it")
    yield Finding("ok", f"{whole} artifacts ({num_bytes / 1e6:.1f} MB) match their checksums")
