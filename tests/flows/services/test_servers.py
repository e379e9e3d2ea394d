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
from flows.services.servers import newest_runs


class Tracking(BaseHTTPRequestHandler):
    """Answers a search of experiments as MLflow's server does."""

    experiments: ClassVar[list[dict[str, str]]] = []
    asked: ClassVar[list[tuple[str, str | None]]] = []
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(json.dumps({"experiments": self.experiments} if self.experiments else {}).encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Tracking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
    Tracking.experiments, Tracking.asked, Tracking.status = [], [], 200


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
