"""The annotation page as one server process: who may sign in, where it listens, and the table that it fills."""

from __future__ import annotations

import getpass
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from dashboards.annotate.server import make_app
from dashboards.annotate.table import write_judgements
from flows.services.sockets import LOOPBACK, http_url, is_loopback, listen
from flows.settings import ConfigError
from storage.home import Home

TABLE_SECONDS = 2.0  # after which a judgement is in the table that SQL reads
LOCAL_NAMES = (LOOPBACK, "localhost", "::1")
_INSTRUCTIONS = Path(__file__).parents[2] / "dashboards" / "annotate" / "instructions.md"


def serve_annotation(
    home: Home,
    host: str,
    port: int,
    or_any_free: bool,
    instructions: Path | None,
    allowed_hosts: list[str],
    open_page: bool,
    show: Callable[[str], None],
) -> None:
    """Serve the page until SIGTERM or Ctrl-C; a judgement is on the disk before it is acknowledged.

    Args:
        home: whose batches are judged.
        host: address to listen on.
        port: where to listen.
        or_any_free: take any free port when that one is in use.
        instructions: a text file to show in place of ours.
        allowed_hosts: further names by which browsers may call the server.
        open_page: show the page in a browser where there is one.
        show: takes each line for the user.

    Raises:
        ConfigError: other machines can reach `host` and nobody may annotate yet, or the instructions are not text.
        CannotListen: the port is in use, or the address does not belong to this machine.
    """
    shown_instructions = home.annotations.instruct(_read_instructions(instructions))
    annotators = [one.name for one in home.annotations.annotators() if not one.removed_at]
    is_local = is_loopback(host)
    if not is_local and not annotators:
        raise ConfigError(
            f"--host {host} can be reached from other machines: add annotators first, with `lifespan annotate add NAME`"
        )
    listener = listen(host, port, or_any_free=or_any_free)
    url = http_url(host, listener.getsockname()[1]) + "/"
    token = ""
    if not annotators:
        name = getpass.getuser()
        token = f"#token={home.annotations.add(name)}"
        show(f"{name} may annotate now; this address signs in and is shown only once:")
    show(f"{url}{token}")
    if annotators:
        show(f"annotators: {', '.join(annotators)}; each signs in with the token from `lifespan annotate add`")
    if not home.annotations.batches():
        show("nothing to judge yet: `lifespan run --set preferences.source=people`, or `lifespan annotate load FILE`")
    show(f"instructions: version {shown_instructions.version}; submitted judgements are stored; press Ctrl-C to stop")
    if not is_local:
        show("warning: other machines reach this page over unencrypted HTTP, tokens included: use a TLS proxy in front")
    hosts = frozenset({*LOCAL_NAMES, host.lower(), *(name.lower() for name in allowed_hosts)})
    table = TableWriter(home)
    app = make_app(
        home.annotations, shown_instructions, hosts, local_only=all(map(is_loopback, hosts)), stored=table.wake
    )
    if open_page and sys.stdout.isatty() and (sys.platform == "darwin" or os.environ.get("DISPLAY")):
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(url + token,), daemon=True).start()
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
    try:
        uvicorn.Server(config).run([listener])
    except KeyboardInterrupt:
        pass
    finally:
        table.close()


def annotation_app(home: Home, hosts: frozenset[str], local_only: bool) -> tuple[ASGIApp, TableWriter]:
    """The page as a part of another server, with the instructions that were shown last, or ours; and what fills its
    table, which is to be closed at the end."""
    told = home.annotations.instructions()
    shown = told[-1] if told else home.annotations.instruct(_read_instructions(None))
    table = TableWriter(home)
    return make_app(home.annotations, shown, hosts, local_only, stored=table.wake), table


def _read_instructions(path: Path | None) -> str:
    source = path or _INSTRUCTIONS
    try:
        return source.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--instructions {source}: not a UTF-8 text file (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"--instructions {source}: {error.strerror}") from None


class TableWriter:
    """Writes the table of judgements shortly after the last one arrived, in a thread of its own."""

    def __init__(self, home: Home) -> None:
        self._home, self._wanted, self._ended = home, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._wanted.set()
        self._thread.start()

    def wake(self) -> None:
        self._wanted.set()

    def close(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(timeout=10)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait()
            self._ended.wait(TABLE_SECONDS)
            self._wanted.clear()
            try:
                write_judgements(self._home)
            except OSError as error:  # the journals are what counts; the table is written again from them
                print(f"the table of judgements was not written: {error}", file=sys.stderr)
