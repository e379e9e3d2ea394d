"""Compiles C files once for this machine and loads them. LIFESPAN_NATIVE=0 switches all C off.

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
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Program:
    """C files that become one library. Headers are named too, so that an edit of one is seen.

    Args:
        sources: the files.
        sha256: of the files one after another. A stage's code key is made from Python files; the digest that stands
            there makes the C files a part of it.
        flags: of the compiler.
        targets: more flags, tried in turn until one compiles: for this very processor, then for any.
        without: what a user is told that its lack means.
    """

    sources: tuple[Path, ...]
    sha256: str
    flags: tuple[str, ...]
    targets: tuple[tuple[str, ...], ...]
    without: str

    @property
    def name(self) -> str:
        """The first C file's, which the library gets."""
        return next(path.stem for path in self.sources if path.suffix == ".c")


def disabled() -> bool:
    """Whether the user switched compiled code off."""
    return os.environ.get("LIFESPAN_NATIVE", "1") == "0"


@functools.cache
def load(program: Program) -> ctypes.CDLL | None:
    """The compiled program, or None (with one warning) where it cannot be had.

    Raises RuntimeError when its files were edited without the digest.
    """
    if disabled():
        return None
    text = b"".join(path.read_bytes() for path in program.sources)
    if (found := hashlib.sha256(text).hexdigest()) != program.sha256:
        files = ", ".join(path.name for path in program.sources)
        raise RuntimeError(f"{files}: edited; set SOURCE_SHA256 in the Python file that loads them to {found}")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        _log.warning("no C compiler (cc): %s", program.without)
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler, program, text)))
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        _log.warning("%s.c could not be compiled: %s (%s)", program.name, program.without, reason)
        return None


def _compiled(compiler: str, program: Program, text: bytes) -> Path:
    """The shared library of these sources, compiler and processor; made when it is not there yet."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    identity = "\n".join([version, _processor(), *program.flags, *map(str, program.targets)]).encode() + text
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifespan"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except (OSError, RuntimeError):
        folder = Path(tempfile.mkdtemp(prefix="lifespan-"))  # nobody else can write there; compiled in every process
    target = folder / f"{program.name}-{hashlib.sha256(identity).hexdigest()[:24]}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            files = [str(path) for path in program.sources if path.suffix == ".c"]
            for target_flags in program.targets:
                command = [compiler, *target_flags, *program.flags, "-o", str(made), *files, "-lm"]
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
