"""Where the pages open."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from flows.services.access import LOCAL, Access
from flows.services.servers import newest_runs, page_of_run


class Tracking(BaseHTTPRequestHandler):
    """Answers a search of experiments, and one of runs, as MLflow's server does."""

    runs: ClassVar[list[dict[str, object]]] = []

    experiments: ClassVar[list[dict[str, str]]] = []
    asked: ClassVar[list[tuple[str, str | None]]] = []
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps({"experiments": self.experiments} if self.experiments else {}).encode())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, json.dumps(body)))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps({"runs": self.runs} if self.runs else {}).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Tracking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    Tracking.experiments, Tracking.runs, Tracking.asked, Tracking.status = [], [], [], 200


def test_mlflow_opens_on_the_runs_of_the_profile_that_ran_last(address: str) -> None:
    Tracking.experiments = [{"experiment_id": "7", "name": "laptop"}]
    assert newest_runs(address, Access("0.0.0.0", "a-token-of-length")) == (
        "/#/experiments/7/runs?workflowType=machine_learning"
    )
    path, authorization = Tracking.asked[0]
    asked = parse_qs(urlsplit(path).query)
    assert asked == {"filter": ["name != 'Default'"], "order_by": ["last_update_time DESC"], "max_results": ["1"]}
    assert authorization is not None and authorization.startswith("Basic ")


def test_without_an_experiment_or_an_answer_it_opens_as_it_is(address: str) -> None:
    assert newest_runs(address, LOCAL) == ""
    Tracking.status = 500
    assert newest_runs(address, LOCAL) == ""
    assert newest_runs("http://127.0.0.1:9", LOCAL) == ""


def test_a_run_of_ours_is_found_in_mlflow_by_its_tag(address: str) -> None:
    Tracking.experiments = [{"experiment_id": "7"}, {"experiment_id": "8"}]
    assert page_of_run(address, "r'1", LOCAL) == ""  # MLflow does not have it
    Tracking.runs = [{"info": {"experiment_id": "8", "run_id": "abc"}}]
    assert page_of_run(address, "r'1", LOCAL) == f"{address}/#/experiments/8/runs/abc"
    path, body = Tracking.asked[-1]
    asked = json.loads(str(body))
    assert path == "/api/2.0/mlflow/runs/search" and asked["experiment_ids"] == ["7", "8"]
    assert "tags.`lifespan.run_id` = 'r1'" in asked["filter"]
    Tracking.status = 500
    assert page_of_run(address, "r1", LOCAL) == ""
