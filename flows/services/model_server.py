"""A model behind the OpenAI API, as one server process: where it listens, who may use it, and how it stops."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.services.access import only_local_names
from flows.services.sockets import LOOPBACK, http_url, is_loopback, listen
from flows.settings import ConfigError

if TYPE_CHECKING:
    import uvicorn

    from components.data.tokenizer import Tokenizer
    from components.inference.reasoned import Reasoner
    from components.inference.service import Service
    from components.model.transformer import Transformer

KEY_VARIABLE = "LIFESPAN_API_KEY"
SHUTDOWN_SECONDS = 5  # that running requests have to finish


@dataclass(frozen=True)
class ServeOptions:
    """host, port: where to listen (port 0: any free one). api_key: required of every client, "" for none. slots:
    sequences in flight. queue: how many may wait. seconds: until an answer must be complete. context_length: of prompt
    and answer together (0: the model's).

    Raises ConfigError for an address that other machines can reach without a key.
    """

    host: str = LOOPBACK
    port: int = 8000
    api_key: str = field(default="", repr=False)
    slots: int = 64
    queue: int = 256
    seconds: float = 600.0
    context_length: int = 0

    def __post_init__(self) -> None:
        if not self.api_key and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines: set {KEY_VARIABLE} or pass --api-key FILE, so "
                "that only clients with the key can use the model"
            )


def serve_model(
    name: str,
    model: Transformer,
    tokenizer: Tokenizer,
    options: ServeOptions,
    show: Callable[[str], None],
    reasoner: Reasoner | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that are running then get a few seconds to finish.

    Raises CannotListen when the address is in use or does not belong to this machine.
    """
    import uvicorn

    from components.inference.engine import Engine
    from components.inference.server import ServerLimits, make_app
    from components.inference.service import Service

    capacity = options.context_length or None
    listener = listen(options.host, options.port)
    service = Service(lambda: Engine(model, options.slots, capacity, tokenizer.text_bytes), max_waiting=options.queue)
    limits = ServerLimits(max_sequences=options.queue, request_seconds=options.seconds)
    app = make_app(name, tokenizer, service, limits, options.api_key or None, reasoner)
    config = uvicorn.Config(
        app if options.api_key else only_local_names(app),
        log_level="warning",
        access_log=False,  # addresses and paths of clients are private; /metrics has the counts
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS + 5,
    )
    url = http_url(options.host, listener.getsockname()[1])
    show(f"serving {name} at {url}/v1" + (" (with an API key)" if options.api_key else ""))
    show(f"try     curl {url}/v1/models")
    show("press Ctrl-C to stop")
    # uvicorn shuts down gracefully on both signals, and then raises them again for us.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with suppress(KeyboardInterrupt):
            _server(config, service).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        service.stop()
        listener.close()


def _server(config: uvicorn.Config, service: Service) -> uvicorn.Server:
    """A server that gives running requests a few seconds when it is stopped and then tells their clients that it is
    stopping. uvicorn by itself would break the connections."""
    import asyncio

    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(SHUTDOWN_SECONDS, lambda: loop.run_in_executor(None, service.stop))
            await super().shutdown(sockets)

    return Server(config)
