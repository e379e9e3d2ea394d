"""An engine in a thread of its own, fed and read from asyncio: many clients, one model."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from components.inference.api_error import ApiError
from components.inference.engine import Completion, Engine, Request, Update

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """What one step added to one sequence of a job. completion: so far. fresh: number of new tokens. ended: whether
    the completion is final."""

    index: int
    completion: Completion
    fresh: int
    ended: bool


@dataclass
class Job:
    """The sequences of one client's request, and the queue through which the engine's thread sends their progress."""

    loop: asyncio.AbstractEventLoop
    queue: asyncio.Queue[list[Progress] | Exception] = field(default_factory=asyncio.Queue)
    tickets: dict[int, int] = field(default_factory=dict)
    num_sent: dict[int, int] = field(default_factory=dict)

    def send(self, message: list[Progress] | Exception) -> None:
        try:
            self.loop.call_soon_threadsafe(self.queue.put_nowait, message)
        except RuntimeError:  # the loop has closed: nobody is listening any more
            _log.debug("a client's loop closed before its answer was ready")


class Service:
    """Runs an engine from `start` to `stop`; up to `max_waiting` sequences may wait for a slot.

    An error in a step fails the requests of that moment, and a new engine is made.
    """

    def __init__(self, make_engine: Callable[[], Engine], max_waiting: int) -> None:
        self._make_engine, self.max_waiting = make_engine, max_waiting
        self._engine = make_engine()
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Condition()
        self._inbox: list[tuple[Job, Sequence[Request]]] = []
        self._leaving: list[Job] = []
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.beat = time.monotonic()  # when the engine last finished a step or had nothing to do

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._engine.context_length

    @property
    def num_waiting(self) -> int:
        """Sequences that no slot has taken yet."""
        return self._engine.num_waiting + sum(len(requests) for _, requests in self._inbox)

    @property
    def num_running(self) -> int:
        """Sequences in slots."""
        return self._engine.num_running

    def start(self) -> None:
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """Stop the thread after its current step; the remaining requests get an error."""
        with self._lock:
            self._ending = True
            self._lock.notify()
        if self._thread.is_alive():
            self._thread.join(patience)

    @asynccontextmanager
    async def run(self, requests: Sequence[Request]) -> AsyncIterator[AsyncIterator[list[Progress]]]:
        """Queue these sequences and iterate over their progress. Leaving the block early frees their slots.

        Raises ApiError 429 when too many are waiting, and 503 when the server is stopping.
        """
        job = Job(asyncio.get_running_loop())
        with self._lock:
            if self._ending:
                raise ApiError(503, "the server is stopping", code="stopping")
            waiting = self.num_waiting
            if waiting and waiting + len(requests) > self.max_waiting:
                raise ApiError(429, f"{waiting} sequences are already waiting; try again later", code="queue_full")
            self._inbox.append((job, requests))
            self._lock.notify()
        try:
            yield self._progress(job, len(requests))
        finally:
            with self._lock:
                self._leaving.append(job)
                self._lock.notify()

    async def _progress(self, job: Job, count: int) -> AsyncIterator[list[Progress]]:
        while count:
            message = await job.queue.get()
            if isinstance(message, Exception):
                raise message
            count -= sum(one.ended for one in message)
            yield message

    # -- the thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                while not (self._inbox or self._leaving or self._ending or self._jobs):
                    self.beat = time.monotonic()
                    self._lock.wait(1.0)
                inbox, leaving, ending = self._inbox, self._leaving, self._ending
                self._inbox, self._leaving = [], []
                for job, requests in inbox:
                    self._enter(job, requests)
            for job in leaving:
                self._drop(job)
            if ending:
                for job in {id(job): job for job in self._jobs.values()}.values():
                    job.send(ApiError(503, "the server is stopping", code="stopping"))
                return
            try:
                self._deliver(self._engine.step())
            except Exception:
                _log.exception("a step of the engine failed: its requests get an error, and a new engine is made")
                for job in {id(job): job for job in self._jobs.values()}.values():
                    job.send(ApiError(500, "the model failed on this request; see the server's log"))
                self._jobs.clear()
                self._engine = self._make_engine()
            self.beat = time.monotonic()

    def _enter(self, job: Job, requests: Sequence[Request]) -> None:
        try:
            for index, request in enumerate(requests):
                ticket = self._engine.submit(request)
                job.tickets[ticket] = index
                self._jobs[ticket] = job
        except ValueError as error:
            job.send(ApiError(400, str(error)))
            self._drop(job)

    def _drop(self, job: Job) -> None:
        for ticket in job.tickets:
            if self._jobs.get(ticket) is job:  # after a failure, the new engine gives the same tickets to others
                del self._jobs[ticket]
                self._engine.cancel(ticket)

    def _deliver(self, updates: Sequence[Update]) -> None:
        by_job: dict[int, tuple[Job, list[Progress]]] = {}
        for update in updates:
            job = self._jobs[update.ticket]
            index, done = job.tickets[update.ticket], update.completion
            fresh = len(done.tokens) - job.num_sent.get(index, 0)
            job.num_sent[index] = len(done.tokens)
            # A copy while the engine keeps appending to it.
            seen = (
                done
                if update.ended
                else replace(
                    done,
                    tokens=done.tokens[:],
                    log_probs=done.log_probs[:],
                    top_log_probs=done.top_log_probs[:],
                )
            )
            by_job.setdefault(id(job), (job, []))[1].append(Progress(index, seen, fresh, update.ended))
            if update.ended:
                del self._jobs[update.ticket]
        for job, progress in by_job.values():
            job.send(progress)
