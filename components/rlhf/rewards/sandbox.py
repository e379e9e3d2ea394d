"""Programs of a model, run apart: time, memory and file limits, and namespaces of their own where the kernel grants
them.

What it is. Each program runs in a process of its own with an empty environment, under limits on wall clock, CPU time,
memory, file size, open files and processes. Where user namespaces are granted (most Linux machines; not all containers)
it has no network, sees every file system read-only but for an empty folder in memory, and all that it started ends with
it. What it isn't: a virtual machine. The program runs on the same kernel, may read what the user who runs Lifespan may
read, and can tell its test from real use; where namespaces are refused, it can also write and use the network as that
user. `isolation = "required"` then refuses to run it at all. For programs of strangers, run Lifespan in a container.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from math import ceil

from components.rlhf.rewards import sandbox_child
from components.rlhf.rewards.answers import RewardError


@dataclass(frozen=True)
class Ran:
    """passed: program and tests ran to their end. error: what they raised, or how they were ended. open_world: why
    there are no namespaces; "" where there are."""

    passed: bool
    error: str
    open_world: str


def run_program(
    program: str, tests: str, seconds: float, megabytes: int, required: bool = False, packages: bool = False
) -> Ran:
    """Run a program and then its tests in the sandbox. packages: whether it may import installed packages.

    Raises RewardError where namespaces are `required` and refused.
    """
    token = secrets.token_hex(16)
    flags = ["-I", "-B"] if packages else ["-I", "-B", "-S"]
    reader, writer = os.pipe()
    with tempfile.TemporaryDirectory(prefix="lifespan-sandbox-") as folder:
        asked = {
            "program": program,
            "tests": tests,
            "token": token,
            "report": writer,
            "folder": folder,
            "seconds": ceil(seconds),
            "megabytes": megabytes,
            "required": required,
        }
        try:
            process = subprocess.Popen(
                [sys.executable, *flags, sandbox_child.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
        try:
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                process.communicate(json.dumps(asked).encode(), timeout=seconds)
            overtime = process.poll() is None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        os.set_blocking(reader, False)
        try:
            said = os.read(reader, 1 << 16)
        except BlockingIOError:  # a process that escaped keeps the pipe open
            said = b""
        finally:
            os.close(reader)
    return _read(said, token, overtime, seconds, process.returncode, required)


def _read(said: bytes, token: str, overtime: bool, seconds: float, code: int, required: bool) -> Ran:
    try:
        told = json.loads(said)
        open_world, error = str(told["open"]), str(told.get("error", ""))
    except (ValueError, KeyError, TypeError):
        told, open_world, error = {}, "", f"ended before its tests were through (exit status {code})"
    if open_world and required:
        raise RewardError(
            f"unit tests: isolation is required, and this machine refuses {open_world}; allow user namespaces, or set "
            'isolation = "best effort" and run Lifespan in a container'
        )
    if overtime:
        return Ran(False, f"took longer than {seconds:g} s", open_world)
    return Ran(told.get("token") == token, error, open_world)
