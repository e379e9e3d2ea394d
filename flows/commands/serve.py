"""`lifespan serve`: a model of this home, or of a folder, behind the OpenAI interface."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.services.sockets import is_loopback
from flows.settings import ConfigError
from storage.home import Home

if TYPE_CHECKING:
    import uvicorn

    from components.data.tokenizer import Tokenizer
    from components.inference.service import Service
    from components.model.transformer import Transformer

DEFAULT_PORT = 8000
KEY_VARIABLE = "LIFESPAN_API_KEY"
SHUTDOWN_SECONDS = 5  # what running requests get to end


@dataclass(frozen=True)
class Opened:
    """A model with its tokenizer, and what to call it."""

    name: str
    model: Transformer
    tokenizer: Tokenizer


@dataclass(frozen=True)
class ServeOptions:
    """host, port: where to listen (port 0: any free one). api_key: asked of every client, "" for none. slots: sequences
    in flight. queue: how many may wait. seconds: until an answer must be complete. context_length: of prompt and answer
    together (0: the model's)."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    api_key: str = ""
    slots: int = 64
    queue: int = 256
    seconds: float = 600.0
    context_length: int = 0

    def __post_init__(self) -> None:
        if not self.api_key and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} can be reached from other machines: set {KEY_VARIABLE} or give --api-key FILE, so "
                "that only those who know the key can use it"
            )


def open_model(home: Home, name: str, context_length: int = 0) -> Opened:
    """A model by its label in the newest run that made one, by its artifact's key, or by the path of a saved one: a
    folder of ours or in Hugging Face's layout with its tokenizer, or a GGUF file; or `package:NAME`.

    Raises ConfigError naming what there is.
    """
    from components.data.tokenizer import Tokenizer
    from components.model.hub.source import PACKAGE
    from components.training.checkpoints import load_model
    from flows.commands.model_io import find_model

    path = Path(name).expanduser()
    if path.exists() or name.startswith(PACKAGE):
        return _open_path(path, context_length)
    if "/" in name or name.endswith(".gguf"):
        raise ConfigError(f"{name}: there is no such folder or file")
    found = find_model(home, name)
    if found.tokenizer is None:
        raise ConfigError(f"{name}: none of its inputs leads to a tokenizer")
    tokenizer = Tokenizer.load(home.store.path(found.tokenizer))
    return Opened(name, load_model(home.store.path(found.checkpoint)), tokenizer)


def _open_path(path: Path, context_length: int) -> Opened:
    from components.data.tokenizer import Tokenizer
    from components.model.hub import imports
    from components.model.hub.folder import read_json, shortened
    from components.model.hub.source import PACKAGE, locate
    from components.native.fuse import fuse
    from components.training.checkpoints import load_config, load_model

    try:
        config = path / "config.json"
        if config.is_file() and read_json(config).get("format") is not None:
            shortened(load_config(path), 0)  # the same limit for a folder of ours that comes from elsewhere
            return Opened(path.resolve().name, load_model(path), Tokenizer.load(path))
        source = locate(str(path))
        model = imports.import_model(source, context_length=context_length)
        fuse(model)
        return Opened(path.resolve().stem.removeprefix(PACKAGE), model, imports.import_tokenizer(source))
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def read_key(file: Path | None) -> str:
    """The API key: of the file, else of LIFESPAN_API_KEY, else none. It is never shown."""
    if file is None:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        where = KEY_VARIABLE
        if KEY_VARIABLE not in os.environ:
            return ""
    else:
        try:
            key, where = file.read_text(encoding="utf-8").strip(), f"--api-key {file}"
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"--api-key {file}: takes a file that holds the key ({reason})") from None
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{where}: a key is one line of printable ASCII without blanks")
    return key


def serve(opened: Opened, options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C; then requests that run get a few seconds to end.

    Raises ConfigError when the address is taken or is not one of this machine.
    """
    import uvicorn

    from components.inference.engine import Engine
    from components.inference.server import ServerLimits, make_app
    from components.inference.service import Service

    capacity = options.context_length or None
    listener = _listen(options.host, options.port)
    service = Service(
        lambda: Engine(opened.model, options.slots, capacity, opened.tokenizer.text_bytes), max_waiting=options.queue
    )
    app = make_app(
        opened.name,
        opened.tokenizer,
        service,
        ServerLimits(max_sequences=options.queue, request_seconds=options.seconds),
        options.api_key or None,
        local_only=is_loopback(options.host) and not options.api_key,
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses and paths of clients are nobody's business; /metrics counts
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS + 5,
    )
    shown = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{shown}:{listener.getsockname()[1]}"
    say(f"serving {opened.name} at {address}/v1" + (" (with an API key)" if options.api_key else ""))
    say(f"try     curl {address}/v1/models")
    say("Ctrl-C ends it")
    # uvicorn ends gracefully on both signals, and then raises them again for us.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        with suppress(KeyboardInterrupt):
            _server(config, service).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        service.stop()
        listener.close()


def _server(config: uvicorn.Config, service: Service) -> uvicorn.Server:
    """One that, told to end, gives running requests a few seconds and then tells their clients that it stops: left to
    itself, uvicorn tears the connections."""
    import asyncio

    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(SHUTDOWN_SECONDS, lambda: loop.run_in_executor(None, service.stop))
            await super().shutdown(sockets)

    return Server(config)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)  # who comes before the server runs waits
    except OSError as error:
        told = f"{error.strerror or error}: give another --port" if port else str(error)
        raise ConfigError(f"cannot listen on {host} port {port}: {told}") from None
    return listener
