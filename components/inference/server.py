"""An OpenAI-compatible HTTP server around one model: a Starlette application.

`/v1/models`, `/v1/completions`, `/v1/chat/completions`, `/health`, `/metrics` (Prometheus). Requests are read in
`requests.py`, responses are written in `answers.py`, and `service.py` runs the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from components.data.tokenizer import Tokenizer
from components.inference.answers import Answer
from components.inference.api_error import ApiError
from components.inference.engine import Completion
from components.inference.engine import Request as Sequence
from components.inference.reasoned import Reasoned, Reasoner, Wish, events, whole, wish_of
from components.inference.requests import GenerationRequest, Limits, read_chat, read_completion
from components.inference.service import Service
from components.inference.streams import TextStream

_log = logging.getLogger(__name__)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


@dataclass(frozen=True)
class ServerLimits:
    """max_body: bytes of a request. max_sequences: prompts times n of one request. body_seconds: until a client has
    sent its request. request_seconds: until its answer is complete. stall_seconds: `/health` fails when the engine has
    made no progress for this long."""

    max_body: int = 4_000_000
    max_sequences: int = 256
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    stall_seconds: float = 120.0


class Metrics:
    """What `/metrics` reports; one registry per application."""

    def __init__(self, service: Service) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lifespan_requests", "Requests by endpoint and HTTP status", ["endpoint", "status"], registry=registry
        )
        self.prompt_tokens = Counter("lifespan_prompt_tokens", "Prompt tokens", registry=registry)
        self.completion_tokens = Counter("lifespan_completion_tokens", "Generated tokens", registry=registry)
        self.request_seconds = Histogram(
            "lifespan_request_seconds",
            "Seconds until the answer was complete",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token_seconds = Histogram(
            "lifespan_first_token_seconds",
            "Seconds until the first token of a stream",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        waiting = Gauge("lifespan_waiting_sequences", "Sequences waiting for a slot", registry=registry)
        waiting.set_function(lambda: service.num_waiting)
        running = Gauge("lifespan_running_sequences", "Sequences being generated", registry=registry)
        running.set_function(lambda: service.num_running)


@dataclass(frozen=True)
class Context:
    """What the endpoints share."""

    name: str
    tokenizer: Tokenizer
    service: Service
    limits: ServerLimits
    metrics: Metrics
    api_key: str | None
    created: int
    reasoner: Reasoner | None = None

    @property
    def request_limits(self) -> Limits:
        return Limits(self.service.context_length, self.limits.max_sequences)


Endpoint = Callable[[Context, Request], Awaitable[Response]]


def make_app(
    name: str,
    tokenizer: Tokenizer,
    service: Service,
    limits: ServerLimits | None = None,
    api_key: str | None = None,
    reasoner: Reasoner | None = None,
) -> Starlette:
    """The application that serves the model `name`. The service starts and stops with it.

    api_key: required as a bearer token on every path but `/health`; None: not required. reasoner: answers chats
    with as much thinking as it sees fit; None: the model answers itself.
    """
    limits, created = limits or ServerLimits(), int(time.time())
    context = Context(name, tokenizer, service, limits, Metrics(service), api_key, created, reasoner)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.stop)

    routes = [
        Route("/health", _endpoint(context, health, is_open=True)),
        Route("/metrics", _endpoint(context, metrics)),
        Route("/v1/models", _endpoint(context, models)),
        Route("/v1/models/{model:path}", _endpoint(context, models)),
        Route("/v1/completions", _endpoint(context, completions), methods=["POST"]),
        Route("/v1/chat/completions", _endpoint(context, chat_completions), methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _http_error})


def _endpoint(context: Context, answer: Endpoint, is_open: bool = False) -> Callable[[Request], Awaitable[Response]]:
    async def run(request: Request) -> Response:
        began = time.monotonic()
        try:
            if not is_open:
                _check_key(context.api_key, request)
            response = await answer(context, request)
        except ApiError as error:
            response = _error(error)
        except ClientDisconnect:
            response = Response(status_code=499)  # nobody reads the response; the metrics count it
        except Exception:
            _log.exception("a request could not be answered")
            response = _error(ApiError(500, "the server failed on this request; see its log"))
        path = str(request.scope["route"].path)
        context.metrics.requests.labels(path, response.status_code).inc()
        if not isinstance(response, StreamingResponse):
            context.metrics.request_seconds.labels(path).observe(time.monotonic() - began)
        return response

    return run


def _error(error: ApiError) -> Response:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}}
    return JSONResponse(error.body(), error.status, headers.get(error.status))


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: f"unknown path {request.url.path}", 405: f"{request.url.path} does not accept {request.method}"}
    return JSONResponse(
        ApiError(error.status_code, messages.get(error.status_code, error.detail)).body(),
        error.status_code,
        error.headers,
    )


def _check_key(key: str | None, request: Request) -> None:
    if key is None:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        message = "this server requires its API key in the header Authorization: Bearer KEY"
        raise ApiError(401, message, code="invalid_api_key")


async def health(context: Context, request: Request) -> Response:
    """200 as long as the engine makes progress."""
    stalled = time.monotonic() - context.service.beat
    if stalled > context.limits.stall_seconds:
        return JSONResponse({"status": "stalled", "seconds": stalled}, 503)
    return JSONResponse({"status": "ok"})


async def metrics(context: Context, request: Request) -> Response:
    """Prometheus' text format."""
    return Response(generate_latest(context.metrics.registry), media_type="text/plain; version=0.0.4; charset=utf-8")


async def models(context: Context, request: Request) -> Response:
    """The one model, alone or as a list."""
    model = {"id": context.name, "object": "model", "created": context.created, "owned_by": "lifespan"}
    model["max_model_len"] = context.service.context_length
    wanted = request.path_params.get("model")
    if wanted is None:
        return JSONResponse({"object": "list", "data": [model]})
    if wanted != context.name:
        raise ApiError(404, f"model is {wanted!r}; this server has {context.name!r}", "model", "model_not_found")
    return JSONResponse(model)


async def completions(context: Context, request: Request) -> Response:
    """Continue texts or token ids."""
    body = await _json(context.limits, request)
    wanted = await asyncio.to_thread(read_completion, body, context.name, context.tokenizer, context.request_limits)
    return await _answered(context, request, wanted)


async def chat_completions(context: Context, request: Request) -> Response:
    """Answer a conversation."""
    body = await _json(context.limits, request)
    if context.reasoner is not None:
        body = wish_of(body)
        if isinstance(body, Wish):
            return await _reasoned(context, context.reasoner, request, body)
    wanted = await asyncio.to_thread(read_chat, body, context.name, context.tokenizer, context.request_limits)
    return await _answered(context, request, wanted)


async def _json(limits: ServerLimits, request: Request) -> Any:
    """The parsed body, within the limits of size and time."""
    # A web page cannot send this type to another origin without permission, which keeps other sites off a local server.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON, with the header Content-Type: application/json")
    too_large = ApiError(413, f"the body is larger than {limits.max_body} bytes", code="request_too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.max_body:
        raise too_large
    data = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                data += chunk
                if len(data) > limits.max_body:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {limits.body_seconds:g} s", code="timeout") from None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON: {error}") from None


async def _answered(context: Context, request: Request, wanted: GenerationRequest) -> Response:
    answer = Answer(context.name, wanted, context.tokenizer)
    count = wanted.params.num_samples
    sequences = [
        Sequence(prompt, wanted.params, number * count + sample, stepwise=wanted.stream)
        for number, prompt in enumerate(wanted.prompts)
        for sample in range(count)
    ]
    context.metrics.prompt_tokens.inc(sum(map(len, wanted.prompts)))
    if wanted.stream:
        return await _stream(context, request, answer, sequences)
    done: list[Completion] = [Completion() for _ in sequences]

    async def collect() -> None:
        async with context.service.run(sequences) as updates:
            async for batch in updates:
                for one in batch:
                    done[one.index] = one.completion
                    context.metrics.completion_tokens.inc(len(one.completion.tokens))

    await _unless_left(request, collect(), context.limits.request_seconds)
    return JSONResponse(await asyncio.to_thread(answer.whole, done))


async def _reasoned(context: Context, reasoner: Reasoner, request: Request, wish: Wish) -> Response:
    """A conversation that a controller answers."""
    names = (context.name, context.tokenizer, context.service, context.request_limits)
    reasoned = Reasoned(reasoner, *names, wish)
    asked = await asyncio.to_thread(read_chat, wish.body, context.name, context.tokenizer, context.request_limits)
    found: list[Any] = []

    async def work() -> Any:
        try:
            async with asyncio.timeout(context.limits.request_seconds):
                found.append(await reasoned.answer())
        except TimeoutError:
            message = f"the answer took longer than {context.limits.request_seconds:g} s"
            raise ApiError(504, message, code="timeout") from None
        finally:
            context.metrics.prompt_tokens.inc(reasoned.sent)
            context.metrics.completion_tokens.inc(reasoned.generated)
        return found[0]

    if asked.stream:
        told = events(reasoned, asyncio.ensure_future(work()))
        return StreamingResponse(told, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
    await _unless_left(request, work(), context.limits.request_seconds + 1)
    return JSONResponse(whole(reasoned, *found[0]))


async def _unless_left(request: Request, work: Any, seconds: float) -> None:
    """Await `work`, but cancel it when the client disconnects (ClientDisconnect) or the time is up (ApiError 504)."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(left())]
    try:
        finished, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            if not task.done():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if tasks[0] in finished:
        tasks[0].result()
        return
    if finished:
        raise ClientDisconnect
    raise ApiError(504, f"the answer took longer than {seconds:g} s", code="timeout")


async def _stream(context: Context, request: Request, answer: Answer, sequences: list[Sequence]) -> Response:
    """Server-sent events, one for each piece of text; an error after the first one is an event, too."""
    began = time.monotonic()
    path = str(request.scope["route"].path)
    stack = contextlib.AsyncExitStack()
    updates = await stack.enter_async_context(context.service.run(sequences))

    async def events() -> AsyncIterator[str]:
        try:
            async with stack, asyncio.timeout(context.limits.request_seconds):
                async for piece in _pieces(context, answer, updates, len(sequences), began, path):
                    yield f"data: {json.dumps(piece, ensure_ascii=False)}\n\n"
            yield "data: [DONE]\n\n"
        except TimeoutError:
            message = f"the answer took longer than {context.limits.request_seconds:g} s"
            yield f"data: {json.dumps(ApiError(504, message, code='timeout').body())}\n\n"
        except ApiError as error:
            yield f"data: {json.dumps(error.body())}\n\n"
        finally:
            context.metrics.request_seconds.labels(path).observe(time.monotonic() - began)

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


async def _pieces(
    context: Context, answer: Answer, updates: AsyncIterator[Any], count: int, began: float, path: str
) -> AsyncIterator[dict[str, Any]]:
    request = answer.request
    streams = [TextStream(context.tokenizer, request.params.stop) for _ in range(count)]
    places = [answer.places(index) for index in range(count)]
    num_tokens, first = 0, True
    for index in range(count):
        if request.chat:
            yield answer.first(index)
        elif not request.log_probs and (echoed := answer.echoed(index)):
            yield answer.piece(index, echoed, Completion(), 0, False, places[index])
    async for batch in updates:
        if first:
            context.metrics.first_token_seconds.labels(path).observe(time.monotonic() - began)
            first = False
        for one in batch:
            done = one.completion
            text = streams[one.index].push(done.tokens[len(done.tokens) - one.fresh :], one.ended, done.stop)
            if request.echo and request.log_probs and one.fresh == len(done.tokens):
                chunk = answer.piece(one.index, answer.echoed(one.index), Completion(), 0, False, places[one.index])
                chunk["choices"][0]["logprobs"] = answer.prompt_log_probs(one.index, done)
                yield chunk
            if text or one.ended or request.log_probs:
                yield answer.piece(one.index, text, done, one.fresh, one.ended, places[one.index])
            num_tokens += one.fresh
            context.metrics.completion_tokens.inc(one.fresh)
    if request.include_usage:
        yield answer.last(num_tokens)
