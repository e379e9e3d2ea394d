"""The C kernels of `kernels.c`, compiled once for this machine; `library()` is None where that cannot be.

Between the matrix products an eager step of a small model is a hundred passes over memory. These loops make one pass
each. Compiling takes a few seconds and is kept in the user's cache folder. LIFESPAN_NATIVE=0 switches the kernels off.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("kernels.c")
# What a stage is known by is read from Python files; this line makes the C file a part of it.
SOURCE_SHA256 = "8907a7154e2de764b4a1584f464175fd5bccb3e0a9fa87d1cf846d11da58b0e7"
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


class OwnProducts(NamedTuple):
    """Which products of a linear map go through `product` of kernels.c: x Wᵀ, dy W and dyᵀ x."""

    forward: bool = False
    inputs: bool = False
    weights: bool = False


@functools.cache
def own_products() -> OwnProducts:
    """Those in which it beats torch's library, as most do on AMD cores. Measured once (0.1 s) and kept beside the
    compiled kernels, so that the same machine always gives the same bits."""
    handle = library()
    if handle is None:
        return OwnProducts()
    kept = Path(handle._name).with_suffix(".json")
    if not kept.is_file():
        faster = {name: ours > 1.05 * theirs for name, (ours, theirs) in product_speeds(handle).items()}
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.write_text(json.dumps(faster), encoding="utf-8")
        with contextlib.suppress(FileExistsError):  # of processes that measure at once the first decides for all
            os.link(part, kept)
        part.unlink()
    return OwnProducts(**json.loads(kept.read_text(encoding="utf-8")))


def product_speeds(handle: ctypes.CDLL, repeats: int = 6) -> dict[str, tuple[float, float]]:
    """FLOP/s of one thread in `product` and in torch's library for each product of a linear map, the best of `repeats`
    taken in turn."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    x, weight, dy = torch.rand(2048, 128), torch.rand(352, 128), torch.rand(2048, 352)
    result = {}
    for name, a, b in (("forward", x, weight.T), ("inputs", dy, weight), ("weights", dy.T, x)):
        c, best = torch.empty(a.shape[0], b.shape[1]), [float("inf"), float("inf")]
        arguments = a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), c.data_ptr(), *c.shape, a.shape[1], 1
        for _ in range(repeats):
            began = time.perf_counter()
            handle.product(*arguments)
            middle = time.perf_counter()
            torch.mm(a, b, out=c)
            best = [min(best[0], middle - began), min(best[1], time.perf_counter() - middle)]
        flops = 2 * c.numel() * a.shape[1]
        result[name] = (flops / best[0], flops / best[1])
    torch.set_num_threads(before)
    return result


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
