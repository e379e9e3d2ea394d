"""The kernels written in C, compiled once for this machine; `library()` is None where that cannot be.

Between the matrix products an eager step of a small model is a hundred passes over memory. These loops make one pass
each. Compiling takes a few seconds and is kept in the user's cache folder. LIFESPAN_NATIVE=0 switches the kernels off.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from components.native.compiler import Program, load

_NAMES = "vectors.h", "kernels.h", "kernels.c", "products.c", "layers.c"
SOURCES = tuple(Path(__file__).with_name(name) for name in _NAMES)
# A stage's code key is made from Python files; this line makes the C files a part of it.
SOURCE_SHA256 = "9436747dace8fd8df558d4bac807cfdc98cdfc4fe8f86f503b7ff6c7f495449d"
PROGRAM = Program(
    SOURCES,
    SOURCE_SHA256,
    flags=(
        *("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
        *("-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
    ),
    # With threads and for this very processor, then with less.
    targets=(("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-march=native",), ("-mcpu=native",), ()),
    without="training runs through plain torch, slower",
)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None (with one warning) where they cannot be had."""
    handle = load(PROGRAM)
    if handle is None:
        return None
    _keep_memory()
    pointer, long, single, integer = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_int
    signatures = {
        "norm_forward": [pointer] * 6 + [long] * 2 + [single, integer],
        "norm_backward": [pointer] * 8 + [long] * 2 + [integer],
        "heads_forward": [pointer] * 5 + [long] + [pointer] * 3 + [long] * 5 + [single, integer],
        "heads_backward": [pointer] * 5 + [long] + [pointer] * 6 + [long] * 5 + [single, integer],
        "attention_forward": [pointer] * 4 + [long] + [pointer] * 2 + [long] * 5 + [single, integer],
        "attention_backward": [pointer] * 5 + [integer] + [pointer] * 3 + [long] * 5 + [single, integer],
        "product": [pointer, long, long] * 2 + [pointer] + [long] * 3 + [integer],
        "swiglu_forward": [pointer] * 2 + [long] * 2 + [integer],
        "feed_forward": [pointer] * 9 + [long] * 3 + [single, integer],
        "feed_forward_backward": [pointer] * 10 + [long] * 3 + [integer],
        "attention_layer": [
            *([pointer] * 9 + [long, pointer, long] + [pointer] * 6),
            *([long] * 6 + [single] * 2 + [integer]),
        ],
        "attention_layer_backward": [
            *([pointer] * 9 + [long] + [pointer] * 3 + [integer] + [pointer] * 4),
            *([long] * 6 + [single] * 2 + [integer]),
        ],
        "swiglu_backward": [pointer] * 4 + [long] * 2 + [integer],
        "entropy_forward": [pointer] * 3 + [long] + [pointer] * 3 + [long] * 2 + [integer],
        "entropy_backward": [pointer] * 4 + [long] + [single] * 2 + [pointer] + [long] * 2 + [integer],
        "loss_forward": [pointer] * 4 + [long] + [pointer] * 3 + [long] * 3 + [integer],
        "loss_backward": [pointer] * 6 + [long] + [single] * 2 + [pointer] * 2 + [long] * 3 + [integer],
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
    """What goes through our products: a linear map's x Wᵀ, dy W and dyᵀ x, and the layers of a block as wholes."""

    forward: bool = False
    inputs: bool = False
    weights: bool = False
    layers: bool = False


@functools.cache
def own_products() -> OwnProducts:
    """Those in which it beats torch's library, as most do on AMD cores. Measured once (a second) and kept beside the
    compiled kernels, so that the same machine always gives the same bits."""
    handle = library()
    if handle is None:
        return OwnProducts()
    kept = Path(handle._name).with_suffix(".json")
    if not kept.is_file():
        faster = {name: ours > theirs for name, (ours, theirs) in product_speeds(handle).items()}
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            part.write_text(json.dumps(faster), encoding="utf-8")
            with contextlib.suppress(FileExistsError):  # of processes that measure at once the first decides for all
                os.link(part, kept)
        part.unlink(missing_ok=True)
        if not kept.is_file():  # a full disk, or one without links: torch's, as another process might measure otherwise
            return OwnProducts()
    return OwnProducts(**json.loads(kept.read_text(encoding="utf-8")))


def product_speeds(handle: ctypes.CDLL, repeats: int = 15) -> dict[str, tuple[float, float]]:
    """Runs a second of one thread in our products and in torch's library, the fastest of `repeats` taken in turn: what
    else the machine does slows down both, but not both alike."""
    import torch
    from torch import Tensor

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows, d, hidden = 1024, 128, 352
    x, y, dx, dy, norm, rstd = (torch.rand(*size) for size in ((rows, d),) * 4 + ((d,), (rows,)))
    wide, narrow, grads = torch.rand(2 * hidden, d), torch.rand(d, hidden), torch.empty(d + 3 * d * hidden)
    gate_up, d_gate_up = torch.rand(rows, 2 * hidden), torch.rand(rows, 2 * hidden)

    def at(*tensors: Tensor | None) -> list[int | None]:
        return [None if tensor is None else tensor.data_ptr() for tensor in tensors]

    def product(a: Tensor, b: Tensor) -> None:
        c = torch.empty(a.shape[0], b.shape[1])
        handle.product(a.data_ptr(), *a.stride(), b.data_ptr(), *b.stride(), c.data_ptr(), *c.shape, a.shape[1], 1)

    def fused() -> None:
        places = at(x, None, norm, wide, narrow, x, rstd, gate_up, y)
        handle.feed_forward(*places, rows, d, hidden, 1e-6, 1)
        places = at(x, rstd, norm, wide, narrow, gate_up, None, dy, dx, grads)
        handle.feed_forward_backward(*places, rows, d, hidden, 1)

    def plain() -> None:
        handle.norm_forward(*at(x, None, norm, x, y, rstd), rows, d, 1e-6, 1)
        mixed, out = torch.mm(y, wide.T), torch.empty(rows, hidden)
        handle.swiglu_forward(*at(mixed, out), rows, hidden, 1)
        torch.mm(out, narrow.T), torch.mm(dy.T, out)
        back, mixed_back = torch.mm(dy, narrow), torch.empty(rows, 2 * hidden)
        handle.swiglu_backward(*at(mixed, back, mixed_back, None), rows, hidden, 1)
        torch.mm(mixed_back.T, y)
        handle.norm_backward(*at(x, norm, rstd, torch.mm(mixed_back, wide), None, dx, grads, None), rows, d, 1)

    sides: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {"layers": (fused, plain)}
    for name, a, b in (("forward", x, wide.T), ("inputs", d_gate_up, wide), ("weights", d_gate_up.T, x)):
        sides[name] = functools.partial(product, a, b), functools.partial(torch.mm, a, b)
    speeds = {}
    for name, pair in sides.items():
        seconds: tuple[list[float], list[float]] = [], []
        for _ in range(repeats):
            for run, taken in zip(pair, seconds, strict=True):
                began = time.thread_time()  # of the processor: other programs do not count
                run()
                taken.append(time.thread_time() - began)
        speeds[name] = (1 / min(seconds[0]), 1 / min(seconds[1]))
    torch.set_num_threads(before)
    return speeds
