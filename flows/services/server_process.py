"""Servers that cannot outlive the process that started them: `python -m flows.services.server_process MODULE ARGS…`."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.services.access import LOCAL, Access
from flows.services.sockets import LOOPBACK, free_port, open_directly


class ServerFailed(RuntimeError):
    """A server ended or did not become healthy in time."""


@dataclass(frozen=True)
class Server:
    """A server process that we started.

    Attributes:
        name: what messages call it.
        url: its address for a browser.
        near: its address for processes of this machine.
        health: path that answers 200 once it is up.
        log: file with its output.
    """

    name: str
    url: str
    near: str
    health: str
    log: Path
    process: subprocess.Popen[bytes]

    def healthy(self) -> bool:
        try:
            with open_directly(self.near + self.health, timeout=2.0) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_healthy(self, timeout: float = 90.0) -> None:
        """Wait until it answers.

        Raises:
            ServerFailed: it ended, or `timeout` seconds passed; names the log.
        """
        deadline = time.monotonic() + timeout
        while not self.healthy():
            if (code := self.process.poll()) is not None:
                raise ServerFailed(f"{self.name} exited with code {code}; see {self.log}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{self.name} did not answer on {self.near} within {timeout:g} s; see {self.log}")
            time.sleep(0.1)

    def stop(self, patience: float = 2.0) -> None:
        """Stop it and its children."""
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(wait)
                break
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # what it left of its group


def start(
    name: str,
    arguments: Sequence[str],
    port: int,
    health: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    access: Access = LOCAL,
) -> Server:
    """Start `python -m …` as a server that ends with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.services.server_process", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                **(environment or {}),
                "PYTHONPATH": os.pathsep.join(paths),
                "LIFESPAN_PARENT": str(os.getpid()),
            },
            start_new_session=True,
        )
    return Server(name, access.page(port), access.near(port), health, log, process)


def prefect_api(log: Path) -> Server:
    """Prefect's API alone, on the database of PREFECT_HOME. Without its web pages it starts in 5 s."""
    port = free_port()
    environment = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    return start("Prefect's server", _prefect(port), port, "/api/health", log, environment)


def prefect_ui(log: Path, static: Path, port: int, access: Access = LOCAL) -> Server:
    """Prefect's API, scheduler and web pages. The pages are written to `static`: they contain the API's address."""
    environment = {
        **access.prefect_server(port),
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(static),
        "PREFECT__SERVER_FINAL": "1",
    }
    return start("Prefect", _prefect(port, access.host), port, "/api/health", log, environment, access)


def _prefect(port: int, host: str = LOOPBACK) -> list[str]:
    app = ["uvicorn", "--factory", "flows.services.access:prefect_app", "--log-level", "error", "--lifespan", "on"]
    return [*app, "--host", host, "--port", str(port)]


def mlflow_ui(log: Path, uri: str, files: Path, port: int, access: Access = LOCAL) -> Server:
    """MLflow's pages on the tracking database `uri`; `files` is the folder of the files that it shows with a run."""
    place = ["--backend-store-uri", uri, "--artifacts-destination", str(files)]
    net = ["--host", access.host, "--port", str(port), *access.mlflow_hosts(port), "--workers", "1"]
    authentication = ["--app-name", "basic-auth"] if access.token else []
    environment = access.mlflow_server(files.parent)
    return start(
        "MLflow",
        ["storage.mlflow_server", "server", *place, *net, *authentication],
        port,
        "/health",
        log,
        environment,
        access,
    )


def prefect_worker(log: Path, pool: str, name: str, port: int) -> Server:
    """A worker that runs what the server at PREFECT_API_URL schedules for a pool; `port` serves its health check."""
    net = {"PREFECT_WORKER_WEBSERVER_HOST": LOOPBACK, "PREFECT_WORKER_WEBSERVER_PORT": str(port)}
    options = ["--pool", pool, "--type", "process", "--name", name, "--with-healthcheck"]
    return start("worker", ["prefect", "worker", "start", *options], port, "/health", log, net)


def end_with(parent: int) -> None:
    """Wait until the parent ends, then kill this process with everything that it started."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with, args=(int(os.environ["LIFESPAN_PARENT"]),), daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
