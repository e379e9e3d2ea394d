"""A training stage on many processes of one machine: `compute.ranks`.

The stage's worker starts torchrun (elastic), whose ranks all execute the stage's function (`flows.engine.rank`); rank 0
alone writes files and reports. A rank that is killed restarts all of them from the last saved state, at most
`compute.rank_restarts` times; an error of the stage itself ends them at once. Ranks end with torchrun and torchrun with
the worker, also by kill -9 (the kernel's death signal reaches each).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows.engine.seats import import_path
from flows.engine.wire import Job
from flows.engine.work import NOTICE, Waiting, Work, unpack
from flows.settings import ComputeConfig

JOB, ANSWER, EVENTS = "job.json", "answer.json", "events"
POLL_SECONDS = 0.2
END_SECONDS = 40.0  # torchrun gives its ranks 30 s to end


class RanksFailed(RuntimeError):
    """The ranks of a training ended without a result."""


def on_ranks(job: Job, work: Work, execution: ComputeConfig, emit: Any) -> dict[str, Any]:
    """Execute the job's stage on `execution.ranks` processes; what it reported is then in `work`.

    Returns its facts.

    Raises:
        RanksFailed: the stage failed, or its ranks were killed more often than they may restart.
        Waiting: it waits for people.
    """
    with tempfile.TemporaryDirectory(prefix="lifespan-ranks-") as folder:
        control = Path(folder)
        (control / JOB).write_text(json.dumps({"job": job.to_json(), "out": str(work.out), "state": str(work.state)}))
        os.mkfifo(control / EVENTS)
        with _listening(control / EVENTS, emit):
            NOTICE.saves = True  # a request to end goes to the ranks, which save first
            process = subprocess.Popen(
                [sys.executable, "-m", "flows.engine.rank", "launch", folder],
                env=_environment(execution),
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a signal to the worker's group must not reach it twice: it would stop waiting
            )
            try:
                code = _ended(process, control)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        if NOTICE.given:
            NOTICE.leave()
        for file in sorted(control.glob("error-*.json")):
            _raise(json.loads(file.read_text()))
        if code != 0 or not (control / ANSWER).exists():
            raise RanksFailed(
                f"the {execution.ranks} ranks ended with exit code {code} after {execution.rank_restarts} restarts; "
                "the log above says which rank was killed, and how"
            )
        answer = json.loads((control / ANSWER).read_text())
    for step, name, value, at in answer["points"]:
        work.points.add(step, {name: value}, at)
    for table, row in answer["rows"]:
        work.rows(table, [unpack(row)])
    work.spent_elsewhere(answer["spent"])
    return dict(answer["facts"])


def _environment(execution: ComputeConfig) -> dict[str, str]:
    more = {
        "PYTHONPATH": import_path(),
        "LIFESPAN_PARENT": str(os.getpid()),
        "LIFESPAN_RANKS": str(execution.ranks),
        "LIFESPAN_RANK_RESTARTS": str(execution.rank_restarts),
        # With it, a restart on gloo waits for minutes (pytorch #135712).
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": str(execution.threads_per_worker),
    }
    if execution.device == "cpu":
        more["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    if execution.parallel == "fsdp2":
        more["LIFESPAN_NATIVE"] = "0"  # fused models do not go through their blocks, which are what is sharded
    return {**os.environ, **more}


def _ended(process: subprocess.Popen[bytes], control: Path) -> int:
    """Wait for torchrun; a stage that failed by itself is not restarted, and a request to end is passed on."""
    told = False
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if not told and (NOTICE.given or any(control.glob("error-*.json"))):
                told = True
                process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(END_SECONDS)
                process.kill()


@contextlib.contextmanager
def _listening(pipe: Path, emit: Any) -> Iterator[None]:
    """Pass on what rank 0 says, in every attempt."""
    descriptor = os.open(pipe, os.O_RDWR)  # for writing too: so that it does not end with the first attempt

    def listen() -> None:
        with os.fdopen(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line == "end\n":
                    return
                with contextlib.suppress(ValueError):  # of a rank that was killed while it spoke
                    emit(json.loads(line))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with pipe.open("w") as end:
            end.write("\nend\n")
        thread.join(timeout=10.0)


def _raise(error: dict[str, Any]) -> None:
    if error["type"] == Waiting.__name__:
        raise Waiting(error["message"])
    raise RanksFailed(error["message"] if error["clean"] else f"{error['type']}: {error['message']}")
