"""C files of ours, compiled once for this machine and loaded. LIFESPAN_NATIVE=0 switches them off.

Why not torch's own compiler: it takes half a minute for every shape, which a stage of seconds never earns back; these
files take two or three, once, and are kept in the user's cache folder (XDG_CACHE_HOME, ~/.cache/lifespan).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

FLAGS = ("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast", "-fopenmp-simd")
# Tried in turn: for this very processor, then for any.
WAYS: tuple[list[str], ...] = (["-march=native"], ["-mcpu=native"], [])
_log = logging.getLogger(__name__)


@functools.cache
def load(source: Path, sha256: str, without: str) -> ctypes.CDLL | None:
    """The compiled `source`, or None (told once) where it cannot be had.

    Args:
        sha256: of the file. What a stage is known by is read from Python files; the digest there makes the C file a
            part of it, and a file that was edited without it raises RuntimeError.
        without: what a user is told that its lack means.
    """
    if os.environ.get("LIFESPAN_NATIVE", "1") == "0":
        return None
    text = source.read_bytes()
    if (found := hashlib.sha256(text).hexdigest()) != sha256:
        raise RuntimeError(
            f"{source} was edited: its SHA-256 is now {found}, and the Python file that loads it says so"
        )
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        _log.warning("no C compiler (cc): %s", without)
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, source, text)))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        _log.warning("%s could not be compiled: %s (%s)", source.name, without, told)
        return None


def _compiled(compiler: str, source: Path, text: bytes) -> Path:
    """The shared library of this source, compiler and processor; made when it is not there yet."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    identity = "\n".join([version, _processor(), *FLAGS, *map(str, WAYS)]).encode() + text
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifespan"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except (OSError, RuntimeError):
        folder = Path(tempfile.mkdtemp(prefix="lifespan-"))  # nobody else can write there; compiled in every process
    target = folder / f"{source.stem}-{hashlib.sha256(identity).hexdigest()[:24]}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            for way in WAYS:
                command = [compiler, *way, *FLAGS, "-o", str(made), str(source), "-lm"]
                done = subprocess.run(command, capture_output=True, text=True, timeout=300)
                if done.returncode == 0:
                    break
            done.check_returncode()
            made.replace(target)
    return target


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
