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
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flows.services import hermetic, server_process
from flows.services.access import LOOPBACK, TOKEN_VARIABLE, Access, read_token
from flows.services.servers import MLFLOW_PORT, PREFECT_PORT
from flows.settings import ConfigError
from storage.durable import LockTimeout, write_bytes
from storage.home import Home

POOL = "lifespan"
START_SECONDS = 300.0  # for all of them, on a machine that is busy
STOP_SECONDS = 20.0
LOOK_SECONDS = 2.0  # who only looks whether a group is up holds its lock for less
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
    """The group that runs in a home. prefect_api: for this machine. host: where it listens. asks: for a token."""

    pid: int
    services: tuple[Service, ...]
    prefect_api: str
    host: str = LOOPBACK
    asks: bool = False


def running(home: Home) -> Running | None:
    """The group of this home if it is up and has told where."""
    found = _found(home)
    return found if found and found.services else None


def _found(home: Home) -> Running | None:
    """The group of this home; without services as long as it starts."""
    if not _is_supervised(home):
        return None
    try:
        told = json.loads(_state(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Running(**{**told, "services": tuple(Service(**service) for service in told["services"])})


def _is_supervised(home: Home) -> bool:
    with contextlib.suppress(LockTimeout), home.lock("services", timeout=0):
        return False
    return True


def up(home: Home, say: Callable[[str], None], access: Access) -> Running:
    """Start the group unless it runs, and wait until it is healthy.

    Raises:
        server_process.ServerFailed: it ended or did not get healthy; names its log.
        ConfigError: as `suits`.
    """
    log = home.local / "logs" / "services.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    found = running(home)
    if found is not None:
        suits(found, access)
    else:
        server_process.free_port(host=access.host)  # an address of this machine?
        with contextlib.suppress(LockTimeout), home.lock("services", timeout=0):
            _state(home).unlink(missing_ok=True)  # of a group that was killed: its addresses must not pass for the next
        say("starting Prefect's server, a worker, and MLflow (about 30 s)")
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.services.services", access.host],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={
                    **os.environ,
                    **({TOKEN_VARIABLE: access.token} if access.token else {}),
                    "LIFESPAN_HOME": home.root,
                    "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                },
            )
        deadline = time.monotonic() + START_SECONDS
        try:
            while (found := running(home)) is None:
                # another `up` may have been first: then wait for its group
                if (code := process.poll()) is not None and not _is_supervised(home):
                    raise server_process.ServerFailed(f"the services ended with exit code {code}; see {log}")
                if time.monotonic() > deadline:
                    raise server_process.ServerFailed(f"the services were not up within {START_SECONDS:g} s; see {log}")
                time.sleep(0.2)
        except BaseException:  # Ctrl-C too: nothing is left half up
            process.terminate()
            raise
        suits(found, access)
    return found


def suits(found: Running, access: Access) -> Running:
    """The group that is up, if it gives what is asked for.

    Raises:
        ConfigError: it listens on another address than the one given, or asks for no token where one is given.
    """
    if access.host not in (LOOPBACK, found.host) or (access.token and not found.asks):
        asks = "asks for a token" if found.asks else "asks for no token"
        raise ConfigError(f"what is up listens on {found.host} and {asks}: `lifespan down` first")
    return found


def down(home: Home) -> bool:
    """End the group; False when there was none."""
    found = _found(home)
    if found is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
        try:
            with home.lock("services", timeout=STOP_SECONDS):
                pass
        except LockTimeout:  # its children end when it is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
            with home.lock("services", timeout=STOP_SECONDS):
                _state(home).unlink(missing_ok=True)
    return found is not None


def join(home: Home) -> bool:
    """Let this process use the Prefect server of a group that runs here; False when there is none.

    Raises:
        ConfigError: it asks for a token, and LIFESPAN_TOKEN is not the one.
    """
    found = running(home)
    if found is None:
        return False
    if found.asks and "PREFECT_API_URL" not in os.environ:
        access = Access(token=read_token())
        if not _opens(found.prefect_api, access):
            what = "is not their token" if access.token else "is not set"
            raise ConfigError(f"the services of this home ask for a token, and {TOKEN_VARIABLE} {what}")
        for name, value in access.prefect_client().items():
            os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_API_URL", found.prefect_api)
    return True


def _opens(api: str, access: Access) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{api}/version", headers=access.header), timeout=10):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)
    except OSError:
        return True  # not the token's fault: whoever calls it next says what is wrong


def _state(home: Home) -> Path:
    return home.local / "services.json"


# --- the supervisor ------------------------------------------------------------------------------------------------


def supervise(home: Home, access: Access) -> None:
    """Start the services, tell of them, keep them up, until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(0))
    hermetic.apply(home.local)
    os.environ.update(access.prefect_client())
    with home.lock("services", timeout=LOOK_SECONDS), ExitStack() as stack:
        stack.callback(lambda: _state(home).unlink(missing_ok=True))
        _tell(home, access, ())  # so that `down` finds it from the first
        keepers = []
        for keeper in _keepers(home, access):
            stack.callback(keeper.stop)
            keeper.server.wait_healthy(START_SECONDS)
            print(f"{keeper.server.name} is up at {keeper.server.url}", flush=True)
            keepers.append(keeper)
        told: list[Service] = []
        while True:
            now = [keeper.look() for keeper in keepers]
            if now != told:
                told = now
                _tell(home, access, told)
            time.sleep(0.5)


def _tell(home: Home, access: Access, services: Sequence[Service]) -> None:
    api = os.environ.get("PREFECT_API_URL", "")
    state = Running(os.getpid(), tuple(services), api, access.host, bool(access.token))
    write_bytes(_state(home), json.dumps(dataclasses.asdict(state), indent=1).encode())


class Keeper:
    """Keeps one service up: what ended is started again, after a pause that doubles while it keeps ending."""

    def __init__(self, start: Callable[[], server_process.Server], page: bool) -> None:
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


def _keepers(home: Home, access: Access) -> Iterator[Keeper]:
    """The services, each started when the one before is healthy."""
    logs = home.local / "logs"
    if "PREFECT_API_URL" not in os.environ:
        port, static = server_process.free_port(PREFECT_PORT, access.host), home.local / "prefect" / "ui"
        yield Keeper(lambda: server_process.prefect_ui(logs / "prefect-ui.log", static, port, access), page=True)
        os.environ["PREFECT_API_URL"] = f"{access.near(port)}/api"
    make_pool()
    health = server_process.free_port()
    yield Keeper(
        lambda: server_process.prefect_worker(logs / "worker.log", POOL, socket.gethostname(), health), page=False
    )
    if not home.mlflow_uri.startswith(("http://", "https://")):
        uri, files = home.mlflow_uri, home.mlflow_artifacts
        files.mkdir(parents=True, exist_ok=True)
        mlflow_port = server_process.free_port(MLFLOW_PORT, access.host)
        yield Keeper(
            lambda: server_process.mlflow_ui(logs / "mlflow-ui.log", uri, files, mlflow_port, access), page=True
        )


def make_pool() -> None:
    """The process pool whose worker runs deployments: one flow run at a time, as the machine is one."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))


if __name__ == "__main__":
    supervise(Home.from_env(), Access(sys.argv[1], read_token()))
