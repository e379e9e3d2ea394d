"""A worker process: `python -m flows.engine.worker LOG`. One JSON job per line on stdin, JSON events out.

Events travel on a copy of fd 1; fd 1 and 2 themselves lead to the log file, so whatever a library prints can never
tear the protocol.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any


def speaks_for_itself(error: BaseException) -> bool:
    """True for mistakes in what the user gave or in the machine's state: one line says it all, no traceback needed."""
    ours = type(error).__module__.split(".")[0] in ("components", "storage", "flows")
    return ours or (isinstance(error, (ValueError, OSError)) and not isinstance(error, UnicodeError))


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent is gone (Linux); elsewhere the end of stdin does it."""
    if sys.platform == "linux":
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def describe_error(error: BaseException) -> dict[str, Any]:
    """An exception as JSON: type, message, whether the message alone is enough, whether it may pass, traceback."""
    extra = {"key": error.key} if hasattr(error, "key") and isinstance(error.key, str) else {}
    from storage.redaction import masked  # here: a worker starts with next to nothing

    return {
        "type": type(error).__name__,
        "message": masked(str(error)) or type(error).__name__,
        "clean": speaks_for_itself(error),
        "transient": isinstance(error, (ConnectionError, TimeoutError)),  # of an object store, say: worth another try
        "traceback": masked("".join(traceback.format_exception(error))),
        **extra,
    }


def main() -> None:
    die_with_parent(int(os.environ["LIFESPAN_PARENT"]))
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a segmentation fault leaves its stack in the log
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read_lines, args=(lines,), daemon=True).start()
    lock = threading.Lock()

    def emit(event: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(event) + "\n")

    from flows.engine.jobs import execute
    from flows.engine.wire import Job
    from flows.engine.work import NOTICE

    signal.signal(signal.SIGTERM, NOTICE.give)
    emit({"event": "ready", "pid": os.getpid()})
    waiting: list[str] = []  # modules to import while there is nothing better to do
    while True:
        try:
            message = json.loads(lines.get(block=not waiting))
        except queue.Empty:
            preload(waiting.pop(0))
            continue
        if "preload" in message:
            waiting = message["preload"]
            continue
        job = Job.from_json(message["job"])
        note(f"=== {job.label} {job.key[:12]} of run {job.run_id}")
        emit({"event": "started"})
        try:
            artifact = execute(job, emit)
            emit({"event": "done", "artifact": json.loads(artifact.to_json())})
        except Exception as error:
            described = describe_error(error)
            note(described["traceback"])
            emit({"event": "failed", "error": described})
        NOTICE.stage_ended()


def note(text: str) -> None:
    """A line in the log; a disk that is full must not end the worker before it has said so."""
    with contextlib.suppress(OSError):
        print(text)


def read_lines(lines: queue.SimpleQueue[str]) -> None:
    """Feed jobs; when the pipe closes, the parent is gone and nobody wants the result."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def preload(name: str) -> None:
    """Import what a later stage will need; a free worker has nothing better to do."""
    try:
        importlib.import_module(name)
    except Exception:  # the stage that needs it will say so better
        print(f"preload of {name} failed\n{traceback.format_exc()}", file=sys.stderr)


if __name__ == "__main__":
    main()
