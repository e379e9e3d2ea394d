"""The C kernels of `kernels.c`, compiled once for this machine; `library()` is None where that cannot be.

Between the matrix products an eager step of a small model is a hundred passes over memory. These loops make one pass
each. Compiling takes a few seconds and is kept in the user's cache folder. LIFESPAN_NATIVE=0 switches the kernels off.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.c")
# What a stage is known by is read from Python files; this line makes the C file a part of it.
SOURCE_SHA256 = "45653c3a9c29637eab56841466dea69bab246844280836edc4653407a19c02cc"
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
    _keep_memory()
    pointer, long, single, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
    signatures = {
        "norm_forward": [pointer] * 6 + [long] * 2 + [single, integer],
        "norm_backward": [pointer] * 7 + [long] * 2 + [integer],
        "heads_forward": [pointer] * 5 + [long] + [pointer] * 3 + [long] * 5 + [single, integer],
        "heads_backward": [pointer] * 5 + [long] + [pointer] * 6 + [long] * 5 + [single, integer],
        "attention_forward": [pointer] * 4 + [long] + [pointer] * 2 + [long] * 5 + [single, integer],
        "attention_backward": [pointer] * 5 + [integer] + [pointer] * 3 + [long] * 5 + [single, integer],
        "product": [pointer, long, long] * 2 + [pointer] + [long] * 3 + [integer],
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


def _keep_memory() -> None:
    """Let glibc keep what a step frees for the next one: giving it back and faulting it in again took a tenth of a
    step (docs/log.md)."""
    with contextlib.suppress(OSError, AttributeError):  # no glibc: its own allocator knows best
        libc = ctypes.CDLL(None)
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_TOP_PAD, 64 << 20)


@functools.cache
def own_products() -> bool:
    """Whether matrix products go through `product` of kernels.c: where it beats torch's library clearly, as on AMD
    cores with AVX-512, of which MKL uses half. Measured once (0.1 s) and kept beside the compiled kernels, so that the
    same machine always gives the same bits."""
    handle = library()
    if handle is None:
        return False
    verdict = Path(handle._name).with_suffix(".products")
    if not verdict.is_file():
        ours, theirs = product_speeds(handle)
        with contextlib.suppress(OSError):
            part = verdict.with_name(f"{verdict.name}.{os.getpid()}")
            part.write_text("own" if ours > 1.2 * theirs else "torch", encoding="utf-8")
            part.replace(verdict)
    return verdict.is_file() and verdict.read_text(encoding="utf-8") == "own"


def product_speeds(handle: ctypes.CDLL, size: int = 384, repeats: int = 8) -> tuple[float, float]:
    """FLOP/s of one thread in `product` and in torch's library, the best of `repeats`, taken in turn."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b, c = (torch.rand(size, size) for _ in range(3))
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        began = time.perf_counter()
        handle.product(a.data_ptr(), size, 1, b.data_ptr(), size, 1, c.data_ptr(), size, size, size, 1)
        middle = time.perf_counter()
        torch.mm(a, b, out=c)
        best = [min(best[0], middle - began), min(best[1], time.perf_counter() - middle)]
    torch.set_num_threads(before)
    return 2 * size**3 / best[0], 2 * size**3 / best[1]


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
