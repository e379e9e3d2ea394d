"""Batched generation: one engine that is fed at any time and stepped, and `generate` on top of it.

Sequences live in slots (`slots.py`); prompts and single steps share passes. Where nobody watches, `multi_step.py` gains
many tokens per call.

Shape suffixes: B sequences, T tokens, N rows of a pass, W wanted rows, V vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from components.inference.decoders import Decoder, Rows, open_decoder
from components.inference.multi_step import leap, sampling_spec
from components.inference.sampling import SamplingParams, Top, choose, most_probable, uniforms
from components.inference.slots import Cohort, Completion, Request, Seat, Slots
from components.model.loss import fits_at_once
from components.model.transformer import Transformer
from components.native.decoder import NativeDecoder, choose_natively, library

__all__ = ["Completion", "Engine", "Request", "Update", "drain", "generate", "token_log_probs"]

LEAP = 64  # tokens that sequences gain in one call, where all that will come has come


@dataclass(frozen=True)
class Update:
    """News of one request: its completion so far (the engine goes on writing to it), and whether it has ended."""

    ticket: int
    completion: Completion
    ended: bool


class Engine:
    """A model with `slots` sequences in flight and any number waiting.

    Not for several threads at once. What a request gets depends on itself alone: on CPU, in C, to the bit.

    Args:
        model: its weights are read now; make another engine after training them.
        slots: sequences in flight.
        capacity: tokens that a sequence may have, prompt included; the model's context_length when None.
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
        self._slots = Slots(self._decoder, slots, self.context_length)
        self._waiting: deque[Seat] = deque()
        self._tickets: dict[int, Seat] = {}
        self._next = 0

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
        seat = Seat(self._next, request, Completion())
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
            self._slots.vacate(seat)

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
        table = self._slots
        if self._waiting or table.steady is None:
            table.follow()
            table.admit(self._waiting)
        if most > 1 and isinstance(self._decoder, NativeDecoder) and not table.followers and table.all_silent:
            return [self._end(slot) for slot in leap(table, self._decoder, self._token_bytes, most)]
        if cohort := table.steady:
            positions = table.done_B[cohort.slots]
            tokens = table.tokens_BT[cohort.slots, positions]
            logits_BV = self._decoder.forward(tokens, cohort.slots, positions, cohort.rows)
            table.done_B[cohort.slots] += 1
            return self._gain(cohort, logits_BV)
        return self._mixed_pass()

    def _mixed_pass(self) -> list[Update]:
        """A pass in which some prompts are read."""
        table = self._slots
        tokens_N, slots_N, positions_N, counts, slots = table.pending()
        if not len(tokens_N):
            return []
        ends = np.cumsum(counts) - 1
        complete = table.done_B[slots] + counts == table.known_B[slots]
        wanted = ends[complete]
        asking = [i for i, slot in enumerate(slots) if table.asks_for_scores(int(slot))]
        if asking:
            every = [np.arange(ends[i] - counts[i] + 1, ends[i] + 1) for i in asking]
            wanted = np.unique(np.concatenate([wanted, *every]))
        logits_WV = self._decoder.forward(tokens_N, slots_N, positions_N, wanted.astype(np.int32))
        for i in asking:
            self._score_prompt(int(slots[i]), int(counts[i]), logits_WV, wanted, int(ends[i]))
        table.done_B[slots] += counts
        if asking:
            logits_WV = logits_WV[torch.from_numpy(np.searchsorted(wanted, ends[complete])).to(logits_WV.device)]
        cohort = table.cohort(slots[complete])
        if not table.followers and complete.all() and len(slots) == table.live_B.sum():
            table.steady = cohort
        # Nothing to sample where max_tokens is 0.
        scored = cohort.limit <= cohort.prompt
        if not scored.any():
            return self._gain(cohort, logits_WV)
        updates = [self._end(int(slot)) for slot in cohort.slots[scored]]
        keep = np.flatnonzero(~scored)
        return updates + self._gain(table.cohort(cohort.slots[keep]), logits_WV[torch.from_numpy(keep)])

    def _score_prompt(self, slot: int, count: int, logits_WV: Tensor, wanted: Rows, end: int) -> None:
        """Log-probabilities of the prompt's tokens that the rows of this pass predict."""
        table = self._slots
        seat, first = table.seat(slot), int(table.done_B[slot])
        targets = table.tokens_BT[slot, first + 1 : min(first + 1 + count, int(table.prompt_B[slot]))]
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

    def _gain(self, cohort: Cohort, logits_BV: Tensor) -> list[Update]:
        """Sample a token for each of these slots, write it down, and end what has ended."""
        table, slots = self._slots, cohort.slots
        known = table.known_B[slots]
        tokens_B, log_probs_B = np.zeros(len(slots), np.int32), np.zeros(len(slots), np.float32)
        stopped_B = np.zeros(len(slots), bool)
        tops: dict[int, Top] = {}
        for params, rows in cohort.groups:
            some = slice(None) if rows is None else rows
            logits = logits_BV if rows is None else logits_BV[torch.from_numpy(rows).to(logits_BV.device)]
            steps = (known[some] - cohort.prompt[some]).astype(np.uint64)
            tokens_B[some], log_probs_B[some] = _chosen(logits, params, cohort.seeds[some], cohort.streams[some], steps)
            for stop_id in params.stop_ids:
                stopped_B[some] |= tokens_B[some] == stop_id
            if params.top_log_probs:
                tops |= dict(zip(cohort.rows[some].tolist(), most_probable(logits, params), strict=True))
        table.tokens_BT[slots, known] = tokens_B
        table.log_probs_BT[slots, known] = log_probs_B
        known = known + 1
        table.known_B[slots] = known
        over_B = stopped_B | (known >= cohort.limit)
        looked_at = np.flatnonzero(over_B)
        if len(cohort.watched):
            looked_at = np.union1d(looked_at, cohort.watched)
        updates = []
        for row in looked_at.tolist():
            slot = int(slots[row])
            seat = table.seat(slot)
            if row in tops:
                seat.completion.top_log_probs.append(tops[row])
            data = self._token_bytes[tokens_B[row]] if self._token_bytes and not stopped_B[row] else b""
            stop = seat.stop_text(data)
            seat.completion.finished = bool(stopped_B[row]) or bool(stop)
            seat.completion.stop = stop
            if over_B[row] or stop:
                updates.append(self._end(slot))
            elif seat.request.stepwise:
                table.write_down(seat)
                updates.append(Update(seat.ticket, seat.completion, False))
        return updates

    def _end(self, slot: int) -> Update:
        seat = self._slots.seat(slot)
        self._slots.write_down(seat)
        self._slots.vacate(seat)
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
        return choose_natively(logits_BV, sampling_spec(params), uniform_B.numpy())
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
    x_BTD, targets_BT = model.hidden(tokens_BT[:, :-1]).x_BTD, tokens_BT[:, 1:]
    if not fits_at_once(x_BTD, model.cfg.vocab_size):
        return model.log_probs(x_BTD.flatten(0, 1), targets_BT.flatten(), temperature)[0].view_as(targets_BT)
    logits_BTV = model.logits(x_BTD) / temperature
    return -F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
