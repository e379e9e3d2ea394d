"""The doctor finds each illness that it knows, and nothing in a healthy home."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_life
from rich.console import Console

from flows import doctor
from flows.run import run_graph
from flows.settings import ComputeConfig
from storage.home import Home


def levels(home: Home, **options: bool) -> dict[str, str]:
    return {finding.what: finding.level for finding in doctor.examine(home, **options)}


def bad(home: Home, **options: bool) -> list[str]:
    return [what for what, level in levels(home, **options).items() if level == "bad"]


def live(home: Home, console: Console) -> None:
    cfg = toy_life.ToyConfig(compute=ComputeConfig(workers=0))
    run_graph(toy_life.toy_graph, cfg, home=home, console=console, prefect=False, mlflow=False)


def test_a_healthy_home_has_nothing_bad(home: Home, console: Console) -> None:
    live(home, console)
    assert bad(home, deep=True) == []
    assert any("4 artifacts" in what for what in levels(home, deep=True))


def test_known_bad_versions_are_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.1.3" if name == "sqlalchemy" else real(name))
    found = bad(home)
    assert any("creates no runs" in what for what in found)


def test_a_full_disk_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    assert any("GB free" in what for what in bad(home))


def test_a_taken_port_is_a_note(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        real = socket.socket.connect_ex
        place = taken.getsockname()
        monkeypatch.setattr(
            socket.socket, "connect_ex", lambda self, address: real(self, place if address[1] == 5000 else address)
        )
        assert levels(home)["port 5000 is taken"] == "note"


def test_damage_is_found_only_when_it_looks_deep(home: Home, console: Console) -> None:
    live(home, console)
    (file, *_) = (Path(home.root) / "artifacts").glob("??/*/numbers.json")
    file.write_text(file.read_text().replace("0", "7", 1))
    assert bad(Home(home.root)) == []
    (found,) = bad(Home(home.root), deep=True)
    assert "numbers.json" in found


def test_what_a_killed_run_left_is_told_and_mended(home: Home) -> None:
    (home.local / "running" / "r1").mkdir(parents=True)
    left = Path(home.root) / "artifacts" / ".tmp"
    left.mkdir(parents=True)
    (left / "x.lock").touch()
    (left / "x").mkdir()
    (home.scratch("a" * 64) / "step-1.json").touch()
    found = levels(home)
    assert found["killed runs: r1"] == "note"
    assert found["1 temporary folders of killed stages"] == "note"
    assert found["1 unfinished stages have a saved state"] == "note"
    assert "marked as interrupted: r1" in levels(home, mend=True)
    assert not (left / "x").exists()
    assert home.tables.read("runs", ["run_id", "status"]).to_pylist() == [{"run_id": "r1", "status": "interrupted"}]
    assert "killed runs: r1" not in levels(home)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_orphaned_process_is_found_and_ended(home: Home) -> None:
    # Looks like a worker of a parent that is not its parent any more.
    orphan = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "flows.worker"],
        env={**os.environ, "LIFESPAN_PARENT": "1"},
    )
    try:
        deadline = time.monotonic() + 5
        while orphan.pid not in dict(doctor.orphaned_processes()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert any(f"orphaned process {orphan.pid}" in what for what in bad(home))
        assert list(doctor.orphans(mend=False))
        os.kill(orphan.pid, signal.SIGKILL)
    finally:
        orphan.wait()
    assert orphan.pid not in dict(doctor.orphaned_processes())
