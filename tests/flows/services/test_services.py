"""`lifespan up`, `deploy`, `schedule` and `down` as a user types them: schedules create runs, the runs complete, what
is killed comes back or leaves nothing behind."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.runs.drift import cost_drift
from flows.runs.registry import end_flow_runs
from flows.services import services
from flows.services.access import LOCAL
from storage.home import Home

ROOT = Path(__file__).parents[3]
PROGRAM = "import sys; sys.argv[0] = 'lifespan'; from flows.commands.cli import app; app()"


def wait_until(true: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.5)
    return found


class User:
    """Types commands in a home of their own."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.environment = {**kept, "LIFESPAN_HOME": self.home.root, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def __call__(self, *arguments: str, code: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            cwd=ROOT,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        found = services.running(self.home)
        assert found
        request = urllib.request.Request(
            f"{found.prefect_api}/{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def processes(self) -> list[str]:
        """Command lines of living processes that belong to this home."""
        mark = f"LIFESPAN_HOME={self.home.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return [line for line in found if line]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    user = User(tmp_path)
    yield user
    user("down")


def test_without_a_server_deploy_says_how_to_start_one(tmp_path: Path) -> None:
    user = User(tmp_path)
    assert "no Prefect server: start one with `lifespan up`" in user("schedule", "list", code=2)
    assert "nothing was running" in user("down")


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize(("name", "ends"), [("prefect.engine", True), ("lifespan", False)])
def test_down_ends_the_run_that_a_killed_worker_left_and_no_run_of_a_terminal(
    home: Home, name: str, ends: bool
) -> None:
    board = home.local / "running" / "r1" / "board.json"
    board.parent.mkdir(parents=True)
    program = (
        "import json, os, pathlib, sys, time; from storage.home import Home\n"
        "with Home(sys.argv[1]).lock('run-r1'):\n"
        "    pathlib.Path(sys.argv[2]).write_text(json.dumps({'pid': os.getpid()})); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, home.root, str(board), name], cwd=ROOT)
    try:
        wait_until(board.exists, 30)
        assert bool(end_flow_runs(home)) is ends
        if ends:
            process.wait(10)
        assert (process.poll() is not None) is ends
    finally:
        process.kill()
        process.wait()


# Stands for the supervisor: takes its lock, is a second from up, and then tells where it is.
SUPERVISOR = """
import os, sys, time
from flows.services import services
from flows.services.access import LOCAL
from storage.home import Home
home = Home(sys.argv[1])
with home.lock("services", timeout=0):
    services._write_state(home, LOCAL, ())
    time.sleep(float(sys.argv[2]))
    services._write_state(home, LOCAL, [services.Service("Prefect", "http://127.0.0.1:2", 2)])
    time.sleep(60)
"""


@pytest.fixture
def starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that `services.up` took for supervisors; a second passes until each is up."""
    started: list[subprocess.Popen[bytes]] = []

    def popen(arguments: Any, **rest: Any) -> subprocess.Popen[bytes]:
        wait = "60" if (home.local / "never").exists() else "1"
        started.append(real([sys.executable, "-c", SUPERVISOR, home.root, wait], env=rest["env"]))
        return started[-1]

    real = subprocess.Popen
    monkeypatch.setattr(services.subprocess, "Popen", popen)
    yield started
    for process in started:
        process.kill()
        process.wait()


def test_addresses_of_a_group_that_was_killed_do_not_pass_for_the_next(
    home: Home, starts: list[subprocess.Popen[bytes]]
) -> None:
    services._write_state(home, LOCAL, [services.Service("Prefect", "http://127.0.0.1:1", 1)])
    assert services.running(home) is None
    found = services.up(home, lambda text: None, LOCAL)
    assert [service.url for service in found.services] == ["http://127.0.0.1:2"]


def test_two_that_are_told_to_be_up_at_once_are_up_as_one(home: Home, starts: list[subprocess.Popen[bytes]]) -> None:
    found: list[services.Running] = []
    threads = [
        threading.Thread(target=lambda: found.append(services.up(home, lambda text: None, LOCAL))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts) == 2 and len(found) == 2
    assert found[0] == found[1]


def test_what_is_still_starting_is_ended_by_down_and_by_ctrl_c(
    home: Home, starts: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home.local.mkdir(exist_ok=True)
    (home.local / "never").touch()
    pauses: list[float] = []

    def interrupt(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(services.time, "sleep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            services.up(home, lambda text: None, LOCAL)
    assert starts[0].wait(10) == -signal.SIGTERM
    second = services.subprocess.Popen([], env=dict(os.environ))
    wait_until(lambda: services._found(home), 30)
    assert services.running(home) is None
    assert services.down(home)
    assert second.wait(10) == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_schedule_makes_runs_that_complete_and_down_leaves_nothing(user: User) -> None:
    assert "http://127.0.0.1:" in user("up")
    first = services.running(user.home)
    assert first
    user("up")
    assert services.running(user.home) == first  # reused

    assert "lifecycle/lifespan" in user("deploy", "smoke")
    limits = {limit["name"]: limit["limit"] for limit in user.ask("v2/concurrency_limits/filter", {})}
    assert limits["accelerator"] == 1
    assert "there is no flow 'dat'" in user("schedule", "add", "dat", "--cron", "0 2 * * *", code=2)
    assert "has 3 fields; it takes five" in user("schedule", "add", "data", "--cron", "0 2 *", code=2)
    assert user("schedule", "add", "data", "--every", "30", "--profile", "smoke", "--name", "soon").strip() == "soon"
    assert "reasoning" in user("schedule", "list")

    def completed() -> list[Any]:
        wanted = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        found: list[Any] = user.ask("flow_runs/filter", wanted)
        return found

    wait_until(completed, 300)
    user("schedule", "pause", "soon")
    (line,) = [line for line in user("schedule", "list").splitlines() if line.startswith("soon")]
    assert line.split()[-2:] == ["paused", "smoke"]
    user("schedule", "resume", "soon")
    (line,) = [line for line in user("schedule", "list").splitlines() if line.startswith("soon")]
    assert line.split()[-2:] == ["active", "smoke"]
    user("schedule", "remove", "soon")
    assert "soon" not in user("schedule", "list")
    tasks = {task["name"] for task in user.ask("task_runs/filter", {})}
    assert {"prepare_corpus", "train_tokenizer", "tokenize", "make_conversations"} <= tasks
    assert any(row["profile"] == "smoke" for row in user.home.tables.read("runs").to_pylist())

    # One deployment started twice: the second run waits for the first, and makes nothing again.
    (deployment,) = user.ask("deployments/filter", {"flows": {"name": {"any_": ["data"]}}})
    twice = [user.ask(f"deployments/{deployment['id']}/create_flow_run", {})["id"] for _ in range(2)]

    def both() -> list[Any]:
        runs: list[Any] = user.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": twice}}})
        return runs if {run["state_type"] for run in runs} == {"COMPLETED"} else []

    one, other = sorted(wait_until(both, 300), key=lambda run: str(run["start_time"]))
    assert one["end_time"] <= other["start_time"]
    ran = [row["key"] for row in user.home.tables.read("stages").to_pylist() if row["status"] == "ran"]
    assert len(ran) == len(set(ran)) >= 4

    # A service that is killed is started again by its keeper.
    mlflow = next(service for service in first.services if service.name == "MLflow")
    os.kill(mlflow.pid, signal.SIGKILL)

    def back() -> bool:
        now = services.running(user.home)
        return now is not None and any(s.name == "MLflow" and s.restarts == 1 for s in now.services)

    wait_until(back, 60)
    assert user("down").strip() == "ended"
    wait_until(lambda: not user.processes(), 30)


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The address of a webhook that has a secret in it, and what was posted there; it answers with an error."""
    posted: list[dict[str, str]] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_error(404)

        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", posted
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_scheduled_run_that_fails_is_told_and_no_secret_of_it_stays(
    user: User, told: tuple[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    address, posted = told
    secrets = [f"planted-{what}-61d0" for what in ("hook-path", "hook-token", "password", "parameter", "s3-secret")]
    path, token, password, parameter, s3 = secrets
    user.environment |= {"LIFESPAN_WEBHOOK": f"{address}/{path}?token={token}", "AWS_SECRET_ACCESS_KEY": s3}
    mine = tmp_path / "mine.toml"
    source = f"{address.replace('//', f'//me:{password}@')}/notes.jsonl?token={parameter}"
    mine.write_text(f'extends = "smoke"\nname = "mine"\n[data]\nown = ["{source}"]\n')
    user("up")
    user("deploy", str(mine))
    del user.environment["LIFESPAN_WEBHOOK"]
    user("deploy", "smoke")  # the address stays
    user("schedule", "add", "data", "--every", "45", "--profile", str(mine), "--name", "soon")
    # Prefect's own event of a scheduled run's failure counts a quarter of an hour late.
    wait_until(lambda: posted, 240)
    user("schedule", "pause", "soon")
    assert posted[0]["event"] == "lifespan.run.failed"
    assert posted[0]["text"].startswith(f"data {mine}: ")
    assert "***@127.0.0.1" in posted[0]["text"]
    commands = user.processes()
    assert commands and not [line for line in commands for secret in secrets if secret in line]
    shown = user("status") + user("schedule", "list") + user("doctor")
    user("down")
    files = [file for file in user.home.local.rglob("*") if file.is_file()]
    assert {"prefect.db", "mlflow.db", "prefect-ui.log", "worker.log"} <= {file.name for file in files}
    found = {str(f): [s for s in secrets if s.encode() in f.read_bytes()] for f in files}
    assert {file: secrets for file, secrets in found.items() if secrets} == {}
    assert not [secret for secret in secrets if secret in shown + str(posted)]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killing_the_supervisor_ends_the_whole_group(user: User) -> None:
    user("up")
    found = services.running(user.home)
    assert found
    os.kill(found.pid, signal.SIGKILL)
    wait_until(lambda: not user.processes(), 30)
    assert services.running(user.home) is None


def test_drift_compares_with_what_the_same_stages_cost_before(tmp_path: Path) -> None:
    import datetime

    home, began = Home(tmp_path), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)

    def run(number: int, **usd: float) -> str:
        run_id, at = f"run-{number}", began + datetime.timedelta(hours=number)
        event = {"run_id": run_id, "profile": "laptop", "name": "n"}
        home.tables.write("runs", f"{run_id}-s", [{**event, "event": "started", "status": "running", "time": at}])
        home.tables.write("runs", f"{run_id}-e", [{**event, "event": "ended", "status": "completed", "time": at}])
        for label, dollars in usd.items():
            key = f"{number}{label}".ljust(64, "0")
            stage = {"run_id": run_id, "stage": label, "label": label, "key": key, "group": "data", "status": "ran"}
            home.tables.write("stages", key, [{**stage, "started_at": at, "ended_at": at}])
            home.tables.write("costs", key, [{"run_id": run_id, "key": key, "stage": label, "usd": dollars}])
        return run_id

    for number, dollars in enumerate((1.0, 2.0, 3.0)):
        run(number, train=dollars)
    assert cost_drift(home, run(3, train=2.4, other=99.0)) is None  # what never ran before is no drift
    drift = cost_drift(home, run(4, train=4.4))
    assert drift is not None
    assert (drift.paid, drift.usual, drift.num_stages) == (4.4, pytest.approx(2.2), 1)
    assert drift.ratio == pytest.approx(2.0)
