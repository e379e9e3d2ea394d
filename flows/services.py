"""`lifespan up` and `lifespan down`: what a single machine needs to run lives on a schedule, as one supervised group.

A supervisor process of its own starts Prefect's server, a worker of the pool `lifespan` and MLflow's server, starts
again what ends, and ends all of them when it is told to or dies. It holds the lock `services` of the home as long as it
lives, and tells in `services.json` what runs where.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flows import child, hermetic
from flows.servers import MLFLOW_PORT, PREFECT_PORT
from storage.durable import LockTimeout, write_bytes
from storage.home import Home

POOL = "lifespan"
START_SECONDS = 300.0  # for all of them, on a machine that is busy
STOP_SECONDS = 20.0
LONGEST_PAUSE = 60.0  # between two starts of a service that keeps ending


@dataclass(frozen=True)
class Service:
    """One service as `services.json` tells of it. url: its page, empty for a worker. restarts: how often it ended."""

    name: str
    url: str
    pid: int
    restarts: int = 0


@dataclass(frozen=True)
class Running:
    """The group that runs in a home."""

    pid: int
    services: tuple[Service, ...]

    @property
    def prefect_api(self) -> str:
        return next(f"{s.url}/api" for s in self.services if s.name == "Prefect")


def running(home: Home) -> Running | None:
    """The group of this home if it is up and has told where."""
    with contextlib.suppress(LockTimeout), home.lock("services", timeout=0):
        return None
    try:
        told = json.loads(_state(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Running(told["pid"], tuple(Service(**service) for service in told["services"]))


def up(home: Home, say: Callable[[str], None]) -> Running:
    """Start the group unless it runs, and wait until it is healthy.

    Raises:
        child.ServerFailed: it ended or did not get healthy; names its log.
    """
    log = home.local / "logs" / "services.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    found = running(home)
    if found is None:
        say("starting Prefect's server, a worker, and MLflow (about 30 s)")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.services"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "LIFESPAN_HOME": home.root, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        deadline = time.monotonic() + START_SECONDS
        while (found := running(home)) is None:
            if (code := process.poll()) is not None:
                raise child.ServerFailed(f"the services ended with exit code {code}; see {log}")
            if time.monotonic() > deadline:
                process.terminate()
                raise child.ServerFailed(f"the services were not up within {START_SECONDS:g} s; see {log}")
            time.sleep(0.2)
    return found


def down(home: Home) -> bool:
    """End the group; False when none ran."""
    found = running(home)
    if found is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(found.pid, signal.SIGTERM)
    try:
        with home.lock("services", timeout=STOP_SECONDS):
            return True
    except LockTimeout:  # its children end when it is gone
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGKILL)
        with home.lock("services", timeout=STOP_SECONDS):
            _state(home).unlink(missing_ok=True)
            return True


def join(home: Home) -> bool:
    """Let this process use the Prefect server of a group that runs here; False when there is none."""
    found = running(home)
    if found is not None:
        os.environ.setdefault("PREFECT_API_URL", found.prefect_api)
    return found is not None


def _state(home: Home) -> Path:
    return home.local / "services.json"


# --- the supervisor ------------------------------------------------------------------------------------------------


def supervise(home: Home) -> None:
    """Start the services, tell of them, keep them up, until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(0))
    hermetic.apply(home.local)
    with home.lock("services", timeout=0), ExitStack() as stack:
        stack.callback(lambda: _state(home).unlink(missing_ok=True))
        keepers = []
        for keeper in _keepers(home):
            stack.callback(keeper.stop)
            keeper.server.wait_healthy(START_SECONDS)
            print(f"{keeper.server.name} is up at {keeper.server.url}", flush=True)
            keepers.append(keeper)
        told: list[Service] = []
        while True:
            now = [keeper.look() for keeper in keepers]
            if now != told:
                told = now
                services = [dataclasses.asdict(service) for service in told]
                write_bytes(_state(home), json.dumps({"pid": os.getpid(), "services": services}, indent=1).encode())
            time.sleep(0.5)


class Keeper:
    """Keeps one service up: what ended is started again, after a pause that doubles while it keeps ending."""

    def __init__(self, start: Callable[[], child.Server], page: bool) -> None:
        self._start, self._page = start, page
        self.server = start()
        self._restarts, self._pause, self._due = 0, 1.0, 0.0

    def look(self) -> Service:
        """Start it again if it ended and the pause is over; what to tell of it."""
        code, now = self.server.process.poll(), time.monotonic()
        if code is not None and not self._due:
            print(f"{self.server.name} ended with exit code {code}; next start in {self._pause:g} s", flush=True)
            self.server.stop()  # what it left of its group
            self._due = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        elif code is not None and now >= self._due:
            self.server, self._due = self._start(), 0.0
            self._restarts += 1
        url = self.server.url if self._page else ""
        return Service(self.server.name, url, self.server.process.pid, self._restarts)

    def stop(self) -> None:
        self.server.stop(patience=5.0)


def _keepers(home: Home) -> Iterator[Keeper]:
    """The services, each started when the one before is healthy."""
    logs = home.local / "logs"
    if "PREFECT_API_URL" not in os.environ:
        port = child.free_port(PREFECT_PORT)
        yield Keeper(lambda: child.prefect_ui(logs / "prefect-ui.log", home.local / "prefect" / "ui", port), page=True)
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    make_pool()
    health = child.free_port()
    yield Keeper(lambda: child.prefect_worker(logs / "worker.log", POOL, socket.gethostname(), health), page=False)
    if not home.mlflow_uri.startswith(("http://", "https://")):
        files = home.mlflow_artifacts
        files.mkdir(parents=True, exist_ok=True)
        mlflow_port = child.free_port(MLFLOW_PORT)
        yield Keeper(lambda: child.mlflow_ui(logs / "mlflow-ui.log", home.mlflow_uri, files, mlflow_port), page=True)


def make_pool() -> None:
    """The process pool whose worker runs deployments: one flow run at a time, as the machine is one."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))


if __name__ == "__main__":
    supervise(Home.from_env())
