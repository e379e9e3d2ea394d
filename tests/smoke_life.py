"""One real `smoke` life a test session: whoever needs it first lives it, all other workers of pytest-xdist wait."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console

from storage.home import Home


@dataclass(frozen=True)
class Made:
    """How a stage ended, and what it made."""

    status: str
    kind: str
    key: str


@dataclass(frozen=True)
class SmokeLife:
    """The first run of a home. Later runs may be added to it; they change nothing of this one."""

    home: Home
    run_id: str
    status: str
    failures: Mapping[str, str]
    warnings: tuple[str, ...]
    outcomes: Mapping[str, Made]


def lived_in(folder: Path) -> SmokeLife:
    """The life in this folder, which is lived now if it is not there yet."""
    folder.mkdir(exist_ok=True)
    told = folder / "life.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            told.write_text(json.dumps(_live(Home(folder / "home"))), encoding="utf-8")
    life = json.loads(told.read_text(encoding="utf-8"))
    outcomes = {label: Made(**made) for label, made in life.pop("outcomes").items()}
    return SmokeLife(Home(folder / "home"), outcomes=outcomes, warnings=tuple(life.pop("warnings")), **life)


def _live(home: Home) -> dict[str, object]:
    from flows.config import load_config
    from flows.lifecycle import run_lifecycle

    result = run_lifecycle(
        load_config("smoke"),
        home=home,
        profile="smoke",
        console=Console(file=StringIO(), width=160),
        prefect=False,
        mlflow=False,
    )
    made = {
        label: dataclasses.asdict(Made(done.status, done.artifact.kind, done.artifact.key))
        for label, done in result.outcomes.items()
    }
    return {
        "run_id": result.run_id,
        "status": result.status,
        "failures": {label: str(failure) for label, failure in result.failures.items()},
        "warnings": list(result.warnings),
        "outcomes": made,
    }
