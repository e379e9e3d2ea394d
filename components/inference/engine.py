"""Batched generation with a KV cache: equal prompts are computed once, and slots are refilled as sequences end.

Shape suffixes: B sequences in flight, T prompt positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from components.inference.sampling import SamplingParams, choose, uniforms
from components.model.transformer import KVCache, Transformer


@dataclass
class Completion:
    """One sampled continuation: token ids (a stop token included), their log-probabilities, and whether a stop token
    ended it (else the length limit did)."""

    prompt_index: int
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole continuation, in nats."""
        return sum(self.log_probs)


@dataclass
class _Flight:
    """The sequences in flight: their cache rows, next-token logits, and where their output goes."""

    cache: KVCache
    logits_BV: Tensor
    outputs: list[Completion]
    streams: np.ndarray  # uint64: which random stream each sequence draws from


@torch.inference_mode()
def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], params: SamplingParams, max_batch: int = 256
) -> list[list[Completion]]:
    """`params.num_samples` completions of each prompt, in the order of the prompts.

    A sequence ends at a stop token, after `max_tokens`, or when the context is full. Raises ValueError for an empty
    prompt or one that leaves no room in the context.
    """
    limit = model.cfg.context_length
    for index, tokens in enumerate(prompts):
        if not 0 < len(tokens) < limit:
            raise ValueError(
                f"prompt {index} has {len(tokens)} tokens; the model takes 1 to {limit - 1} and needs room to answer"
            )
    model.eval()
    unique: dict[tuple[int, ...], int] = {}
    for tokens in prompts:
        unique.setdefault(tuple(tokens), len(unique))
    results: list[list[Completion]] = [
        [Completion(index) for _ in range(params.num_samples)] for index in range(len(prompts))
    ]
    # Waiting sequences, those of one length and one prompt together: they prefill without padding, and once.
    waiting = [
        (tuple(prompts[i]), out, i * params.num_samples + s)
        for i, group in enumerate(results)
        for s, out in enumerate(group)
    ]
    waiting.sort(key=lambda item: (len(item[0]), unique[item[0]]), reverse=True)
    capacity = min(limit, max(map(len, prompts), default=0) + params.max_tokens)
    flight: _Flight | None = None
    while waiting or flight:
        free = max_batch - (len(flight.outputs) if flight else 0)
        if waiting and free >= max(1, max_batch // 4):
            admitted = [waiting.pop() for _ in range(min(free, len(waiting)))]
            flight = _join(flight, _prefill(model, admitted, capacity))
        assert flight is not None
        flight = _decode_until_thin(model, flight, params, max_batch if waiting else len(flight.outputs))
    return results


def _prefill(model: Transformer, admitted: list[tuple[tuple[int, ...], Completion, int]], capacity: int) -> _Flight:
    rows: dict[tuple[int, ...], int] = {}
    for tokens, _, _ in admitted:
        rows.setdefault(tokens, len(rows))
    lengths = torch.tensor([len(tokens) for tokens in rows])
    padded_BT = torch.zeros(len(rows), int(lengths.max()), dtype=torch.long)
    for row, tokens in enumerate(rows):
        padded_BT[row, : len(tokens)] = torch.tensor(tokens)
    cache = KVCache.empty(model.cfg, len(rows), capacity, model.embedding.weight.dtype)
    # A prompt of one token would look like a decode step; slots are empty, so that gives the same result.
    x_BTD = model.hidden(padded_BT, cache=cache).x_BTD
    logits_BV = model.logits(x_BTD[torch.arange(len(rows)), lengths - 1])
    cache.lengths_B = lengths
    spread = torch.tensor([rows[tokens] for tokens, _, _ in admitted])
    if len(admitted) != len(rows):
        cache, logits_BV = cache.select(spread), logits_BV[spread]
    streams = np.array([stream for _, _, stream in admitted], dtype=np.uint64)
    return _Flight(cache, logits_BV, [out for _, out, _ in admitted], streams)


def _join(first: _Flight | None, second: _Flight) -> _Flight:
    if first is None:
        return second
    cache = KVCache(
        [torch.cat(pair) for pair in zip(first.cache.keys_LBKSC, second.cache.keys_LBKSC, strict=True)],
        [torch.cat(pair) for pair in zip(first.cache.values_LBKSC, second.cache.values_LBKSC, strict=True)],
        torch.cat([first.cache.lengths_B, second.cache.lengths_B]),
    )
    return _Flight(
        cache,
        torch.cat([first.logits_BV, second.logits_BV]),
        first.outputs + second.outputs,
        np.concatenate([first.streams, second.streams]),
    )


def _decode_until_thin(model: Transformer, flight: _Flight, params: SamplingParams, full: int) -> _Flight | None:
    """Decode until a quarter of `full` slots is free, so that the caller may refill; drop the sequences that ended."""
    cache, logits_BV, outputs, streams = flight.cache, flight.logits_BV, flight.outputs, flight.streams
    capacity = cache.keys_LBKSC[0].shape[2]
    stops = set(params.stop_ids)
    alive = np.ones(len(outputs), dtype=bool)
    while alive.sum() > min(len(outputs), full) * 3 // 4:
        positions = np.array([len(out.tokens) for out in outputs], dtype=np.uint64)
        tokens_B, log_probs_B = choose(logits_BV, params, uniforms(params.seed, streams, positions))
        lengths = cache.lengths_B.tolist()
        for row, (token, log_prob) in enumerate(zip(tokens_B.tolist(), log_probs_B.tolist(), strict=True)):
            if not alive[row]:
                continue
            out = outputs[row]
            out.tokens.append(token)
            out.log_probs.append(log_prob)
            out.finished = token in stops
            alive[row] = not (out.finished or len(out.tokens) >= params.max_tokens or lengths[row] + 1 >= capacity)
        if not alive.any():
            return None
        # Rows that ended go on writing harmlessly into their last slot until they are dropped.
        logits_BV = model(tokens_B[:, None], cache=cache)[:, -1]
        cache.lengths_B = (cache.lengths_B + 1).clamp_max(capacity - 1)
    keep = torch.from_numpy(np.flatnonzero(alive))
    return _Flight(cache.select(keep), logits_BV[keep], [outputs[i] for i in keep.tolist()], streams[keep.numpy()])


def token_log_probs(model: Transformer, tokens_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of tokens_BT[:, 1:] given what precedes each, shape [B, T-1]. Differentiable."""
    logits_BTV = model(tokens_BT[:, :-1]) / temperature
    return -F.cross_entropy(logits_BTV.transpose(1, 2), tokens_BT[:, 1:], reduction="none")
