"""The environment of our servers' clients: quiet, and past any proxy on this machine."""

from __future__ import annotations

import http.server
import os
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from flows.services import hermetic
from flows.services.sockets import open_directly

VARIABLES = [name for proxy in (*hermetic.PROXIES, "NO_PROXY") for name in (proxy, proxy.lower())]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back in the end
        monkeypatch.delenv(name)


@pytest.fixture
def address() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("proxy", [NOWHERE, "socks5://127.0.0.1:9", "socks://127.0.0.1:9"])
def test_loopback_is_reached_past_any_proxy(
    name: str, proxy: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, proxy)
    hermetic.apply(tmp_path)
    assert httpx.get(address, timeout=5).text == "here"
    with urllib.request.build_opener().open(address, timeout=5) as answer:
        assert answer.read() == b"here"
    with pytest.raises(httpx.HTTPError):  # all else still goes through it
        httpx.get("http://example.invalid", timeout=5)


def test_our_own_requests_need_no_exception(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", NOWHERE)
    with open_directly(address, timeout=5) as answer:
        assert answer.read() == b"here"


def test_what_the_user_excludes_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    monkeypatch.setenv("NO_PROXY", "intra.example, .corp")
    hermetic.apply(tmp_path)
    hermetic.past_proxy("10.0.0.5", "localhost")
    expected = "intra.example,.corp,localhost,127.0.0.1,::1,10.0.0.5"
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] == expected
    monkeypatch.setenv("no_proxy", "*")
    hermetic.past_proxy("10.0.0.6")
    assert os.environ["no_proxy"] == "*"


def test_without_a_proxy_nothing_is_set(tmp_path: Path) -> None:
    hermetic.apply(tmp_path)
    assert "NO_PROXY" not in os.environ and "no_proxy" not in os.environ


def test_the_database_of_prefect_lies_in_a_home_with_a_question_mark(tmp_path: Path) -> None:
    found = hermetic.settings(tmp_path / "a?b")["PREFECT_API_DATABASE_CONNECTION_URL"]
    assert found == f"sqlite+aiosqlite:///file:{tmp_path}/a%3Fb/prefect/prefect.db?uri=true"
    assert "PREFECT_API_DATABASE_CONNECTION_URL" not in hermetic.settings(tmp_path / "ab")
