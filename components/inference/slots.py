"""Where sequences live: a table of slots, who sits in each, what is known of it, and whose prefix serves whom.

A slot is refilled as soon as its sequence ends; what that left behind stays until then, and a prompt is computed from
where it leaves a prefix that some slot holds, or will hold soon (equal prompts, common examples).

Shape suffixes: B slots (or some of them), T tokens, N rows of a pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from components.inference.decoders import Decoder, Rows
from components.inference.sampling import SamplingParams, Top

PREFILL_ROWS = 512  # prompt tokens a pass takes beside the steps: bounds how long running sequences wait
MIN_SHARED = 8  # a common prefix shorter than this is computed again rather than waited for


@dataclass
class Completion:
    """One sampled continuation.

    tokens: ids, a stop token included; log_probs of each, as `SamplingParams` defines them. finished: whether a stop
    token or a stop text ended it (else the length limit did); stop: that text, "" for a token. top_log_probs: the most
    probable tokens at each position, where asked for. prompt_log_probs and prompt_top_log_probs: of the prompt's
    tokens given those before; the first has none.
    """

    prompt_index: int = 0
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False
    stop: str = ""
    top_log_probs: list[Top] = field(default_factory=list)
    prompt_log_probs: list[float] = field(default_factory=list)
    prompt_top_log_probs: list[Top] = field(default_factory=list)

    @property
    def log_prob(self) -> float:
        """Log-probability of the whole continuation, in nats."""
        return sum(self.log_probs)


@dataclass(frozen=True)
class Request:
    """One sequence to go on with. stream: which random stream of the seed it draws from (`num_samples` is not read:
    each sample is a request). stepwise: `step` tells of every token, not of the end alone."""

    prompt: tuple[int, ...]
    params: SamplingParams
    stream: int = 0
    stepwise: bool = False


@dataclass
class Seat:
    """Who sits in a slot, or waits for one (slot -1). `leader` and `shared`: the seat whose first `shared` positions
    are awaited, for a copy. tail: the last bytes of its text, as far as a stop text may yet begin there."""

    ticket: int
    request: Request
    completion: Completion
    leader: Seat | None = None
    shared: int = 0
    slot: int = -1
    tail: bytes = b""

    def stop_text(self, data: bytes) -> str:
        """The stop text that the sequence holds with these bytes behind it, "" when none; of several the one that
        begins first."""
        stops = self.request.params.stop
        if not stops:
            return ""
        self.tail += data
        found = [(at, stop) for stop in stops if (at := self.tail.find(stop.encode())) >= 0]
        longest = max(len(stop.encode()) for stop in stops)
        self.tail = self.tail[-longest:]
        return min(found)[1] if found else ""


@dataclass(frozen=True)
class Cohort:
    """Slots that gain a token together, and what that takes of each: gathered once as long as they stay the same.

    groups: each way of sampling with the rows that it is for (None: all). watched: rows to look at one by one.
    """

    slots: Rows
    rows: Rows
    seeds: npt.NDArray[np.uint64]
    streams: npt.NDArray[np.uint64]
    prompt: Rows
    limit: Rows
    watched: npt.NDArray[np.intp]
    groups: tuple[tuple[SamplingParams, npt.NDArray[np.intp] | None], ...]


class Slots:
    """`count` slots for sequences of at most `context_length` tokens, whose keys and values `decoder` keeps.

    tokens_BT, log_probs_BT: what each slot holds, of which known_B are there and done_B have keys and values; its
    prompt ends at prompt_B, and at limit_B it is as long as it may be. live_B: whether somebody sits there. silent_B:
    nothing is told of it before its end. plain_B: nor may a text stop it, so no token needs a look. steady: all that
    are live, when nobody comes, goes or reads a prompt.
    """

    def __init__(self, decoder: Decoder, count: int, context_length: int) -> None:
        self._decoder, self._context_length = decoder, context_length
        self._seats: list[Seat | None] = [None] * count
        self.followers: list[Seat] = []
        self.steady: Cohort | None = None
        self.tokens_BT = np.zeros((count, context_length + 1), np.int32)
        self.log_probs_BT = np.zeros((count, context_length + 1), np.float32)
        self.known_B, self.done_B, self.prompt_B, self.limit_B = (np.zeros(count, np.int32) for _ in range(4))
        self.live_B, self.silent_B, self.plain_B = (np.zeros(count, bool) for _ in range(3))
        self.seeds_B, self.streams_B = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
        self._way_B = np.zeros(count, np.int64)
        self._ways: list[SamplingParams] = []  # the ways of sampling in flight, and the number of each
        self._numbers: dict[SamplingParams, int] = {}
        self._recent: tuple[SamplingParams | None, int] = None, 0

    def seat(self, slot: int) -> Seat:
        """Who sits in a slot that is taken."""
        seat = self._seats[slot]
        assert seat is not None
        return seat

    @property
    def all_silent(self) -> bool:
        """Whether nothing is told of any sequence before its end."""
        return bool(self.silent_B[self.live_B].all())

    # Coming and going

    def admit(self, waiting: deque[Seat]) -> None:
        """Give free slots to those that wait, in turn."""
        free = [slot for slot, seat in enumerate(self._seats) if seat is None] if waiting else []
        while free and waiting:
            seat = waiting.popleft()
            request = seat.request
            prompt, params = np.array(request.prompt, np.int32), request.params
            source, shared = (-1, 0) if params.prompt_log_probs else self._longest_prefix(prompt)
            slot = source if source in free else free[0]
            free.remove(slot)
            resident = slot == source
            if shared and not resident:
                leader = self._seats[source]
                if leader is None or self.done_B[source] >= shared:
                    self._decoder.copy(source, slot, shared)
                    resident = True
                else:
                    seat.leader, seat.shared = leader, shared
                    self.followers.append(seat)
            self._sit(seat, slot, prompt, shared if resident else 0)

    def follow(self) -> None:
        """Copy prefixes that are there by now; a follower whose leader has left goes alone."""
        for seat in self.followers:
            leader = seat.leader
            assert leader is not None
            if self._seats[leader.slot] is not leader:
                seat.leader = None
            elif self.done_B[leader.slot] >= seat.shared:
                self._decoder.copy(leader.slot, seat.slot, seat.shared)
                self.done_B[seat.slot] = seat.shared
                seat.leader = None
        self.followers = [seat for seat in self.followers if seat.leader is not None]

    def vacate(self, seat: Seat) -> None:
        """Make the slot of `seat` free."""
        self.follow()  # who waits for what this one has gets it now
        self._seats[seat.slot] = None
        self.live_B[seat.slot] = False
        self.steady = None
        # What it leaves behind may serve a later prompt; a follower's promise is not there yet.
        if seat.leader is not None:
            self.done_B[seat.slot] = 0
            self.followers.remove(seat)

    def _sit(self, seat: Seat, slot: int, prompt: Rows, done: int) -> None:
        params, length = seat.request.params, len(prompt)
        seat.slot, self._seats[slot] = slot, seat
        self.steady = None
        self.tokens_BT[slot, :length] = prompt
        self.known_B[slot] = self.prompt_B[slot] = length
        self.done_B[slot] = done
        self.limit_B[slot] = min(length + params.max_tokens, self._context_length)
        self.live_B[slot] = True
        self.silent_B[slot] = not (params.top_log_probs or params.prompt_log_probs or seat.request.stepwise)
        self.plain_B[slot] = self.silent_B[slot] and not params.stop
        self.seeds_B[slot], self.streams_B[slot] = params.seed % 2**64, seat.request.stream
        self._way_B[slot] = self._number_of(params)

    def _number_of(self, params: SamplingParams) -> int:
        """Number of this way of sampling: what of the parameters is the same for many requests."""
        if params is self._recent[0]:
            return self._recent[1]
        way = replace(params, seed=0, max_tokens=1, num_samples=1, stop=(), prompt_log_probs=False)
        if way not in self._numbers:
            if self.live_B.sum() == 1:  # alone: forget the ways of the past
                self._numbers.clear()
                self._ways.clear()
            self._numbers[way] = len(self._ways)
            self._ways.append(way)
        self._recent = params, self._numbers[way]
        return self._numbers[way]

    def _longest_prefix(self, prompt: Rows) -> tuple[int, int]:
        """The slot that holds, or will hold, the longest useful prefix of `prompt`, and its length; else (-1, 0).

        The last token is always computed: its logits choose the first token of the answer.
        """
        most = len(prompt) - 1
        if most < 1:
            return -1, 0
        least = min(MIN_SHARED, most)
        starts_B = (self.tokens_BT[:, 0] == prompt[0]) & (self.tokens_BT[:, least - 1] == prompt[least - 1])
        if not starts_B.any():
            return -1, 0
        there_B = np.where(self.live_B, np.maximum(self.prompt_B, self.done_B), self.done_B)
        slots = np.flatnonzero(starts_B & (there_B >= least))
        if not len(slots):
            return -1, 0
        other_BT = self.tokens_BT[slots, :most] != prompt[:most]
        common_B = np.where(other_BT.any(1), other_BT.argmax(1), most)
        common_B = np.minimum(common_B, there_B[slots])
        best = int(common_B.argmax())
        source, shared = int(slots[best]), int(common_B[best])
        return (source, shared) if shared >= least else (-1, 0)

    # What a pass takes and gives

    def pending(self) -> tuple[Rows, Rows, Rows, Rows, Rows]:
        """Rows of the next pass (tokens, slots, positions), and how many each of the slots in it has."""
        pending_B = np.where(self.live_B, self.known_B - self.done_B, 0)
        for seat in self.followers:
            pending_B[seat.slot] = 0
        if pending_B.max(initial=0) > 1:
            # Steps first, then prompts as far as the pass has room; always at least a token of one.
            budget = PREFILL_ROWS
            for slot in np.flatnonzero(pending_B > 1):
                pending_B[slot] = min(pending_B[slot], budget)
                budget -= pending_B[slot]
        slots = np.flatnonzero(pending_B).astype(np.int32)
        counts = pending_B[slots].astype(np.int32)
        slots_N = np.repeat(slots, counts)
        offsets = np.arange(len(slots_N), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
        positions_N = (self.done_B[slots_N] + offsets).astype(np.int32)
        return self.tokens_BT[slots_N, positions_N], slots_N, positions_N, counts, slots

    def asks_for_scores(self, slot: int) -> bool:
        """Whether the next pass tells of this slot's prompt."""
        seat = self._seats[slot]
        wanted = seat is not None and seat.request.params.prompt_log_probs
        return bool(wanted and self.done_B[slot] < self.prompt_B[slot])

    def cohort(self, slots: Rows) -> Cohort:
        """These slots as they stand."""
        ways = self._way_B[slots]
        if (ways == ways[:1]).all():
            groups: list[tuple[SamplingParams, npt.NDArray[np.intp] | None]] = [(self._ways[w], None) for w in ways[:1]]
        else:
            groups = [(self._ways[way], np.flatnonzero(ways == way)) for way in np.unique(ways)]
        return Cohort(
            slots,
            np.arange(len(slots), dtype=np.int32),
            self.seeds_B[slots],
            self.streams_B[slots],
            self.prompt_B[slots],
            self.limit_B[slots],
            np.flatnonzero(~self.plain_B[slots]),
            tuple(groups),
        )

    def live_by_way(self) -> Iterator[tuple[SamplingParams, Rows]]:
        """Each way of sampling in flight, and the live slots that it is for."""
        live = np.flatnonzero(self.live_B).astype(np.int32)
        for number in np.unique(self._way_B[live]).tolist():
            yield self._ways[number], live[self._way_B[live] == number]

    def write_down(self, seat: Seat) -> None:
        """Bring the completion up to date with what the slot knows."""
        slot = seat.slot
        told = len(seat.completion.tokens)
        span = slice(int(self.prompt_B[slot]) + told, int(self.known_B[slot]))
        seat.completion.tokens += self.tokens_BT[slot, span].tolist()
        seat.completion.log_probs += self.log_probs_BT[slot, span].tolist()
