"""The dashboard as one server process: it answers within seconds, and MLflow and Prefect come up behind it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from dashboards.app.outside import Outside
from dashboards.app.server import make_app, warm
from flows.services.access import Access
from flows.services.annotation_server import annotation_app
from flows.services.sockets import ANY_ADDRESS, LOOPBACK, is_loopback, listen
from storage.home import Home

LOCAL_NAMES = (LOOPBACK, "localhost", "::1")
Links = list[tuple[str, str]]


def serve_dashboard(
    home: Home,
    access: Access,
    port: int,
    outside: Outside,
    start_pages: Callable[[ExitStack, Links], None],
    show: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        home: whose tables are shown.
        access: where to listen, and the token that requests for data must carry.
        port: where to listen; any free port when that one is in use.
        outside: what the pages can do beside reading.
        start_pages: starts the other pages in a thread of its own and adds their names and addresses to a list.
        show: takes each line for the user.

    Raises:
        CannotListen: the address does not belong to this machine.
    """
    listener = listen(access.host, port, or_any_free=True)
    links: Links = []
    names = frozenset({*LOCAL_NAMES, access.host.lower()})
    local_only = is_loopback(access.host) and access.host not in ANY_ADDRESS
    annotation, table = annotation_app(home, names, local_only)
    served = replace(outside, services=lambda: tuple(links), annotation=annotation)
    app = make_app(home, served, names, local_only, access.token)
    show(f"dashboard {access.page(listener.getsockname()[1])}")
    with ExitStack() as stack:
        threading.Thread(target=_behind, args=(start_pages, stack, links, show), daemon=True).start()
        threading.Thread(target=warm, args=(home,), daemon=True).start()
        config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=3)
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
        try:
            with suppress(KeyboardInterrupt):
                uvicorn.Server(config).run([listener])
        finally:
            signal.signal(signal.SIGTERM, before)
            table.close()
            listener.close()


def _behind(
    start_pages: Callable[[ExitStack, Links], None], stack: ExitStack, links: Links, show: Callable[[str], None]
) -> None:
    """The dashboard stays when the other pages do not come up, and says so."""
    try:
        start_pages(stack, links)
    except Exception as error:
        links.append(("other pages", f"not up: {error}"))
        show(f"the other pages are not up: {error}")


def starter(home: Home, profiles: Sequence[str]) -> Callable[[str, Sequence[str]], str]:
    """Begins runs as processes of their own, which go on when the dashboard ends."""

    def start(profile: str, settings: Sequence[str]) -> str:
        if profile not in profiles:
            raise ValueError(f"profile: takes {', '.join(profiles)}; got {profile!r}")
        if wrong := [one for one in settings if "=" not in one or one.startswith("-")]:
            raise ValueError(f"settings: takes a.b=c; got {wrong[0]!r}")
        log = home.local / "logs" / "started-runs.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        options = [part for one in settings for part in ("--set", one)]
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("ab") as output:
            subprocess.Popen(
                [sys.executable, "-m", "flows.commands.cli", "run", profile, *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "LIFESPAN_HOME": home.root, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        return f"{profile} begins; what it says goes to {log}"

    return start


def stopper(boards: Callable[[], Mapping[str, Any]]) -> Callable[[str], str]:
    """Asks a run of this machine to end, as Ctrl-C in its terminal does."""

    def stop(run: str) -> str:
        board = boards().get(run)
        if board is None:
            raise ValueError(f"{run} does not run now")
        with suppress(ProcessLookupError):
            os.kill(int(board["pid"]), signal.SIGTERM)
        return f"{run} was asked to end: what is sealed stays"

    return stop


def answerer(open_model: Callable[[str], Any]) -> Callable[[str, str, float, int], Iterator[str]]:
    """Answers of the home's models, one at a time; the last two that were asked stay open."""
    opened: dict[str, Any] = {}
    lock = threading.Lock()

    def answer(name: str, prompt: str, temperature: float, most: int) -> Iterator[str]:
        from components.inference.conversation import Conversation
        from components.inference.engine import Engine

        with lock:
            if name not in opened:
                while len(opened) > 1:
                    del opened[next(iter(opened))]
                opened[name] = open_model(name)
            found = opened[name]
            yield from Conversation(found.tokenizer, Engine(found.model, 1, None), temperature, most).answer(prompt)

    return answer


def preferrer(home: Home) -> Callable[[str, str, str, Mapping[str, str]], str]:
    """Stores votes as lines of a file that `lifespan preferences import` takes: prompt, better answer, other answer."""
    lock = threading.Lock()

    def prefer(prompt: str, chosen: str, rejected: str, models: Mapping[str, str]) -> str:
        if not prompt.strip() or chosen == rejected:
            raise ValueError("a vote needs a prompt and two answers that differ")
        file = home.local / "preferences" / "chat.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        line = {"prompt": prompt, "chosen": chosen, "rejected": rejected, **models}
        with lock, file.open("ab") as out:
            out.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        return f"stored; `lifespan preferences import {file}` lets the next reward model learn from it"

    return prefer
