"""Any OpenAI-compatible endpoint as a backend: vLLM, Ollama, llama.cpp, hosted models, `lifespan serve`.

Requests run in an event loop in a thread of its own, one connection each (httpx's pool looks through all of its
connections at every request, which takes ten times as long with 64 of them). What is worth another attempt gets one
after a pause: 408, 409, 425, 429, every 5xx, time-outs, connections that end in the middle of an answer, and answers
that are no JSON. What fails in the end arrives as failed, never as an answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import random
import ssl
import threading
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

from components.inference.text import TextCompletion
from components.reasoning.endpoints.backend import Arrived, Ask, EndpointError
from components.reasoning.endpoints.messages import (
    PATHS,
    Api,
    Malformed,
    ServerSays,
    read_completions,
    request_body,
)
from components.reasoning.endpoints.pacing import Pacer, back_off, retry_after

_LOOPBACK = ("localhost", "127.", "::1")
_AGAIN = (408, 409, 425, 429)
_REFUSED = (400, 413, 422)
_OPTIONAL = ("seed", "n", "max_tokens", "stop", "top_k", "min_p")  # a server may refuse one of these by name
_MAX_SEED = 2**31 - 1
_TOGETHER = 0.02  # seconds
_UNREACHED = 3  # attempts, of a server that never answered: its address may be wrong


@dataclass(frozen=True)
class EndpointSettings:
    """url: up to the path of the API ("http://127.0.0.1:8000/v1"). key_variable: name of the environment variable that
    holds the key. at_once: requests in flight. per_minute: requests that may begin in a minute, 0: any number.
    attempts: of a request; first_pause: seconds before the second. longest_wait: seconds that a server may ask to wait.
    in_a_row: requests that may fail one after another before it is taken for gone."""

    url: str
    model: str
    api: Api = "chat"
    key_variable: str = "OPENAI_API_KEY"
    at_once: int = 16
    per_minute: float = 0.0
    timeout: float = 600.0
    attempts: int = 8
    first_pause: float = 1.0
    longest_wait: float = 600.0
    in_a_row: int = 20

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).hostname:
            raise EndpointError(f"{self.url!r} is no address: write it as http://HOST:PORT/v1")


@dataclass
class _Job:
    """A request yet to be made, for some samples of an ask."""

    ask: int
    first: int
    count: int


class _NotNow(Exception):
    """Worth another attempt; `wait`: seconds that the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Refused(Exception):
    """The server takes no such question."""


@dataclass
class Endpoint:
    """A backend; a context manager, whose end closes its connections. `notes`: what of the requests was changed because
    the server refuses it. make_transport: for tests. key: in place of the variable's."""

    settings: EndpointSettings
    make_transport: Callable[[], httpx.AsyncBaseTransport] | None = None
    notes: list[str] = field(default_factory=list)
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        one = self.settings
        self.identity = f"{one.url.rstrip('/')} {one.model} {one.api}"
        key = os.environ.get(one.key_variable, "").strip() if self.key is None else self.key
        self._headers = {"content-type": "application/json", "accept": "application/json"}
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        wait = dict.fromkeys(("read", "write", "pool"), one.timeout)
        self._extensions = {"timeout": {"connect": min(30.0, one.timeout), **wait}}
        self._context: ssl.SSLContext | None = None
        self._pacer = Pacer(one.per_minute)
        self._rng = random.Random()  # of pauses only
        self._without: set[str] = set()
        self._most = 0  # choices that the server gives at a time, once it gave fewer than it was asked for
        self._in_a_row = 0
        self._reached = False  # whether anything ever answered
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10.0)
            self._loop.close()
            self._loop = self._thread = None

    def models(self) -> list[str]:
        """Names of the models that the server has. Raises EndpointError."""

        async def ask() -> Any:
            transport = self._transport()
            try:
                return await self._with_attempts(lambda: self._exchange(transport, "GET", "/models", None))
            finally:
                await transport.aclose()

        try:
            listed = self._run(ask())
            return [str(entry["id"]) for entry in listed["data"]]
        except (KeyError, TypeError):
            raise EndpointError(f"{self.settings.url}/models gives no list of models: name one with --model") from None
        except (_NotNow, _Refused) as error:
            raise EndpointError(f"{self.settings.url}/models: {error}: is the server running?") from None

    def complete(self, asks: Sequence[Ask]) -> Iterator[list[Arrived]]:
        """The samples as they arrive. Raises EndpointError where nothing more can be asked."""
        jobs = deque(_Job(place, ask.first, ask.params.num_samples) for place, ask in enumerate(asks))
        loop, handed_over = self._running_loop(), _HandedOver()
        running = asyncio.run_coroutine_threadsafe(self._work(asks, jobs, handed_over.put), loop)
        running.add_done_callback(lambda _: handed_over.end())
        try:
            yield from handed_over
            running.result()
        finally:
            running.cancel()

    # -- in the loop's thread --------------------------------------------------------------------------------------

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
            self._thread.start()
        return self._loop

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._running_loop()).result()

    async def _work(self, asks: Sequence[Ask], jobs: deque[_Job], put: Callable[[Arrived], None]) -> None:
        """As many workers as requests may be in flight; the first that cannot go on ends all."""
        count = min(self.settings.at_once, sum(job.count for job in jobs))
        busy = 0  # one of them may yet hand back a part of its job

        async def worker() -> None:
            nonlocal busy
            transport = self._transport()
            try:
                while jobs or busy:
                    if not jobs:
                        await asyncio.sleep(0.005)
                        continue
                    job, busy = jobs.popleft(), busy + 1
                    try:
                        await self._one(asks[job.ask], job, transport, jobs, put)
                    finally:
                        busy -= 1
            finally:
                await transport.aclose()

        tasks = [asyncio.ensure_future(worker()) for _ in range(count)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self,
        ask: Ask,
        job: _Job,
        transport: httpx.AsyncBaseTransport,
        jobs: deque[_Job],
        put: Callable[[Arrived], None],
    ) -> None:
        """One request; what of its samples the server does not give goes back to the jobs."""
        at_most = 1 if "n" in self._without else self._most or job.count
        if job.count > at_most:
            jobs.appendleft(_Job(job.ask, job.first + at_most, job.count - at_most))
            job = replace(job, count=at_most)
        params = replace(ask.params, num_samples=job.count)
        seed = (params.seed * 1_000_003 + job.first) % _MAX_SEED  # another one for samples that are asked for later

        async def ask_once() -> list[TextCompletion]:
            body = request_body(self.settings.api, self.settings.model, ask.prompt, params, seed, tuple(self._without))
            began = monotonic()
            said = await self._exchange(transport, "POST", PATHS[self.settings.api], body)
            return read_completions(said, monotonic() - began)

        try:
            done = await self._with_attempts(ask_once)
            self._in_a_row = 0
        except _Refused as refused:
            done = [_failed(str(refused))] * job.count
        except _NotNow as error:
            self._in_a_row += 1
            if self._in_a_row >= self.settings.in_a_row or not self._reached:
                times = f", {self._in_a_row} requests in a row" if self._in_a_row > 1 else ""
                raise EndpointError(
                    f"{self.settings.url}: no answer after {self.settings.attempts if self._reached else _UNREACHED} "
                    f"attempts ({error}){times}: is the server running? What was answered is kept"
                ) from None
            done = [_failed(str(error))] * job.count
        if len(done) < job.count:
            self._most = min(self._most or len(done), len(done))
            jobs.append(_Job(job.ask, job.first + len(done), job.count - len(done)))
        for place, completion in enumerate(done[: job.count]):
            put(Arrived(job.ask, job.first + place, completion))

    async def _with_attempts(self, once: Callable[[], Any]) -> Any:
        """The result of `once`. Raises _NotNow after the last attempt, _Refused and EndpointError at once."""
        attempt = 0
        while True:
            attempt += 1
            await self._pacer.turn()
            try:
                return await once()
            except ServerSays as said:
                if said.code not in _AGAIN and said.code < 500:
                    raise _Refused(said.message) from None
                failure = _NotNow(f"{said.code} {said.message}")
            except (Malformed, httpx.TransportError, _NotNow) as error:
                failure = error if isinstance(error, _NotNow) else _NotNow(_reason(error))
            if attempt >= (self.settings.attempts if self._reached else min(_UNREACHED, self.settings.attempts)):
                raise failure
            if failure.wait is not None:
                if failure.wait > self.settings.longest_wait:
                    raise EndpointError(
                        f"{self.settings.url} asks to wait for {failure.wait:.0f} s ({failure}); what was answered is "
                        "kept: run it again then"
                    )
                self._pacer.hold(failure.wait)
            else:
                await asyncio.sleep(back_off(attempt, self.settings.first_pause, self._rng))

    async def _exchange(
        self, transport: httpx.AsyncBaseTransport, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Any:
        """One request and its answer as JSON. A redirect is not followed: it would take the key to another host."""
        content = json.dumps(body).encode() if body is not None else None
        url = self.settings.url.rstrip("/") + path
        request = httpx.Request(method, url, headers=self._headers, content=content, extensions=self._extensions)
        response = await transport.handle_async_request(request)
        self._reached = True
        try:
            data = await response.aread()
        finally:
            await response.aclose()
        if response.status_code == 200:
            try:
                return json.loads(data)
            except (ValueError, RecursionError):
                raise Malformed(f"an answer that is no JSON: {data[:100].decode('utf-8', 'replace')!r}") from None
        raise self._complaint(response, _message(data), body or {})

    def _complaint(self, response: httpx.Response, message: str, body: Mapping[str, Any]) -> Exception:
        """What a status other than 200 calls for."""
        one, status = self.settings, response.status_code
        told = f"{status} {message}"
        if status in _AGAIN or status >= 500:
            return _NotNow(told, retry_after(response.headers) if status in (429, 503) else None)
        if status in _REFUSED:
            named = next((name for name in _OPTIONAL if name in body and _names(message, name)), "")
            if named:
                if named not in self._without:
                    self._without.add(named)
                    self.notes.append(f"the server takes no {named}: requests go without it ({message[:120]})")
                return _NotNow(told, 0.0)
            return _Refused(told)
        if status in (401, 403):
            key = "refuses the key of" if "authorization" in self._headers else "wants a key: put it into"
            return EndpointError(f"{one.url} {key} {one.key_variable}: {told}")
        if 300 <= status < 400:
            where = response.headers.get("location", "")
            return EndpointError(f"{one.url}: {status}, moved to {where[:200]}: give that address if you trust it")
        return EndpointError(f"{one.url}{PATHS[one.api]}: {told}: check the address and the name of the model")

    def _transport(self) -> httpx.AsyncBaseTransport:
        if self.make_transport is not None:
            return self.make_transport()
        if self._context is None:
            self._context = httpx.create_ssl_context()
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        return httpx.AsyncHTTPTransport(verify=self._context, limits=limits, proxy=proxy_for(self.settings.url))


class _HandedOver:
    """Samples on their way from the loop's thread to the caller's: those of the same 20 ms together, since the two
    threads take turns, and one that wakes for every sample halves what the other gets done."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[Arrived] | None] = queue.SimpleQueue()
        self._fresh: list[Arrived] = []

    def put(self, one: Arrived) -> None:
        """In the loop's thread."""
        if not self._fresh:
            asyncio.get_running_loop().call_later(_TOGETHER, self._send)
        self._fresh.append(one)

    def _send(self) -> None:
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            self._queue.put(fresh)

    def end(self) -> None:
        """Nothing more comes; in the loop's thread."""
        self._send()
        self._queue.put(None)

    def __iter__(self) -> Iterator[list[Arrived]]:
        while (batch := self._queue.get()) is not None:
            yield batch


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for an address; none for one that only this machine can reach."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host.startswith(_LOOPBACK) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _failed(note: str) -> TextCompletion:
    return TextCompletion("", 0, 0.0, False, problem="failed", note=note[:300], billed_prompt_tokens=0)


def _names(message: str, parameter: str) -> bool:
    """Whether an error is about this parameter: its name in quotes, or "unknown field seed". "n" is too short a word to
    stand for itself."""
    marks = (f"'{parameter}'", f'"{parameter}"', f"`{parameter}`", f"field {parameter}", f"parameter: {parameter}")
    return any(mark in message for mark in marks) or message.startswith((f"{parameter} is", f"{parameter}:"))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _message(data: bytes) -> str:
    """What an error says, in OpenAI's shape or as it is."""
    text = data.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else found
        return str(error.get("message", error) if isinstance(error, dict) else error)[:300]
    except (ValueError, RecursionError):
        return " ".join(text.split())[:300]
