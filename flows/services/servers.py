"""`lifespan ui`: the pages of MLflow and Prefect, on the databases of a home."""

from __future__ import annotations

import json
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from flows.services import hermetic, server_process
from flows.services.access import LOCAL, Access, access_notes
from flows.services.sockets import free_port, open_directly
from storage.home import Home
from storage.redaction import masked

MLFLOW_PORT, PREFECT_PORT = 5000, 4200


@contextmanager
def pages(home: Home, show: Callable[[str], None], access: Access = LOCAL) -> Iterator[list[server_process.Server]]:
    """Start both servers side by side, wait until both answer, and stop them when the block ends.

    Raises:
        server_process.ServerFailed: one exited or did not answer; names its log.
    """
    hermetic.apply(home.local)
    logs = home.local / "logs"
    servers: list[server_process.Server] = []
    with ExitStack() as stack:
        if home.mlflow_uri.startswith(("http://", "https://")):
            show(f"MLflow  {masked(home.mlflow_uri)} (your tracking server)")
        else:
            port = free_port(MLFLOW_PORT, access.host)
            files = home.mlflow_artifacts
            files.mkdir(parents=True, exist_ok=True)
            servers.append(server_process.mlflow_ui(logs / "mlflow-ui.log", home.mlflow_uri, files, port, access))
            stack.callback(servers[-1].stop)
        if "PREFECT_API_URL" in os.environ:
            show(f"Prefect {masked(os.environ['PREFECT_API_URL'].removesuffix('/api'))} (your server)")
        else:
            port = free_port(PREFECT_PORT, access.host)
            static = home.local / "prefect" / "ui"
            servers.append(server_process.prefect_ui(logs / "prefect-ui.log", static, port, access))
            stack.callback(servers[-1].stop)
        for server in servers:
            server.wait_healthy()
            place = newest_runs(server.near, access) if server.name == "MLflow" else ""
            show(f"{server.name:7} {server.url}{place}")
        yield servers


def newest_runs(mlflow: str, access: Access) -> str:
    """MLflow's page with the runs of the profile that ran last; "" when there are none or MLflow does not answer.

    MLflow's start page, and the one that an experiment opens with, are about traces of applications.
    """
    wanted = {"filter": "name != 'Default'", "order_by": "last_update_time DESC", "max_results": "1"}
    address = f"{mlflow}/api/2.0/mlflow/experiments/search?{urllib.parse.urlencode(wanted)}"
    try:
        with open_directly(_request(address, access), timeout=5.0) as answer:
            found = json.load(answer).get("experiments", [])
            return f"/#/experiments/{found[0]['experiment_id']}/runs?workflowType=machine_learning" if found else ""
    except (OSError, ValueError, LookupError):
        return ""


def page_of_run(mlflow: str, run_id: str, access: Access) -> str:
    """The address of a run of ours in MLflow; "" when it has none of that id or does not answer."""
    api = f"{mlflow}/api/2.0/mlflow"
    quoted = run_id.replace("'", "")
    try:
        with open_directly(_request(f"{api}/experiments/search?max_results=1000", access), timeout=5.0) as answer:
            experiments = [one["experiment_id"] for one in json.load(answer).get("experiments", [])]
        wanted = f"tags.`lifespan.run_id` = '{quoted}' AND tags.`lifespan.level` = 'run'"
        asked = {"experiment_ids": experiments, "filter": wanted, "max_results": 1}
        with open_directly(_request(f"{api}/runs/search", access, asked), timeout=5.0) as answer:
            (run, *_) = json.load(answer).get("runs", [])
            return f"{mlflow}/#/experiments/{run['info']['experiment_id']}/runs/{run['info']['run_id']}"
    except (OSError, ValueError, LookupError):
        return ""


def _request(address: str, access: Access, body: object = None) -> urllib.request.Request:
    content = None if body is None else json.dumps(body).encode()
    kind = {} if body is None else {"Content-Type": "application/json"}
    return urllib.request.Request(address, data=content, headers={**access.header, **kind})


def serve_pages(home: Home, show: Callable[[str], None], access: Access = LOCAL) -> None:
    """Serve the pages until Ctrl-C, or until one of the servers exits."""
    show("starting the servers (about 15 s)")
    with pages(home, show, access) as servers:
        for line in access_notes(access.host, bool(access.token)):
            show(line)
        show("press Ctrl-C to stop " + ("both" if len(servers) == 2 else "it"))
        while servers:
            for server in servers:
                if (code := server.process.poll()) is not None:
                    raise server_process.ServerFailed(f"{server.name} exited with code {code}; see {server.log}")
            time.sleep(0.5)
