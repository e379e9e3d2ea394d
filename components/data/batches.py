"""Batches as a pure function of (seed, step): resuming needs the step and nothing else.

Sampling scheme
- A source's train stream of n tokens is cut into W = (n - 1) // T windows of T + 1 tokens that overlap by one, so
  that each of their tokens but the very first is predicted once an epoch; up to T - 1 tokens at the end are left over.
- Epoch e of a source visits its windows in the order of a keyed permutation of [0, W): a Feistel network over a domain
  a x b >= W, a ~ b ~ sqrt(W), with cycle walking (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
  It costs O(1) memory for any W, and every epoch visits every window exactly once.
- The mixture is stratified: each cycle of 1,024 windows holds every source in its share (largest remainder, at least
  one) in an order shuffled by (seed, cycle). The number of windows that a source has given before a step is therefore
  known without replaying the steps before it.

Shapes: B batch, T context length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from components.data.shards import TokenShards

CYCLE = 1024
_ROUNDS = 6
_U64 = npt.NDArray[np.uint64]
_I64 = npt.NDArray[np.int64]


class Batch(NamedTuple):
    inputs_BT: Tensor  # int64
    targets_BT: Tensor  # int64; targets_BT[:, t] follows inputs_BT[:, t]
    source_ids_B: Tensor  # int64, positions in shards.sources


def batch_at(
    shards: TokenShards,
    step: int,
    batch_size: int,
    context_length: int,
    seed: int,
    weights_by_source: Mapping[str, float] | None = None,
    split: str = "train",
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """The batch of one step. Weights are shares of windows and need not sum to one; None means shares of tokens.

    With `world_size` processes each gets rows ``rank::world_size`` of the one global batch of `batch_size` rows.
    Raises ValueError for an unknown source, a negative weight, or a source that is shorter than one window.
    """
    if step < 0 or batch_size < 1 or not 0 <= rank < world_size or batch_size % world_size:
        raise ValueError(
            f"step {step}, batch_size {batch_size}, rank {rank} of {world_size}: "
            "expected step >= 0, rank < world_size, and a batch_size that world_size divides"
        )
    weights = _weights(shards, weights_by_source, split)
    names = list(weights)
    sizes = np.array([_num_windows(shards, name, split, context_length) for name in names], dtype=np.int64)
    mix = tuple(weights.values())

    slots = np.arange(step * batch_size + rank, (step + 1) * batch_size, world_size, dtype=np.int64)
    which, draws = _mixture(slots, mix, seed)
    epochs, positions = np.divmod(draws, sizes[which])
    keys = _mix(
        np.array([_source_key(seed, name) for name in names], dtype=np.uint64)[which]
        + epochs.astype(np.uint64) * _GOLDEN
    )
    windows = permute(positions, sizes[which], keys)

    tokens = np.empty((len(slots), context_length + 1), dtype=np.int64)
    streams = [shards.stream(name, split) for name in names]
    for row, (source, window) in enumerate(zip(which.tolist(), windows.tolist(), strict=True)):
        start = window * context_length
        tokens[row] = streams[source].read(start, start + context_length + 1)
    source_ids = np.array([shards.sources.index(name) for name in names], dtype=np.int64)[which]
    return Batch(*_shifted(tokens), torch.from_numpy(source_ids))


def validation_batches(
    shards: TokenShards,
    source: str,
    batch_size: int,
    context_length: int,
    split: str = "valid",
    max_windows: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(inputs, targets) int64 in reading order, shape [<= batch_size, <= context_length].

    Every token of the stream but its first is a target exactly once: what does not fill a window comes last, as a batch
    of one shorter row. With `max_windows` that many full windows spread evenly over the stream are taken instead.
    """
    stream = shards.stream(source, split)
    num_windows = max(len(stream) - 1, 0) // context_length
    windows = np.arange(num_windows)
    if max_windows is not None and max_windows < num_windows:
        windows = np.arange(max_windows) * num_windows // max_windows
    for first in range(0, len(windows), batch_size):
        starts = windows[first : first + batch_size] * context_length
        yield _shifted(np.stack([stream.read(s, s + context_length + 1) for s in starts.tolist()]).astype(np.int64))
    rest = num_windows * context_length
    if len(windows) == num_windows and len(stream) - rest >= 2:
        yield _shifted(stream.read(rest, len(stream))[None].astype(np.int64))


# -- the mixture ------------------------------------------------------------------------------------------------------


def _weights(shards: TokenShards, weights: Mapping[str, float] | None, split: str) -> dict[str, float]:
    if weights is None:
        weights = {name: shards.num_tokens(name, split) for name in shards.sources}
    for name, weight in weights.items():
        if name not in shards.sources:
            raise ValueError(
                f"weights_by_source names {name!r}, which the shards don't have; they have {', '.join(shards.sources)}"
            )
        if not (weight >= 0 and np.isfinite(weight)):
            raise ValueError(f"weights_by_source[{name!r}] is {weight}; it takes a number from 0 up")
    # In the order of the shards: the order of a mapping must not change what is drawn.
    kept = {name: float(weights[name]) for name in shards.sources if weights.get(name, 0) > 0}
    if not kept:
        raise ValueError("weights_by_source leaves no source: at least one weight must be above 0")
    if len(kept) > CYCLE:
        raise ValueError(f"{len(kept)} sources to mix; at most {CYCLE} are supported: merge some")
    return kept


def _num_windows(shards: TokenShards, source: str, split: str, context_length: int) -> int:
    length = len(shards.stream(source, split))
    if length < context_length + 1:
        raise ValueError(
            f"source {source!r} has {length} {split} tokens, fewer than one window of {context_length} + 1: "
            "lower context_length, add text, or set its weight to 0"
        )
    return (length - 1) // context_length


@lru_cache(maxsize=64)
def cycle_counts(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Windows of each source in a cycle of 1,024: largest remainder, at least one each."""
    shares = np.array(weights) / np.sum(weights) * (CYCLE - len(weights))
    counts = np.floor(shares).astype(int)
    order = np.argsort(-(shares - counts), kind="stable")
    counts[order[: CYCLE - len(weights) - counts.sum()]] += 1
    return tuple(int(c) + 1 for c in counts)


@lru_cache(maxsize=16)
def _cycle(cycle: int, weights: tuple[float, ...], seed: int) -> tuple[_I64, _I64]:
    """Source of each slot of a cycle, and how many earlier slots of the cycle have the same source. Both [1024]."""
    which = np.repeat(np.arange(len(weights)), cycle_counts(weights))
    which = np.random.default_rng([_as_unsigned(seed), cycle]).permutation(which)
    earlier = np.zeros(CYCLE, dtype=np.int64)
    for source in range(len(weights)):
        mine = which == source
        earlier[mine] = np.arange(mine.sum())
    return which, earlier


def _mixture(slots: _I64, weights: tuple[float, ...], seed: int) -> tuple[_I64, _I64]:
    """Source of each global slot, and the running number of its draw from that source."""
    counts = np.array(cycle_counts(weights), dtype=np.int64)
    cycles, places = np.divmod(slots, CYCLE)
    which = np.empty_like(slots)
    draws = np.empty_like(slots)
    for cycle in range(int(cycles[0]), int(cycles[-1]) + 1):
        here = cycles == cycle
        source_of, earlier = _cycle(cycle, weights, seed)
        which[here] = source_of[places[here]]
        draws[here] = earlier[places[here]] + cycle * counts[which[here]]
    return which, draws


# -- the permutation --------------------------------------------------------------------------------------------------

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUND_KEYS = np.arange(1, _ROUNDS + 1, dtype=np.uint64) * _GOLDEN


def _as_unsigned(seed: int) -> int:
    return seed % (1 << 64)


@lru_cache(maxsize=256)
def _source_key(seed: int, source: str) -> int:
    # By name, so that adding a source leaves the order of the others alone.
    digest = hashlib.blake2b(source.encode(), key=_as_unsigned(seed).to_bytes(8, "little"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _mix(x: _U64) -> _U64:
    """The finaliser of splitmix64 (Steele et al. 2014): a bijection of 64 bits that passes avalanche tests."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(positions: npt.NDArray[Any], sizes: npt.NDArray[Any], keys: npt.NDArray[Any]) -> _I64:
    """Element by element: the image of ``positions[i]`` under the permutation of [0, sizes[i]) keyed by ``keys[i]``."""
    size = sizes.astype(np.uint64)
    side_a = np.ceil(np.sqrt(sizes.astype(np.float64))).astype(np.uint64)
    side_b = (size + side_a - np.uint64(1)) // side_a
    value = positions.astype(np.uint64)
    out = np.zeros_like(value)
    todo = np.arange(len(value))
    while len(todo):
        a, b, key = side_a[todo], side_b[todo], keys[todo].astype(np.uint64)
        left, right = np.divmod(value[todo], b)
        for number in range(0, _ROUNDS, 2):
            left = (left + _mix(right + key + _ROUND_KEYS[number]) % a) % a
            right = (right + _mix(left + key + _ROUND_KEYS[number + 1]) % b) % b
        # Cycle walking: an image outside [0, size) is sent through again, which is a permutation of what lies inside.
        value[todo] = left * b + right
        inside = value[todo] < size[todo]
        out[todo[inside]] = value[todo[inside]]
        todo = todo[~inside]
    return out.astype(np.int64)


def _shifted(tokens: _I64) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(tokens[:, :-1])), torch.from_numpy(np.ascontiguousarray(tokens[:, 1:]))
