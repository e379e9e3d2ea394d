"""Sampling as pure functions. The random number of a token depends on (seed, sequence, position) alone, so a sequence
gets the same draws whatever else is in its batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

LEAST_TEMPERATURE = 1e-30  # above 0: logits over it, up to 10⁸, stay finite in float32


@dataclass(frozen=True)
class SamplingParams:
    """How to go on from a prompt.

    temperature 0 is greedy. top_k 0, top_p 1 and min_p 0 keep all tokens; min_p drops what is less probable than this
    share of the most probable one. `stop_ids` end a sequence and are kept in its tokens; `stop` are texts that end it,
    however many tokens they take. num_samples: independent completions a prompt; they share the prompt's prefill.
    `ban_ids` are never drawn. Log-probabilities are those of the tempered distribution, which a trainer recomputes
    (at temperature 0: at 1), or with `raw_log_probs` the model's own. top_log_probs: this many of the most probable
    tokens are reported at every position; prompt_log_probs: for the prompt as well (max_tokens may then be 0).
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    num_samples: int = 1
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    ban_ids: tuple[int, ...] = ()
    raw_log_probs: bool = False
    top_log_probs: int = 0
    prompt_log_probs: bool = False

    def __post_init__(self) -> None:
        least = 0 if self.prompt_log_probs else 1
        if self.max_tokens < least:
            raise ValueError(f"max_tokens is {self.max_tokens}: give a number of at least {least}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}: give a number of at least 0")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature is {self.temperature}: give 0 (greedy) or at least {LEAST_TEMPERATURE:g}; logits over "
                "less are beyond float32"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: give a number above 0, at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}: give a number from 0 to 1")
        if self.top_k < 0 or self.num_samples < 1:
            raise ValueError(f"top_k is {self.top_k}, num_samples {self.num_samples}: at least 0 and 1 are taken")
        if self.top_k >= 2**31:
            raise ValueError(f"top_k is {self.top_k}: no vocabulary is so large; give 0 to keep all tokens")
        if self.top_log_probs < 0:
            raise ValueError(f"top_log_probs is {self.top_log_probs}: give a number of at least 0")
        if "" in self.stop:
            raise ValueError("stop holds an empty text: every text contains it")


def uniforms(
    seed: int | npt.NDArray[np.uint64], sequences_B: npt.NDArray[np.uint64], positions_B: npt.NDArray[np.uint64]
) -> Tensor:
    """A uniform number in [0, 1) for each (sequence, position), of one seed or a seed each: two rounds of the
    splitmix64 finalizer (Steele et al. 2014) over their combination. float64, shape [B]."""
    seed_B = np.uint64(seed % 2**64) if isinstance(seed, int) else seed
    with np.errstate(over="ignore"):
        state = seed_B * np.uint64(0xD1342543DE82EF95) + sequences_B * np.uint64(0x9E3779B97F4A7C15)
        state = _finalize(state) + positions_B * np.uint64(0xBF58476D1CE4E5B9)
        state = _finalize(state)
    return torch.from_numpy((state >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _finalize(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def choose(logits_BV: Tensor, params: SamplingParams, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probabilities [B], before top-k, top-p and min-p cut the distribution.

    Which distribution those are of is said at `SamplingParams`.
    """
    raw_BV = logits_BV
    if params.ban_ids:
        logits_BV = logits_BV.clone()
        logits_BV[:, list(params.ban_ids)] = float("-inf")
    if params.temperature == 0:
        tokens_B = logits_BV.argmax(-1)
    else:
        log_probs_BV = (logits_BV if params.temperature == 1 else logits_BV / params.temperature).log_softmax(-1)
        probs_BV = _truncate(log_probs_BV.exp(), params)
        cumulative_BV = probs_BV.cumsum(-1, dtype=torch.float64)
        # Inverse-CDF: the first token whose cumulative probability passes the uniform number.
        threshold_B1 = (uniform_B.to(logits_BV.device) * cumulative_BV[:, -1])[:, None]
        tokens_B = torch.searchsorted(cumulative_BV, threshold_B1, right=True)[:, 0]
        tokens_B = tokens_B.clamp_max(logits_BV.shape[-1] - 1)
        if not params.raw_log_probs:
            return tokens_B, log_probs_BV.gather(-1, tokens_B[:, None])[:, 0]
    log_probs_BV = (raw_BV if params.raw_log_probs else logits_BV).log_softmax(-1)
    return tokens_B, log_probs_BV.gather(-1, tokens_B[:, None])[:, 0]


def _truncate(probs_BV: Tensor, params: SamplingParams) -> Tensor:
    if params.top_k and params.top_k < probs_BV.shape[-1]:
        kth = probs_BV.topk(params.top_k, -1).values[:, -1:]
        probs_BV = probs_BV.masked_fill(probs_BV < kth, 0.0)
    if params.top_p < 1:
        ordered, index = probs_BV.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        # The first is kept whatever top_p: one too small for float32 would else drop all.
        dropped = (before > 0) & (before >= params.top_p * ordered.sum(-1, keepdim=True))
        ordered = ordered.masked_fill(dropped, 0.0)
        probs_BV = torch.zeros_like(probs_BV).scatter(-1, index, ordered)
    if params.min_p > 0:
        probs_BV = probs_BV.masked_fill(probs_BV < params.min_p * probs_BV.amax(-1, keepdim=True), 0.0)
    return probs_BV


Top = list[tuple[int, float]]
"""Token ids with their log-probabilities, the most probable first."""


def most_probable(logits_BV: Tensor, params: SamplingParams) -> list[Top]:
    """The `params.top_log_probs` most probable tokens of every row, under the distribution that `choose` reports."""
    if not params.raw_log_probs:
        if params.ban_ids:
            logits_BV = logits_BV.clone()
            logits_BV[:, list(params.ban_ids)] = float("-inf")
        logits_BV = logits_BV / (params.temperature or 1.0)
    values_BN, ids_BN = logits_BV.log_softmax(-1).topk(min(params.top_log_probs, logits_BV.shape[-1]), -1)
    return [
        list(zip(ids, values, strict=True)) for ids, values in zip(ids_BN.tolist(), values_BN.tolist(), strict=True)
    ]
