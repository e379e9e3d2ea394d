"""The first second of a run: the live view is there and Prefect's server comes up before anything heavy is imported."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flows.engine.progress import Board, showing
from flows.services import hermetic, server_process

if TYPE_CHECKING:
    from rich.console import Console

    from storage.home import Home


@dataclass(frozen=True)
class Start:
    """What is there from the first second of a run.

    Attributes:
        board: what the live view shows.
        home: where the run lies.
        server: Prefect's API, coming up; None when the user's own is used, or none at all.
    """

    board: Board
    home: Home
    server: server_process.Server | None


@contextlib.contextmanager
def starting(
    title: str, console: Console | None = None, *, home: Home | None = None, prefect: bool = True
) -> Iterator[Start]:
    """Show the live view and start Prefect's server, until the block ends."""
    board = Board(title)
    with contextlib.ExitStack() as stack:
        stack.enter_context(showing(board, console))
        stack.enter_context(terminable())
        from flows.services import services  # a second or so: after the live view is there
        from storage.home import Home

        home = home or Home.from_env()
        hermetic.apply(home.local, hub=None)
        server = None
        if prefect and "PREFECT_API_URL" not in os.environ and not services.join(home):
            server = server_process.prefect_api(home.local / "logs" / "prefect.log")
            stack.callback(server.stop)
        yield Start(board, home, server)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
