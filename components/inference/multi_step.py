"""Many tokens at once, in C: what sequences gain that nobody watches, token after token without a step in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from components.inference.sampling import SamplingParams
from components.inference.slots import Slots
from components.native.decoder import DecodeBatch, NativeDecoder, SamplingSpec

LEAP_TO_TEXT = 8  # tokens a call gains where a stop text may end a sequence: what is gained behind it is lost


def sampling_spec(params: SamplingParams) -> SamplingSpec:
    """What of the parameters is about a single token."""
    bans = np.array(params.ban_ids, np.int32)
    spec = SamplingSpec(
        params.top_k,
        len(bans),
        params.raw_log_probs,
        params.temperature,
        params.top_p,
        params.min_p,
        bans.ctypes.data,
    )
    spec.bans_array = bans  # lives as long as what points to it
    return spec


def leap(slots: Slots, decoder: NativeDecoder, token_bytes: Sequence[bytes] | None, most: int) -> list[int]:
    """What is left of the prompts, and up to `most` tokens of each live sequence, in one call a way of sampling.

    Nobody may follow a leader, and nothing may be told before the end. Returns the slots whose sequences have ended,
    their completions marked with why.
    """
    ended: list[int] = []
    for params, some in slots.live_by_way():
        texts = [int(slot) for slot in some[~slots.plain_B[some]]]  # those that a text may stop
        before_B = slots.known_B.copy()
        spec = sampling_spec(params)
        stops = np.array(params.stop_ids, np.int32)
        arrays: dict[str, npt.NDArray[Any]] = {
            "tokens": slots.tokens_BT,
            "known": slots.known_B,
            "done": slots.done_B,
            "log_probs": slots.log_probs_BT,
            "prompt": slots.prompt_B,
            "limit": slots.limit_B,
            "stops": stops,
            "seeds": slots.seeds_B,
            "streams": slots.streams_B,
        }
        addresses = {name: array.ctypes.data for name, array in arrays.items()}
        batch = DecodeBatch(spec, slots.tokens_BT.shape[1], len(stops), **addresses)
        decoder.advance(batch, some, min(most, LEAP_TO_TEXT) if texts else most)
        stopped_B = np.isin(slots.tokens_BT[some, slots.known_B[some] - 1], stops)
        over = dict.fromkeys(some[stopped_B | (slots.known_B[some] >= slots.limit_B[some])].tolist())
        stopped = set(some[stopped_B].tolist())
        for slot in texts:
            assert token_bytes is not None
            if _cut_at_text(slots, slot, int(before_B[slot]), token_bytes):
                over[slot] = None
                stopped.add(slot)
        for slot in over:
            slots.seat(slot).completion.finished = slot in stopped
        ended += over
    return ended


def _cut_at_text(slots: Slots, slot: int, before: int, token_bytes: Sequence[bytes]) -> bool:
    """Whether the tokens from `before` on complete a stop text; what comes behind it is forgotten."""
    seat = slots.seat(slot)
    for at in range(before, int(slots.known_B[slot])):
        token = int(slots.tokens_BT[slot, at])
        if token in seat.request.params.stop_ids:
            return False
        if stop := seat.stop_text(token_bytes[token]):
            seat.completion.stop = stop
            slots.known_B[slot], slots.done_B[slot] = at + 1, min(at, int(slots.done_B[slot]))
            return True
    return False
