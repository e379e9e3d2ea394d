"""The inside of the sandbox: run as a script, with the program as JSON on standard input; see `sandbox.py`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
import traceback

NEW_MOUNTS, NEW_USER, NEW_PROCESSES, NEW_NETWORK = 0x20000, 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SET_UID, NO_DEVICES, NO_EXECUTION, REMOUNT, BIND, RECURSIVE, PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)
_FLAGS = {"nosuid": NO_SET_UID, "nodev": NO_DEVICES, "noexec": NO_EXECUTION, "noatime": 1024, "relatime": 1 << 21}


def isolate(folder: str, megabytes: int) -> str:
    """Enter namespaces of our own, with every mount read-only and `folder` in memory; "" or why that is not allowed.

    Returns in a child that is process 1 of its namespace: when it ends, all that it started ends.
    """
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if library.unshare(NEW_USER | NEW_MOUNTS | NEW_PROCESSES | NEW_NETWORK):
        return f"namespaces: {os.strerror(ctypes.get_errno())}"
    for file, text in (("uid_map", f"{user} {user} 1"), ("setgroups", "deny"), ("gid_map", f"{group} {group} 1")):
        with contextlib.suppress(OSError), open(f"/proc/self/{file}", "w", encoding="ascii") as table:  # noqa: PTH123
            table.write(text)
    child = os.fork()  # the first child is the first process of the new namespace
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)

    def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> bool:
        words = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
        return not library.mount(*words)

    with open("/proc/self/mounts", encoding="utf-8") as table:  # noqa: PTH123 - pathlib would be loaded for this alone
        mounts = [line.split() for line in table]
    if not mount("none", "/", "", RECURSIVE | PRIVATE):
        return f"mounts: {os.strerror(ctypes.get_errno())}"
    for _, target, _, options, *_ in mounts:
        kept = sum(flag for name, flag in _FLAGS.items() if name in options.split(","))
        place = target.encode().decode("unicode_escape")
        mount("none", place, "", REMOUNT | BIND | READ_ONLY | kept)
    mount("none", "/proc", "tmpfs", READ_ONLY)  # the environment of other processes can be read there
    if not mount("none", folder, "tmpfs", NO_SET_UID | NO_DEVICES, f"size={megabytes}m"):
        return f"mounts: {os.strerror(ctypes.get_errno())}"
    os.chdir(folder)
    return ""


def limit(seconds: int, megabytes: int) -> None:
    """Limits that hold with and without namespaces."""
    for what, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, megabytes << 20),
        (resource.RLIMIT_FSIZE, megabytes << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 64),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (value, value))


def main() -> None:
    """Run the program and then its tests; say on file descriptor `report` how that went."""
    asked = json.load(sys.stdin)
    report = asked["report"]
    open_world = isolate(asked["folder"], asked["megabytes"])
    if open_world and asked["required"]:
        os.write(report, json.dumps({"open": open_world}).encode())
        os._exit(1)
    os.chdir(asked["folder"])
    limit(asked["seconds"], asked["megabytes"])
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    error = ""
    try:
        scope = {"__name__": "__main__"}
        exec(compile(asked["program"], "answer.py", "exec"), scope)
        exec(compile(asked["tests"], "tests.py", "exec"), scope)
    except BaseException as raised:  # also SystemExit: whoever leaves before the tests are through has not passed
        error = "".join(traceback.format_exception_only(raised)).strip()[-500:] or type(raised).__name__
    said = {"open": open_world, "error": error} | ({} if error else {"token": asked["token"]})
    os.write(report, json.dumps(said).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
