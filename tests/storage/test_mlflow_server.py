"""MLflow's application with its Assistant closed, behind no network: what passes, what is refused, what is added."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from storage.mlflow_server import CLOSED, POLICY, guarded

PAGE = b"<html><head><title>MLflow</title></head><body></body></html>"


async def inner(scope: Any, receive: Any, send: Any) -> None:
    html = not scope["path"].startswith("/api")
    kind = b"text/html; charset=utf-8" if html else b"application/json"
    headers = [(b"content-type", kind), (b"content-length", str(len(PAGE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE[:20], "more_body": True})
    await send({"type": "http.response.body", "body": PAGE[20:]})


def ask(path: str, method: str = "GET") -> httpx.Response:
    async def go_there() -> httpx.Response:
        transport = httpx.ASGITransport(app=guarded(inner))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path)

    return asyncio.run(go_there())


def test_the_assistant_is_closed_whatever_is_asked_of_it() -> None:
    for path in ("/ajax-api/3.0/mlflow/assistant/config", "/x/ajax-api/3.0/mlflow/assistant/message"):
        assert ask(path).status_code == ask(path, "POST").status_code == 404


def test_a_page_is_under_the_policy_and_whole() -> None:
    page = ask("/")
    assert page.headers["content-security-policy"] == POLICY
    assert "connect-src 'self'" in POLICY and "http" not in POLICY
    assert int(page.headers["content-length"]) == len(page.content)
    assert page.text.startswith("<html>") and page.text.endswith("</html>") and "[data-assistant-ui]" in page.text


def test_what_is_no_page_passes_as_it_is() -> None:
    answer = ask("/api/2.0/mlflow/experiments/search")
    assert answer.content == PAGE and "content-security-policy" not in answer.headers


def test_mlflow_still_starts_its_server_where_ours_steps_in() -> None:
    import inspect

    import mlflow.server
    from mlflow.server.assistant.api import assistant_router

    names = list(inspect.signature(mlflow.server._build_uvicorn_command).parameters)
    assert names[:5] == ["uvicorn_opts", "host", "port", "workers", "app_name"] and len(names) == 7
    assert assistant_router.prefix.endswith(CLOSED)
