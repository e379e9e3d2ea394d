"""Batched generation: one engine that is fed at any time and stepped, and `generate` on top of it.

Sequences live in slots. A slot is refilled as soon as its sequence ends; a prompt is computed from where it leaves a
prefix that some slot holds (equal prompts, common examples); prompts and single steps share passes.

Shape suffixes: B sequences, T tokens, N rows of a pass, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from components.inference.decoders import Decoder, Rows, open_decoder
from components.inference.native import Crowd, NativeDecoder, choose_natively, library, way_of
from components.inference.sampling import SamplingParams, Top, choose, most_probable, uniforms
from components.model.transformer import Transformer

PREFILL_ROWS = 512  # prompt tokens a pass takes beside the steps: bounds how long running sequences wait
LEAP = 64  # tokens that sequences gain in one call, where all that will come has come
LEAP_TO_TEXT = 8  # where a stop text may end them: what is gained behind it is lost
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


@dataclass(frozen=True)
class Update:
    """News of one request: its completion so far (the engine goes on writing to it), and whether it has ended."""

    ticket: int
    completion: Completion
    ended: bool


@dataclass
class _Seat:
    """Who sits in a slot. `leader` and `shared`: the seat whose first `shared` positions are awaited, for a copy."""

    ticket: int
    request: Request
    completion: Completion
    leader: _Seat | None = None
    shared: int = 0
    slot: int = -1
    tail: bytes = b""


@dataclass(frozen=True)
class _Steady:
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


class Engine:
    """A model with `slots` sequences in flight and any number waiting.

    Not for several threads at once. What a request gets depends on itself alone: on CPU, in C, to the bit.

    Args:
        model: its weights are read now; make another engine after training them.
        slots: sequences in flight.
        capacity: tokens a sequence may have, prompt included; the model's context_length when None.
        token_bytes: UTF-8 bytes of each token id, needed for stop texts.
        decoder: what the model runs on; the fastest one when None.
    """

    def __init__(
        self,
        model: Transformer,
        slots: int = 64,
        capacity: int | None = None,
        token_bytes: Sequence[bytes] | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        self.context_length = min(capacity or model.cfg.context_length, model.cfg.context_length)
        self._decoder = decoder or open_decoder(model, slots, self.context_length)
        self._token_bytes = token_bytes
        self._waiting: deque[_Seat] = deque()
        self._seats: list[_Seat | None] = [None] * slots
        self._followers: list[_Seat] = []
        self._steady: _Steady | None = None  # all that are live, when nobody comes, goes or reads a prompt
        self._tickets: dict[int, _Seat] = {}
        self._next = 0
        self._cutoffs: dict[SamplingParams, int] = {}  # number of each way of sampling in flight
        # By slot: tokens known, how many, how many of them have keys and values, and where the prompt ends.
        self._tokens_BT = np.zeros((slots, self.context_length + 1), np.int32)
        self._log_probs_BT = np.zeros((slots, self.context_length + 1), np.float32)
        self._known, self._done, self._prompt = (np.zeros(slots, np.int32) for _ in range(3))
        self._limit = np.zeros(slots, np.int32)  # tokens at which the sequence is as long as it may be
        self._live = np.zeros(slots, bool)
        # silent: nothing is told of it before its end. plain: nor may a text stop it, so no token needs a look.
        self._silent, self._plain = np.zeros(slots, bool), np.zeros(slots, bool)
        self._way = np.zeros(slots, np.int64)
        self._ways: list[SamplingParams] = []
        self._recent: tuple[SamplingParams | None, int] = None, 0
        self._seeds, self._streams = np.zeros(slots, np.uint64), np.zeros(slots, np.uint64)

    # -- what a caller does ----------------------------------------------------------------------------------------

    def submit(self, request: Request) -> int:
        """Queue a request; the ticket by which `step` speaks of it.

        Raises ValueError for a prompt that is empty or leaves no room, and for stop texts without `token_bytes`.
        """
        length, limit = len(request.prompt), self.context_length
        most = limit - 1 if request.params.max_tokens else limit
        if not 0 < length <= most:
            raise ValueError(
                f"the prompt has {length} tokens; the model takes 1 to {most}"
                + (" and needs room to answer" if request.params.max_tokens else "")
            )
        if request.params.stop and self._token_bytes is None:
            raise ValueError("stop texts need an engine with token_bytes")
        self._next += 1
        seat = _Seat(self._next, request, Completion())
        self._tickets[seat.ticket] = seat
        self._waiting.append(seat)
        return seat.ticket

    def cancel(self, ticket: int) -> None:
        """Forget a request, waiting or running; its slot is free at once. An unknown ticket has ended already."""
        seat = self._tickets.pop(ticket, None)
        if seat is None:
            return
        if seat.slot < 0:
            self._waiting.remove(seat)
        else:
            self._vacate(seat)

    @property
    def num_waiting(self) -> int:
        """Requests that no slot has taken yet."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Requests in slots."""
        return len(self._tickets) - len(self._waiting)

    @torch.inference_mode()
    def step(self, most: int = 1) -> list[Update]:
        """One pass: prompts go on, and every sequence whose prompt is done gains a token. Nothing to do: no updates.

        With `most` above 1 sequences of which nothing is told before their end may gain that many.
        """
        if self._waiting or self._steady is None:
            self._follow()
            self._admit()
        if most > 1 and self._can_leap():
            return self._leap(most)
        if crowd := self._steady:
            positions = self._done[crowd.slots]
            tokens = self._tokens_BT[crowd.slots, positions]
            logits_BV = self._decoder.forward(tokens, crowd.slots, positions, crowd.rows)
            self._done[crowd.slots] += 1
            return self._gain(crowd, logits_BV)
        return self._mixed_pass()

    def _can_leap(self) -> bool:
        """Whether all that are live can go on by themselves, in C."""
        return isinstance(self._decoder, NativeDecoder) and not self._followers and bool(self._silent[self._live].all())

    def _leap(self, most: int) -> list[Update]:
        """What is left of the prompts, and up to `most` tokens of each sequence, in one call a way of sampling."""
        assert isinstance(self._decoder, NativeDecoder)
        live = np.flatnonzero(self._live).astype(np.int32)
        updates = []
        for number in np.unique(self._way[live]).tolist():
            slots, params = live[self._way[live] == number], self._ways[number]
            texts = [int(slot) for slot in slots[~self._plain[slots]]]  # those that a text may stop
            before = self._known.copy()
            way, _bans = way_of(params)
            stops = np.array(params.stop_ids, np.int32)
            arrays: dict[str, npt.NDArray[Any]] = {
                "tokens": self._tokens_BT,
                "known": self._known,
                "done": self._done,
                "log_probs": self._log_probs_BT,
                "prompt": self._prompt,
                "limit": self._limit,
                "stops": stops,
                "seeds": self._seeds,
                "streams": self._streams,
            }
            addresses = {name: array.ctypes.data for name, array in arrays.items()}
            crowd = Crowd(way, self._tokens_BT.shape[1], len(stops), **addresses)
            self._decoder.advance(crowd, slots, min(most, LEAP_TO_TEXT) if texts else most)
            stopped_B = np.isin(self._tokens_BT[slots, self._known[slots] - 1], stops)
            over = dict.fromkeys(slots[stopped_B | (self._known[slots] >= self._limit[slots])].tolist())
            stopped = set(slots[stopped_B].tolist())
            for slot in texts:
                if self._cut_at_text(slot, int(before[slot])):
                    over[slot] = None
                    stopped.add(slot)
            for slot in over:
                seat = self._seats[slot]
                assert seat is not None
                seat.completion.finished = slot in stopped
                updates.append(self._end(slot))
        return updates

    def _cut_at_text(self, slot: int, before: int) -> bool:
        """Whether the tokens from `before` on complete a stop text; what comes behind it is forgotten."""
        seat = self._seats[slot]
        assert seat is not None
        for at in range(before, int(self._known[slot])):
            token = int(self._tokens_BT[slot, at])
            if token in seat.request.params.stop_ids:
                return False
            if stop := self._stop_text(seat, token):
                seat.completion.stop = stop
                self._known[slot], self._done[slot] = at + 1, min(at, int(self._done[slot]))
                return True
        return False

    def _mixed_pass(self) -> list[Update]:
        """A pass in which some prompts are read."""
        tokens_N, slots_N, positions_N, counts, slots = self._rows()
        if not len(tokens_N):
            return []
        ends = np.cumsum(counts) - 1
        complete = self._done[slots] + counts == self._known[slots]
        wanted = ends[complete]
        asking = [i for i, slot in enumerate(slots) if self._scores(int(slot))]
        if asking:
            every = [np.arange(ends[i] - counts[i] + 1, ends[i] + 1) for i in asking]
            wanted = np.unique(np.concatenate([wanted, *every]))
        logits_WV = self._decoder.forward(tokens_N, slots_N, positions_N, wanted.astype(np.int32))
        for i in asking:
            self._score_prompt(int(slots[i]), int(counts[i]), logits_WV, wanted, int(ends[i]))
        self._done[slots] += counts
        if asking:
            logits_WV = logits_WV[torch.from_numpy(np.searchsorted(wanted, ends[complete])).to(logits_WV.device)]
        crowd = self._crowd(slots[complete])
        if not self._followers and complete.all() and len(slots) == self._live.sum():
            self._steady = crowd
        # Nothing to sample where max_tokens is 0.
        scored = crowd.limit <= crowd.prompt
        if not scored.any():
            return self._gain(crowd, logits_WV)
        updates = [self._end(int(slot)) for slot in crowd.slots[scored]]
        keep = np.flatnonzero(~scored)
        return updates + self._gain(self._crowd(crowd.slots[keep]), logits_WV[torch.from_numpy(keep)])

    # -- slots -----------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Copy prefixes that are there by now; a follower whose leader has left goes alone."""
        for seat in self._followers:
            leader = seat.leader
            assert leader is not None
            if self._seats[leader.slot] is not leader:
                seat.leader = None
            elif self._done[leader.slot] >= seat.shared:
                self._decoder.copy(leader.slot, seat.slot, seat.shared)
                self._done[seat.slot] = seat.shared
                seat.leader = None
        self._followers = [seat for seat in self._followers if seat.leader is not None]

    def _admit(self) -> None:
        free = [slot for slot, seat in enumerate(self._seats) if seat is None] if self._waiting else []
        while free and self._waiting:
            seat = self._waiting.popleft()
            request = seat.request
            prompt, params = np.array(request.prompt, np.int32), request.params
            source, shared = (-1, 0) if params.prompt_log_probs else self._longest_prefix(prompt)
            slot = source if source in free else free[0]
            free.remove(slot)
            resident = slot == source
            if shared and not resident:
                leader = self._seats[source]
                if leader is None or self._done[source] >= shared:
                    self._decoder.copy(source, slot, shared)
                    resident = True
                else:
                    seat.leader, seat.shared = leader, shared
                    self._followers.append(seat)
            self._sit(seat, slot, prompt, shared if resident else 0)

    def _sit(self, seat: _Seat, slot: int, prompt: Rows, done: int) -> None:
        params, length = seat.request.params, len(prompt)
        seat.slot, self._seats[slot] = slot, seat
        self._steady = None
        self._tokens_BT[slot, :length] = prompt
        self._known[slot] = self._prompt[slot] = length
        self._done[slot] = done
        self._limit[slot] = min(length + params.max_tokens, self.context_length)
        self._live[slot] = True
        self._silent[slot] = not (params.top_log_probs or params.prompt_log_probs or seat.request.stepwise)
        self._plain[slot] = self._silent[slot] and not params.stop
        self._seeds[slot], self._streams[slot] = params.seed % 2**64, seat.request.stream
        self._way[slot] = self._way_of(params)

    def _way_of(self, params: SamplingParams) -> int:
        """Number of this way of sampling: what of the parameters is the same for many requests."""
        if params is self._recent[0]:
            return self._recent[1]
        way = replace(params, seed=0, max_tokens=1, num_samples=1, stop=(), prompt_log_probs=False)
        if way not in self._cutoffs:
            if self._live.sum() == 1:  # alone: forget the ways of the past
                self._cutoffs.clear()
                self._ways.clear()
            self._cutoffs[way] = len(self._ways)
            self._ways.append(way)
        self._recent = params, self._cutoffs[way]
        return self._cutoffs[way]

    def _longest_prefix(self, prompt: Rows) -> tuple[int, int]:
        """The slot that holds, or will hold, the longest useful prefix of `prompt`, and its length; else (-1, 0).

        The last token is always computed: its logits choose the first token of the answer.
        """
        most = len(prompt) - 1
        if most < 1:
            return -1, 0
        least = min(MIN_SHARED, most)
        starts_B = (self._tokens_BT[:, 0] == prompt[0]) & (self._tokens_BT[:, least - 1] == prompt[least - 1])
        if not starts_B.any():
            return -1, 0
        there_B = np.where(self._live, np.maximum(self._prompt, self._done), self._done)
        slots = np.flatnonzero(starts_B & (there_B >= least))
        if not len(slots):
            return -1, 0
        other_BT = self._tokens_BT[slots, :most] != prompt[:most]
        common_B = np.where(other_BT.any(1), other_BT.argmax(1), most)
        common_B = np.minimum(common_B, there_B[slots])
        best = int(common_B.argmax())
        source, shared = int(slots[best]), int(common_B[best])
        return (source, shared) if shared >= least else (-1, 0)

    def _vacate(self, seat: _Seat) -> None:
        self._follow()  # who waits for what this one has gets it now
        self._seats[seat.slot] = None
        self._live[seat.slot] = False
        self._steady = None
        # What it leaves behind may serve a later prompt; a follower's promise is not there yet.
        if seat.leader is not None:
            self._done[seat.slot] = 0
            self._followers.remove(seat)

    # -- one pass --------------------------------------------------------------------------------------------------

    def _rows(self) -> tuple[Rows, Rows, Rows, Rows, Rows]:
        """Rows of the next pass (tokens, slots, positions), and how many each of the slots in it has."""
        pending = np.where(self._live, self._known - self._done, 0)
        for seat in self._followers:
            pending[seat.slot] = 0
        if pending.max(initial=0) > 1:
            # Steps first, then prompts as far as the pass has room; always at least a token of one.
            budget = PREFILL_ROWS
            for slot in np.flatnonzero(pending > 1):
                pending[slot] = min(pending[slot], budget)
                budget -= pending[slot]
        slots = np.flatnonzero(pending).astype(np.int32)
        counts = pending[slots].astype(np.int32)
        slots_N = np.repeat(slots, counts)
        offsets = np.arange(len(slots_N), dtype=np.int32) - np.repeat(np.cumsum(counts) - counts, counts)
        positions_N = (self._done[slots_N] + offsets).astype(np.int32)
        return self._tokens_BT[slots_N, positions_N], slots_N, positions_N, counts, slots

    def _scores(self, slot: int) -> bool:
        """Whether the pass tells of this slot's prompt."""
        seat = self._seats[slot]
        wanted = seat is not None and seat.request.params.prompt_log_probs
        return bool(wanted and self._done[slot] < self._prompt[slot])

    def _crowd(self, slots: Rows) -> _Steady:
        ways = self._way[slots]
        if (ways == ways[:1]).all():
            groups: list[tuple[SamplingParams, npt.NDArray[np.intp] | None]] = [(self._ways[w], None) for w in ways[:1]]
        else:
            groups = [(self._ways[way], np.flatnonzero(ways == way)) for way in np.unique(ways)]
        return _Steady(
            slots,
            np.arange(len(slots), dtype=np.int32),
            self._seeds[slots],
            self._streams[slots],
            self._prompt[slots],
            self._limit[slots],
            np.flatnonzero(~self._plain[slots]),
            tuple(groups),
        )

    def _score_prompt(self, slot: int, count: int, logits_WV: Tensor, wanted: Rows, end: int) -> None:
        """Log-probabilities of the prompt's tokens that the rows of this pass predict."""
        seat = self._seats[slot]
        assert seat is not None
        first = int(self._done[slot])
        targets = self._tokens_BT[slot, first + 1 : min(first + 1 + count, int(self._prompt[slot]))]
        at = int(np.searchsorted(wanted, end - count + 1))
        logits_TV = logits_WV[at : at + len(targets)]
        if not len(targets):
            return
        params = seat.request.params
        scored_TV = logits_TV if params.raw_log_probs else logits_TV / (params.temperature or 1.0)
        ids_T = torch.from_numpy(targets.astype(np.int64)).to(logits_TV.device)
        log_probs_T = scored_TV.log_softmax(-1).gather(1, ids_T[:, None])[:, 0]
        seat.completion.prompt_log_probs += log_probs_T.tolist()
        if params.top_log_probs:
            seat.completion.prompt_top_log_probs += most_probable(logits_TV, replace(params, ban_ids=()))

    def _gain(self, crowd: _Steady, logits_BV: Tensor) -> list[Update]:
        """Sample a token for each of these slots, write it down, and end what has ended."""
        slots = crowd.slots
        known = self._known[slots]
        tokens_B, log_probs_B = np.zeros(len(slots), np.int32), np.zeros(len(slots), np.float32)
        stopped_B = np.zeros(len(slots), bool)
        tops: dict[int, Top] = {}
        for params, rows in crowd.groups:
            some = slice(None) if rows is None else rows
            logits = logits_BV if rows is None else logits_BV[torch.from_numpy(rows).to(logits_BV.device)]
            steps = (known[some] - crowd.prompt[some]).astype(np.uint64)
            tokens_B[some], log_probs_B[some] = _chosen(logits, params, crowd.seeds[some], crowd.streams[some], steps)
            for stop_id in params.stop_ids:
                stopped_B[some] |= tokens_B[some] == stop_id
            if params.top_log_probs:
                tops |= dict(zip(crowd.rows[some].tolist(), most_probable(logits, params), strict=True))
        self._tokens_BT[slots, known] = tokens_B
        self._log_probs_BT[slots, known] = log_probs_B
        known = known + 1
        self._known[slots] = known
        over_B = stopped_B | (known >= crowd.limit)
        looked_at = np.flatnonzero(over_B)
        if len(crowd.watched):
            looked_at = np.union1d(looked_at, crowd.watched)
        updates = []
        for row in looked_at.tolist():
            slot = int(slots[row])
            seat = self._seats[slot]
            assert seat is not None
            if row in tops:
                seat.completion.top_log_probs.append(tops[row])
            stop = self._stop_text(seat, int(tokens_B[row])) if not stopped_B[row] else ""
            seat.completion.finished = bool(stopped_B[row]) or bool(stop)
            seat.completion.stop = stop
            if over_B[row] or stop:
                updates.append(self._end(slot))
            elif seat.request.stepwise:
                self._write_down(seat)
                updates.append(Update(seat.ticket, seat.completion, False))
        return updates

    def _stop_text(self, seat: _Seat, token: int) -> str:
        """The stop text that the sequence now holds, "" when none; of several the one that begins first."""
        stops = seat.request.params.stop
        if not stops:
            return ""
        assert self._token_bytes is not None
        seat.tail += self._token_bytes[token]
        found = [(at, stop) for stop in stops if (at := seat.tail.find(stop.encode())) >= 0]
        longest = max(len(stop.encode()) for stop in stops)
        seat.tail = seat.tail[-longest:]
        return min(found)[1] if found else ""

    def _write_down(self, seat: _Seat) -> None:
        """Bring the completion up to date with what the slot knows."""
        slot = seat.slot
        told = len(seat.completion.tokens)
        span = slice(int(self._prompt[slot]) + told, int(self._known[slot]))
        seat.completion.tokens += self._tokens_BT[slot, span].tolist()
        seat.completion.log_probs += self._log_probs_BT[slot, span].tolist()

    def _end(self, slot: int) -> Update:
        seat = self._seats[slot]
        assert seat is not None
        self._write_down(seat)
        self._vacate(seat)
        del self._tickets[seat.ticket]
        return Update(seat.ticket, seat.completion, True)


def _chosen(
    logits_BV: Tensor,
    params: SamplingParams,
    seeds_B: npt.NDArray[np.uint64],
    streams_B: npt.NDArray[np.uint64],
    steps_B: npt.NDArray[np.uint64],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """`choose` with the draws of these sequences at these steps; on a CPU in C."""
    greedy = params.temperature == 0
    uniform_B = torch.zeros(len(steps_B), dtype=torch.float64) if greedy else uniforms(seeds_B, streams_B, steps_B)
    plain = logits_BV.dtype == torch.float32 and logits_BV.device.type == "cpu"
    if plain and library() is not None:
        return choose_natively(logits_BV, params, uniform_B.numpy())
    tokens_B, log_probs_B = choose(logits_BV, params, uniform_B)
    return tokens_B.cpu().numpy().astype(np.int32), log_probs_B.float().cpu().numpy()


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    max_batch: int = 256,
    token_bytes: Sequence[bytes] | None = None,
) -> list[list[Completion]]:
    """`params.num_samples` completions of each prompt, in the order of the prompts.

    A sequence ends at a stop token or text, after `max_tokens`, or when the context is full. Raises ValueError for an
    empty prompt or one that leaves no room in the context.
    """
    limit = model.cfg.context_length
    for index, tokens in enumerate(prompts):
        if not 0 < len(tokens) < limit:
            raise ValueError(
                f"prompt {index} has {len(tokens)} tokens; the model takes 1 to {limit - 1} and needs room to answer"
            )
    count = len(prompts) * params.num_samples
    if not count:
        return [[] for _ in prompts]
    capacity = min(limit, max(map(len, prompts)) + params.max_tokens)
    engine = Engine(model, min(max_batch, count), capacity, token_bytes)
    results = [[Completion() for _ in range(params.num_samples)] for _ in prompts]
    places: dict[int, tuple[int, int]] = {}
    # Short prompts first, equal ones together: they are in flight together, and computed once.
    order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), tuple(prompts[index])))
    for index in order:
        prompt = tuple(prompts[index])
        for sample in range(params.num_samples):
            ticket = engine.submit(Request(prompt, params, index * params.num_samples + sample))
            places[ticket] = index, sample
    for update in drain(engine):
        index, sample = places[update.ticket]
        update.completion.prompt_index = index
        results[index][sample] = update.completion
    return results


def drain(engine: Engine) -> Iterable[Update]:
    """Step until nothing waits and nothing runs."""
    while engine.num_waiting or engine.num_running:
        yield from engine.step(LEAP)


def token_log_probs(model: Transformer, tokens_BT: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of tokens_BT[:, 1:] given what precedes each, shape [B, T-1]. Differentiable."""
    logits_BTV = model(tokens_BT[:, :-1]) / temperature
    return -F.cross_entropy(logits_BTV.transpose(1, 2), tokens_BT[:, 1:], reduction="none")
