"""A home's places and its locks."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from storage.durable import LockTimeout, write_bytes
from storage.home import Home, HomeError

ROOT = Path(__file__).parents[2]


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIFESPAN_HOME", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home.from_env()
    assert home.root == str(tmp_path / ".lifespan")
    assert home.mlflow_uri == f"sqlite:///{tmp_path}/.lifespan/mlflow.db"
    monkeypatch.setenv("LIFESPAN_HOME", "elsewhere")
    assert Home.from_env().root == str(tmp_path / "elsewhere")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert home.mlflow_uri == "http://127.0.0.1:5000"
    monkeypatch.setenv("LIFESPAN_HOME", "")
    with pytest.raises(ValueError, match="LIFESPAN_HOME is empty"):
        Home.from_env()


def test_a_remote_home_keeps_on_this_disk_what_needs_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home("memory://bucket/life")
    assert home.store.url == "memory://bucket/life/artifacts" and home.tables.url == "memory://bucket/life/tables"
    for place in (home.scratch("ab"), home.reports, Path(home.mlflow_uri.removeprefix("sqlite:///"))):
        assert place.is_relative_to(tmp_path / ".lifespan")
    assert home.local != Home("memory://bucket/other").local


def test_scratch_of_a_strange_name_stays_inside(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("../../evil", "a/b", "x" * 300, ".", "ppo[beta=0.1]"):
        assert home.scratch(name).parent == tmp_path / "scratch"
    assert home.scratch("a/b") != home.scratch("a_b")


def test_a_lock_keeps_threads_and_processes_out_until_its_holder_dies(tmp_path: Path) -> None:
    program = (
        "import sys, time; from storage.home import Home\n"
        "with Home(sys.argv[1]).lock('k'): print(1, flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout and holder.stdout.readline()
    home = Home(tmp_path)
    with pytest.raises(LockTimeout, match="still held"), home.lock("k", timeout=0.05):
        pass
    with home.lock("other", timeout=0):
        pass
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with home.lock("k", timeout=5):
        waiting = threading.Event()

        def take() -> None:
            with home.lock("k"):
                waiting.set()

        thread = threading.Thread(target=take)
        thread.start()
        assert not waiting.wait(0.1)
    assert waiting.wait(5)
    thread.join()


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    write_bytes(file, b"old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        write_bytes(file, b"new")
    assert file.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("root", "told"),
    [(" ", "is empty"), ("nosuch://me:secret@x/y", r"LIFESPAN_HOME=nosuch://\*\*\*@x/y: Protocol not known")],
)
def test_a_home_that_cannot_be_is_told(root: str, told: str) -> None:
    with pytest.raises(HomeError, match=told):
        Home(root)


@pytest.mark.parametrize(
    "name", ["a?b", "?", "50%", "100%25?", "a#b", "it's", 'sa"y', "two words", "naïve 日本", "a?b&c=d"]
)
def test_a_database_lies_in_its_home_whatever_that_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sqlalchemy

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    home = Home(tmp_path / name)
    home.local.mkdir()
    with sqlalchemy.create_engine(home.mlflow_uri).begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x INTEGER)"))
    assert [file.name for file in home.local.iterdir()] == ["mlflow.db"]
    assert [file.name for file in tmp_path.iterdir()] == [name]
