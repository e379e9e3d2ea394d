"""What no kept run needs any more, for `lifespan gc`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.runs.registry import is_alive
from storage.home import Home


class RunInProgress(RuntimeError):
    """Nothing is removed while a run is in progress that may need it."""


@dataclass(frozen=True)
class Removable:
    """One thing that can be removed: what it is, its size in bytes, and how to remove it."""

    what: str
    num_bytes: int
    remove: Callable[[], object]


def removable(home: Home, keep: int) -> Iterator[Removable]:
    """Artifacts that none of the newest `keep` runs of any profile made or used, saved states of stages that none of
    them tried, logs and reports of other runs, and artifacts set aside as damaged. Table rows stay: they are small and
    they are the history of costs and metrics. Artifacts that no run made (imported models) stay too.

    Raises:
        RunInProgress: a run of this home is alive.
    """
    if alive := [folder.name for folder in (home.local / "running").glob("*") if is_alive(home, folder.name)]:
        raise RunInProgress(f"run {alive[0]} is in progress in this home: wait until it ends, or stop it first")
    runs = home.tables.read("runs", ["run_id", "profile", "event", "time"]).to_pylist()
    started = sorted((r for r in runs if r["event"] == "started"), key=lambda r: r["time"], reverse=True)
    kept: set[str] = set()
    for profile in {row["profile"] for row in started}:
        kept.update([row["run_id"] for row in started if row["profile"] == profile][:keep])
    rows = home.tables.read("stages", ["run_id", "key"]).to_pylist()
    needed = {row["key"] for row in rows if row["run_id"] in kept}
    made = {row["key"] for row in rows}
    for record in home.store.records():
        key = record.artifact.key
        if key in made and key not in needed:
            what = f"{record.artifact.kind} {key[:12]} of {record.stage}, {record.created[:10]}"
            yield Removable(what, record.num_bytes, lambda key=key: home.store.remove(key))  # type: ignore[misc]
    for folder in (home.local / "scratch").glob("*"):
        if folder.name not in needed:
            yield _folder(folder, f"saved state of {folder.name[:12]}")
    for folder in (home.local / "logs").glob("*-*-*"):
        if folder.is_dir() and folder.name not in kept:
            yield _folder(folder, f"logs of run {folder.name}")
    for page in home.reports.glob("*.html"):
        if page.stem not in kept:
            yield Removable(f"report of run {page.stem}", page.stat().st_size, page.unlink)
    if not home.is_remote:
        for folder in Path(home.root, "artifacts", "damaged").glob("*"):
            yield _folder(folder, f"damaged artifact {folder.name[:12]}")


def _folder(folder: Path, what: str) -> Removable:
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Removable(what, size, lambda: shutil.rmtree(folder, ignore_errors=True))
