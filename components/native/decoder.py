"""The decoder in C (`decode.c`): compiled once for this machine, then one call per step.

It runs in float32 on a CPU, for the models that `coverage.DECODER` takes; all others decode through torch
(`components.inference.decoders`).
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.model.feed_forward import FeedForward
from components.model.transformer import Attention, Block, Transformer
from components.native.compiler import Program, load

_NAMES = "decode.c", "decoder.h", "vectors.h", "decode_panels.c", "decode_attention.c", "decode_draw.c"
SOURCES = tuple(Path(__file__).with_name(name) for name in _NAMES)
# A stage's code key is made from Python files; this line makes the C files a part of it.
SOURCE_SHA256 = "9d7e5144b6c19f7706b3bd63f190a8c701da2af879afb39d033d8985ba4c35a4"
PROGRAM = Program(
    SOURCES,
    SOURCE_SHA256,
    flags=(
        *("-O3", "-std=gnu11", "-shared", "-fPIC", "-ffp-contract=fast", "-fopenmp-simd"),
        *("-fno-math-errno", "-fno-trapping-math"),
    ),
    targets=(("-march=native",), ("-mcpu=native",), ()),
    without="generation runs through torch, several times slower",
)
# Sequences that go on together: their keys and values should lie in a cache beside the weights. Where the weights alone
# fill it, they are read again for every step, so that many go together.
FEW_ROWS, MANY_ROWS, SMALL_WEIGHTS, NEAR_BYTES = 12, 96, 6 << 20, 7 << 20
SPARE_BYTES = 256 << 20  # memory of a decoder that is gone which is kept for the next
FIRST_BYTES = 16 << 20  # a larger table of what the first layer makes of each token is not kept: no cache holds it
TILE_ROWS = 6  # that the matrix products take at once
ROWS_OF_A_THREAD = 8  # fewer rows than this gain nothing from a second thread

_INTS = ("vocab", "d", "layers", "heads", "kv_heads", "c", "ff", "slots", "capacity", "window", "context")
_FLOATS = ("eps", "attention_cap", "logit_cap")
_TABLES = ("embedding", "cos", "sin", "last_norm", "unembedding")
_LAYERS = ("attention_norm", "qkv", "qkv_bias", "q_norm", "k_norm", "out", "mlp_norm", "gate_up", "down")


class SamplingSpec(ctypes.Structure):
    """How a single token is drawn: what of `sampling.SamplingParams` is about one."""

    _fields_ = (
        *((name, ctypes.c_int32) for name in ("top_k", "num_bans", "raw")),
        *((name, ctypes.c_float) for name in ("temperature", "top_p", "min_p")),
        ("bans", ctypes.c_void_p),
    )


class DecodeBatch(ctypes.Structure):
    """Sequences by slot that are drawn alike, as `NativeDecoder.advance` continues them."""

    _fields_ = (
        ("spec", SamplingSpec),
        ("stride", ctypes.c_int32),
        ("num_stops", ctypes.c_int32),
        *(
            (name, ctypes.c_void_p)
            for name in ("tokens", "known", "done", "log_probs", "prompt", "limit", "stops", "seeds", "streams")
        ),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in _INTS),
        *((name, ctypes.c_float) for name in _FLOATS),
        *((name, ctypes.c_void_p) for name in (*_TABLES, *_LAYERS, "keys", "values", "first", "met")),
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled `decode.c`, or None (with one warning) where it cannot be had."""
    handle = load(PROGRAM)
    if handle is None:
        return None
    number, long, pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    handle.lifespan_workspace.restype = long
    signatures = {
        "sizes": [pointer],
        "workspace": [pointer],
        "pack": [pointer, long, long, number, pointer],
        "copy": [pointer, number, number, number],
        "choose": [pointer, pointer, number, number, pointer, pointer, pointer, pointer],
        "forward": [pointer, number, pointer, pointer, pointer, number, pointer, pointer, pointer],
        "advance": [pointer, pointer, number, pointer, pointer, number, number, pointer],
    }
    for name, arguments in signatures.items():
        getattr(handle, f"lifespan_{name}").argtypes = arguments
    return handle


def choose_natively(
    logits_BV: Tensor, spec: SamplingSpec, uniform_B: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """`sampling.choose` for float32 logits on the CPU; only where there is a `library()`. Of tokens that are equally
    probable top_p keeps all or none."""
    handle = library()
    assert handle is not None
    count, vocab = logits_BV.shape
    logits_BV = logits_BV.contiguous()
    tokens_B, log_probs_B = np.empty(count, np.int32), np.empty(count, np.float32)
    draw = np.empty(2 * vocab, np.float32)
    handle.lifespan_choose(
        ctypes.addressof(spec),
        logits_BV.data_ptr(),
        count,
        vocab,
        uniform_B.ctypes.data,
        tokens_B.ctypes.data,
        log_probs_B.ctypes.data,
        draw.ctypes.data,
    )
    return tokens_B, log_probs_B


_spare: list[npt.NDArray[np.float32]] = []


def _memory(floats: int) -> npt.NDArray[np.float32]:
    """Memory for keys and values, whatever is in it: that of a decoder which is gone, where it fits. A system clears
    fresh memory first, which took 3% of the time where one batch follows another."""
    with contextlib.suppress(IndexError):
        if floats <= (kept := _spare.pop()).size <= 4 * floats:
            return kept
    return np.empty(floats, np.float32)  # pages that are never written are never real


def _keep(memory: npt.NDArray[np.float32]) -> None:
    if not _spare and memory.nbytes <= SPARE_BYTES:
        _spare.append(memory)


class NativeDecoder:
    """A dense model's weights, packed, and the keys and values of `slots` sequences of at most `capacity` tokens.

    What a row gets depends on its own sequence alone, bit for bit.
    """

    def __init__(self, model: Transformer, slots: int, capacity: int) -> None:
        handle = library()
        assert handle is not None
        self._library, self.slots = handle, slots
        cfg, sizes = model.cfg, (ctypes.c_int32 * 3)()
        handle.lifespan_sizes(sizes)
        self._panel, block, size = sizes
        assert size == ctypes.sizeof(_Model)
        self.capacity = -(-capacity // block) * block
        self._kept: list[Any] = []  # what C holds addresses of
        self._weights = 0  # bytes of packed ones
        first = np.empty((cfg.vocab_size, (cfg.num_heads + 2 * cfg.kv_heads) * cfg.per_head), np.float32)
        half = cfg.num_layers * slots * cfg.kv_heads * self.capacity * cfg.per_head
        self._cache = _memory(2 * half)
        self._cache_bytes = 2 * half * self._cache.itemsize
        weakref.finalize(self, _keep, self._cache)
        blocks = [self._block(block) for block in model.blocks if isinstance(block, Block)]
        unembedding = model.embedding.weight if model.unembedding is None else model.unembedding.weight
        self._model = _Model(
            **{
                "vocab": cfg.vocab_size,
                "d": cfg.d_model,
                "layers": cfg.num_layers,
                "heads": cfg.num_heads,
                "kv_heads": cfg.kv_heads,
                "c": cfg.per_head,
                "ff": cfg.hidden,
                "slots": slots,
                "capacity": self.capacity,
                "window": cfg.sliding_window,
                "context": cfg.context_length,
                "eps": cfg.norm_eps,
                "attention_cap": cfg.attention_softcap,
                "logit_cap": cfg.logit_softcap,
                "embedding": self._plain(model.embedding.weight),
                "cos": self._plain(model.cos),
                "sin": self._plain(model.sin),
                "last_norm": self._plain(model.norm.weight),
                "unembedding": self._packed(unembedding),
                "keys": self._address(self._cache[:half]),
                "values": self._address(self._cache[half:]),
                "first": None if first.nbytes > FIRST_BYTES else self._address(first),
                "met": self._address(np.zeros(cfg.vocab_size, np.uint8)),
            },
            **{name: self._pointers([layer[name] for layer in blocks]) for name in _LAYERS},
        )
        self._self = ctypes.addressof(self._model)
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None
        floats = handle.lifespan_workspace(self._self)
        self._workspaces = [np.empty(floats, np.float32) for _ in range(self._threads)]

    def _block(self, block: Block) -> dict[str, int | None]:
        attention, mlp = block.attention, block.mlp
        assert isinstance(attention, Attention) and isinstance(mlp, FeedForward)
        return {
            "attention_norm": self._plain(block.attention_norm.weight),
            "qkv": self._packed(attention.qkv.weight),
            "qkv_bias": self._plain(attention.qkv.bias),
            "q_norm": self._plain(attention.q_norm),
            "k_norm": self._plain(attention.k_norm),
            "out": self._packed(attention.out.weight),
            "mlp_norm": self._plain(block.mlp_norm.weight),
            "gate_up": self._packed(mlp.gate_up.weight, gated=True),
            "down": self._packed(mlp.down.weight),
        }

    def _address(self, array: npt.NDArray[Any]) -> int:
        self._kept.append(array)
        return int(array.ctypes.data)

    def _plain(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        return self._address(tensor.detach().to("cpu", torch.float32).contiguous().numpy())

    def _packed(self, weight: Tensor, gated: bool = False) -> int:
        plain = weight.detach().to("cpu", torch.float32).contiguous()
        outputs, inputs = plain.shape
        packed = np.empty(-(-outputs // self._panel) * self._panel * inputs + gated * self._panel * inputs, np.float32)
        self._library.lifespan_pack(plain.data_ptr(), outputs, inputs, gated, packed.ctypes.data)
        self._weights += packed.nbytes
        return self._address(packed)

    def _pointers(self, addresses: list[int | None]) -> int:
        array = (ctypes.c_void_p * len(addresses))(*addresses)
        self._kept.append(array)
        return ctypes.addressof(array)

    def forward(
        self,
        tokens_N: npt.NDArray[np.int32],
        slots_N: npt.NDArray[np.int32],
        positions_N: npt.NDArray[np.int32],
        wanted: npt.NDArray[np.int32],
    ) -> Tensor:
        """Logits [len(wanted), V] of the wanted rows; see `decoders.Decoder`."""
        logits_WV = np.empty((len(wanted), self._model.vocab), np.float32)
        if self._pool is None or len(tokens_N) < 2 * ROWS_OF_A_THREAD:
            self._pass(0, tokens_N, slots_N, positions_N, wanted, logits_WV)
            return torch.from_numpy(logits_WV)
        # Threads share no sequence, and each takes about as many rows.
        order = np.argsort(slots_N, kind="stable")
        bounds = np.linspace(0, len(order), self._threads + 1).astype(int)[1:-1]
        edges = np.searchsorted(slots_N[order], slots_N[order][bounds])
        parts = [part for part in np.split(order, edges) if len(part)]
        place_of = np.full(len(tokens_N), -1, np.int32)
        place_of[wanted] = np.arange(len(wanted))

        def run(index: int, part: npt.NDArray[np.intp]) -> None:
            part = np.sort(part)
            places = place_of[part]
            mine = np.flatnonzero(places >= 0).astype(np.int32)
            logits = np.empty((len(mine), self._model.vocab), np.float32)
            self._pass(index, tokens_N[part], slots_N[part], positions_N[part], mine, logits)
            logits_WV[places[mine]] = logits

        list(self._pool.map(run, range(len(parts)), parts))
        return torch.from_numpy(logits_WV)

    def _pass(
        self,
        thread: int,
        tokens_N: npt.NDArray[np.int32],
        slots_N: npt.NDArray[np.int32],
        positions_N: npt.NDArray[np.int32],
        wanted: npt.NDArray[np.int32],
        logits_WV: npt.NDArray[np.float32],
    ) -> None:
        self._library.lifespan_forward(
            self._self,
            len(tokens_N),
            tokens_N.ctypes.data,
            slots_N.ctypes.data,
            positions_N.ctypes.data,
            len(wanted),
            wanted.ctypes.data,
            logits_WV.ctypes.data,
            self._workspaces[thread].ctypes.data,
        )

    def advance(self, batch: DecodeBatch, slots: npt.NDArray[np.int32], steps: int) -> None:
        """Let each of these slots gain `steps` tokens, or as many as it takes to end."""
        near = (NEAR_BYTES - self._weights) * self.slots // self._cache_bytes // TILE_ROWS * TILE_ROWS
        most = max(TILE_ROWS, min(FEW_ROWS, near)) if self._weights < SMALL_WEIGHTS else MANY_ROWS
        blocks = -(-len(slots) // most)
        blocks = -(-blocks // self._threads) * self._threads  # so that no thread waits for another's last one
        width = min(-(-len(slots) // blocks // TILE_ROWS) * TILE_ROWS, most)
        turn = ctypes.c_int32(0)

        def run(workspace: npt.NDArray[np.float32]) -> None:
            self._library.lifespan_advance(
                self._self,
                ctypes.addressof(batch),
                len(slots),
                slots.ctypes.data,
                ctypes.addressof(turn),
                width,
                steps,
                workspace.ctypes.data,
            )

        if self._pool is None or len(slots) < 2 * ROWS_OF_A_THREAD:
            run(self._workspaces[0])
        else:
            list(self._pool.map(run, self._workspaces))

    def copy(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of one slot, copied to another."""
        self._library.lifespan_copy(self._self, source, target, length)
