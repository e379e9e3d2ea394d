"""`lifespan up` and `lifespan down`: what one machine needs to run flows on a schedule, as one supervised group.

A supervisor process starts Prefect's server, a worker of the pool `lifespan` and MLflow's server, restarts whichever
exits, and stops all of them when it is stopped or dies. It holds the lock `services` of the home while it lives, and
writes to `services.json` what runs where.
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
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from flows.services import hermetic, server_process
from flows.services.access import TOKEN_VARIABLE, Access, read_token
from flows.services.servers import MLFLOW_PORT, PREFECT_PORT
from flows.services.sockets import LOOPBACK, free_port, open_directly
from flows.settings import ConfigError
from storage.durable import LockTimeout, write_bytes
from storage.home import Home

POOL = "lifespan"
START_SECONDS = 300.0  # for all of them, on a machine that is busy
STOP_SECONDS = 20.0
LOOK_SECONDS = 2.0  # checking whether a group is up holds its lock for less
MAX_PAUSE = 60.0  # between two restarts of a service that keeps exiting


@dataclass(frozen=True)
class Service:
    """One service as listed in `services.json`. url: its page, empty for a worker. restarts: how often it exited."""

    name: str
    url: str
    pid: int
    restarts: int = 0


@dataclass(frozen=True)
class Running:
    """The group that runs in a home. prefect_api: URL for this machine. host: where it listens. needs_token: clients
    must present one."""

    pid: int
    services: tuple[Service, ...]
    prefect_api: str
    host: str = LOOPBACK
    needs_token: bool = False


def running(home: Home) -> Running | None:
    """The group of this home if it is up and has written where."""
    found = _found(home)
    return found if found and found.services else None


def _found(home: Home) -> Running | None:
    """The group of this home; it has no services while it starts."""
    if not _is_supervised(home):
        return None
    try:
        state = json.loads(_state(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Running(**{**state, "services": tuple(Service(**service) for service in state["services"])})


def _is_supervised(home: Home) -> bool:
    with contextlib.suppress(LockTimeout), home.lock("services", timeout=0):
        return False
    return True


def up(home: Home, show: Callable[[str], None], access: Access) -> Running:
    """Start the group unless it runs, and wait until it is healthy.

    Raises:
        server_process.ServerFailed: it exited or did not become healthy; names its log.
        ConfigError: as `check_access`.
    """
    log = home.local / "logs" / "services.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    found = running(home)
    if found is not None:
        check_access(found, access)
    else:
        free_port(host=access.host)  # fails now if the address does not belong to this machine
        with contextlib.suppress(LockTimeout), home.lock("services", timeout=0):
            # A file of a killed group: its URLs must not be mistaken for those of the new one.
            _state(home).unlink(missing_ok=True)
        show("starting Prefect's server, a worker, and MLflow (about 30 s)")
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
                # another `up` may have been faster: then wait for its group
                if (code := process.poll()) is not None and not _is_supervised(home):
                    raise server_process.ServerFailed(f"the services exited with code {code}; see {log}")
                if time.monotonic() > deadline:
                    raise server_process.ServerFailed(f"the services were not up within {START_SECONDS:g} s; see {log}")
                time.sleep(0.2)
        except BaseException:  # Ctrl-C too: nothing is left half up
            process.terminate()
            raise
        check_access(found, access)
    return found


def check_access(found: Running, access: Access) -> Running:
    """The running group, if it provides the access that is requested.

    Raises:
        ConfigError: it listens on another address than the one given, or requires no token although one is given.
    """
    if access.host not in (LOOPBACK, found.host) or (access.token and not found.needs_token):
        token = "requires a token" if found.needs_token else "requires no token"
        raise ConfigError(f"the running services listen on {found.host} and {token}: run `lifespan down` first")
    return found


def down(home: Home) -> bool:
    """Stop the group; False when there was none."""
    found = _found(home)
    if found is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
        try:
            with home.lock("services", timeout=STOP_SECONDS):
                pass
        except LockTimeout:  # its children exit when it is gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.pid, signal.SIGKILL)
            with home.lock("services", timeout=STOP_SECONDS):
                _state(home).unlink(missing_ok=True)
    return found is not None


def join(home: Home) -> bool:
    """Let this process use the Prefect server of the group that runs here; False when there is none.

    Raises:
        ConfigError: it requires a token, and LIFESPAN_TOKEN is unset or another one.
    """
    found = running(home)
    if found is None:
        return False
    if found.needs_token and "PREFECT_API_URL" not in os.environ:
        access = Access(token=read_token())
        if not _is_accepted(found.prefect_api, access):
            what = "holds another one" if access.token else "is not set"
            raise ConfigError(f"the services of this home require a token, and {TOKEN_VARIABLE} {what}")
        for name, value in access.prefect_client().items():
            os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_API_URL", found.prefect_api)
    hermetic.past_proxy(_host_of(found.prefect_api))
    return True


def _host_of(url: str) -> str:
    return urllib.parse.urlsplit(url).hostname or LOOPBACK


def _is_accepted(api: str, access: Access) -> bool:
    try:
        with open_directly(urllib.request.Request(f"{api}/version", headers=access.header), timeout=10):
            return True
    except urllib.error.HTTPError as error:
        return error.code not in (401, 403)
    except OSError:
        return True  # the token is not to blame: whoever calls the server next reports what is wrong


def _state(home: Home) -> Path:
    return home.local / "services.json"


# --- the supervisor ------------------------------------------------------------------------------------------------


def supervise(home: Home, access: Access) -> None:
    """Start the services, write where they are, and keep them up until SIGTERM or SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(0))
    hermetic.apply(home.local)
    os.environ.update(access.prefect_client())
    with home.lock("services", timeout=LOOK_SECONDS), ExitStack() as stack:
        stack.callback(lambda: _state(home).unlink(missing_ok=True))
        _write_state(home, access, ())  # so that `down` finds it from the start
        keepers = []
        for keeper in _keepers(home, access):
            stack.callback(keeper.stop)
            keeper.server.wait_healthy(START_SECONDS)
            print(f"{keeper.server.name} is up at {keeper.server.url}", flush=True)
            keepers.append(keeper)
        written: list[Service] = []
        while True:
            now = [keeper.look() for keeper in keepers]
            if now != written:
                written = now
                _write_state(home, access, written)
            time.sleep(0.5)


def _write_state(home: Home, access: Access, services: Sequence[Service]) -> None:
    api = os.environ.get("PREFECT_API_URL", "")
    state = Running(os.getpid(), tuple(services), api, access.host, bool(access.token))
    write_bytes(_state(home), json.dumps(dataclasses.asdict(state), indent=1).encode())


class Keeper:
    """Keeps one service up: restarts it when it exits, after a pause that doubles while it keeps exiting."""

    def __init__(self, start: Callable[[], server_process.Server], page: bool) -> None:
        self._start, self._page = start, page
        self.server = start()
        self._restarts, self._pause, self._due = 0, 1.0, 0.0

    def look(self) -> Service:
        """Restart the service if it exited and the pause is over; its state for `services.json`."""
        code, now = self.server.process.poll(), time.monotonic()
        if code is not None and not self._due:
            print(f"{self.server.name} exited with code {code}; restarting in {self._pause:g} s", flush=True)
            self.server.stop()  # what it left of its group
            self._due = now + self._pause
            self._pause = min(2 * self._pause, MAX_PAUSE)
        elif code is not None and now >= self._due:
            self.server, self._due = self._start(), 0.0
            self._restarts += 1
        url = self.server.url if self._page else ""
        return Service(self.server.name, url, self.server.process.pid, self._restarts)

    def stop(self) -> None:
        self.server.stop(patience=5.0)


def _keepers(home: Home, access: Access) -> Iterator[Keeper]:
    """The services; each is started when the one before is healthy."""
    logs = home.local / "logs"
    if "PREFECT_API_URL" not in os.environ:
        port, static = free_port(PREFECT_PORT, access.host), home.local / "prefect" / "ui"
        yield Keeper(lambda: server_process.prefect_ui(logs / "prefect-ui.log", static, port, access), page=True)
        os.environ["PREFECT_API_URL"] = f"{access.near(port)}/api"
        hermetic.past_proxy(_host_of(os.environ["PREFECT_API_URL"]))
    make_pool()
    health = free_port()
    yield Keeper(
        lambda: server_process.prefect_worker(logs / "worker.log", POOL, socket.gethostname(), health), page=False
    )
    if not home.mlflow_uri.startswith(("http://", "https://")):
        uri, files = home.mlflow_uri, home.mlflow_artifacts
        files.mkdir(parents=True, exist_ok=True)
        mlflow_port = free_port(MLFLOW_PORT, access.host)
        yield Keeper(
            lambda: server_process.mlflow_ui(logs / "mlflow-ui.log", uri, files, mlflow_port, access), page=True
        )


def make_pool() -> None:
    """The process pool whose worker runs deployments: one flow run at a time, because there is one machine."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=1))


if __name__ == "__main__":
    supervise(Home.from_env(), Access(sys.argv[1], read_token()))
