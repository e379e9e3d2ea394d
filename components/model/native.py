"""The C kernels of `kernels.c`, compiled once for this machine; `library()` is None where that cannot be.

Between the matrix products an eager step of a small model is a hundred passes over memory. These loops make one pass
each. Compiling takes a few seconds and is kept in the user's cache folder. LIFESPAN_NATIVE=0 switches the kernels off.
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

SOURCE = Path(__file__).with_name("kernels.c")
# What a stage is known by is read from Python files; this line makes the C file a part of it.
SOURCE_SHA256 = "edfe102a6e987b2d38d92907d32c3641af3eeaba8af271f27cc4de6a1f147ff2"
FLAGS = (
    *("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
)
# Tried in turn: with threads and for this very processor, then with less.
WAYS: tuple[list[str], ...] = (
    ["-march=native", "-fopenmp"],
    ["-mcpu=native", "-fopenmp"],
    ["-march=native"],
    ["-mcpu=native"],
    [],
)
_log = logging.getLogger(__name__)


def disabled() -> bool:
    """Whether the user switched compiled code off."""
    return os.environ.get("LIFESPAN_NATIVE", "1") == "0"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (told once) where they cannot be had."""
    if disabled():
        return None
    source = SOURCE.read_bytes()
    if (found := hashlib.sha256(source).hexdigest()) != SOURCE_SHA256:
        raise RuntimeError(f"{SOURCE.name} was edited: set SOURCE_SHA256 in {Path(__file__).name} to {found}")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        _log.warning("no C compiler (cc): training runs through plain torch, slower")
        return None
    try:
        handle = ctypes.CDLL(str(_compiled(compiler, source)))
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or error
        _log.warning("%s could not be compiled, training runs through plain torch, slower: %s", SOURCE.name, told)
        return None
    pointer, long, single, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
    signatures = {
        "norm_forward": [pointer] * 6 + [long] * 2 + [single, integer],
        "norm_backward": [pointer] * 7 + [long] * 2 + [integer],
        "heads_forward": [pointer] * 5 + [long] + [pointer] * 3 + [long] * 5 + [single, integer],
        "heads_backward": [pointer] * 5 + [long] + [pointer] * 6 + [long] * 5 + [single, integer],
        "attention_forward": [pointer] * 4 + [long] + [pointer] * 2 + [long] * 5 + [single, integer],
        "attention_backward": [pointer] * 5 + [integer] + [pointer] * 3 + [long] * 5 + [single, integer],
        "swiglu_forward": [pointer] * 2 + [long] * 2 + [integer],
        "swiglu_backward": [pointer] * 3 + [long] * 2 + [integer],
        "entropy_forward": [pointer] * 3 + [long] + [pointer] * 3 + [long] * 2 + [integer],
        "entropy_backward": [pointer] * 4 + [long] + [single] * 2 + [pointer] + [long] * 2 + [integer],
        "embedding_backward": [pointer] * 3 + [long] * 2,
    }
    for name, arguments in signatures.items():
        function = getattr(handle, name)
        function.argtypes, function.restype = arguments, None
    handle.attention_padding.argtypes, handle.attention_padding.restype = [], long
    return handle


def _compiled(compiler: str, source: bytes) -> Path:
    """The shared library of this source, compiler and processor; made when it is not there yet."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
    identity = "\n".join([version, _processor(), *FLAGS]).encode() + source
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lifespan"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except (OSError, RuntimeError):
        folder = Path(tempfile.mkdtemp(prefix="lifespan-"))  # nobody else can write there; compiled in every process
    target = folder / f"kernels-{hashlib.sha256(identity).hexdigest()[:24]}.so"
    if not target.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            made = Path(scratch) / target.name
            for way in WAYS:
                command = [compiler, *way, *FLAGS, "-o", str(made), str(SOURCE)]
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
