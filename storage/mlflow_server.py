"""MLflow's server without its Assistant, whose pages ask nobody else: `python -m storage.mlflow_server server …`.

The Assistant runs a shell for whoever asks on this machine. MLflow has no setting that closes it, so its routes are
closed here and its panel is left out of the pages. A policy forbids the pages every other address.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

CLOSED = "/mlflow/assistant"  # whatever prefix its routes have
_APP = "LIFESPAN_MLFLOW_APP"  # what MLflow itself would serve, "module:name" or "module:factory"
_FACTORY = "LIFESPAN_MLFLOW_FACTORY"
# MLflow's own scripts are built with eval; frames show the HTML artifacts of a run.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
# Its button is marked; where its panel would open by itself, its memory says that it did and was closed.
WITHOUT_PANEL = (
    b"<style>[data-assistant-ui]{display:none!important}</style><script>"
    b'localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1","true");'
    b'localStorage.setItem("mlflow.assistant.panelOpen_v1","false");</script></head>'
)


def guarded(app: App) -> App:
    """`app` without the Assistant, its pages under the policy."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and CLOSED in scope["path"]:
            headers = [(b"content-type", b"text/plain")]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": b"the Assistant is off"})
            return
        await app(scope, receive, _under_policy(send) if scope["type"] == "http" else send)

    return answer


def _under_policy(send: Send) -> Send:
    """HTML is held until it is whole: what is added changes its length."""
    start: Message = {}
    page = bytearray()

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and _is_html(message):
            start.update(message)
            return
        if not start:
            await send(message)
            return
        page.extend(message.get("body", b""))
        if message.get("more_body"):
            return
        body = bytes(page).replace(b"</head>", WITHOUT_PANEL, 1)
        kept = [(n, v) for n, v in start["headers"] if n.lower() not in (b"content-length", b"content-security-policy")]
        added = [(b"content-length", str(len(body)).encode()), (b"content-security-policy", POLICY.encode())]
        await send({**start, "headers": [*kept, *added]})
        await send({"type": "http.response.body", "body": body})

    return sent


def _is_html(message: Message) -> bool:
    return any(n.lower() == b"content-type" and v.startswith(b"text/html") for n, v in message.get("headers", ()))


def create() -> App:
    """The guarded application, for uvicorn."""
    module, _, name = os.environ[_APP].partition(":")
    found = getattr(importlib.import_module(module), name)
    return guarded(found() if os.environ.get(_FACTORY) else found)


def main() -> None:
    """MLflow's command line; what its `server` starts is `create`."""
    import mlflow.server
    from mlflow.cli import cli

    command = mlflow.server._build_uvicorn_command

    def ours(options: Any, host: Any, port: Any, workers: Any, app: str, env: Any = None, factory: bool = False) -> Any:
        os.environ[_APP] = app
        os.environ[_FACTORY] = "1" if factory else ""
        return command(options, host, port, workers, "storage.mlflow_server:create", env, True)

    mlflow.server._build_uvicorn_command = ours
    cli(sys.argv[1:], prog_name="mlflow")


if __name__ == "__main__":
    main()
