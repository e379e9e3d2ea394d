"""Requests of the OpenAI API: their bodies are read field by field, and errors have the shape that clients expect.

The fields are those of OpenAI's reference for `/v1/completions` and `/v1/chat/completions`, plus top_k, min_p and
prompts of token ids. What this server cannot do (penalties, calls of tools, images, …) is rejected by name, never
ignored; fields with a value that changes nothing are accepted, as common clients send them. Messages are read in
`messages.py`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from components.data.tokenizer import Tokenizer
from components.inference.api_error import ApiError, kind_of, sendable, shown
from components.inference.messages import read_messages
from components.inference.neutral import IGNORED, NEUTRAL, is_neutral
from components.inference.sampling import LEAST_TEMPERATURE, SamplingParams

MAX_STOPS, MAX_STOP_CHARACTERS, MAX_TOP_LOG_PROBS = 16, 256, 20


@dataclass(frozen=True)
class GenerationRequest:
    """One request as the server runs it: prompts as token ids, each answered `params.num_samples` times.

    prompt_texts: as the client sent them, for `echo` (None where it sent ids). log_probs: whether the answer includes
    them. chat: which of the two endpoints answers.
    """

    prompts: tuple[tuple[int, ...], ...]
    prompt_texts: tuple[str | None, ...]
    params: SamplingParams
    chat: bool = False
    log_probs: bool = False
    echo: bool = False
    stream: bool = False
    include_usage: bool = False


@dataclass(frozen=True)
class Limits:
    """The largest request. max_sequences: prompts times n, which is also what one client can put into the queue."""

    context_length: int
    max_sequences: int = 256


class _Body:
    """A JSON object whose fields are taken one by one; each mistake names its field."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ApiError(400, f"the body is {kind_of(body)}; it takes a JSON object")
        self._left = {name: value for name, value in body.items() if name not in IGNORED}

    def take(
        self, name: str, kind: str, default: Any, test: Callable[[Any], bool] | None = None, takes: str = ""
    ) -> Any:
        """The field's value; null or absent: `default`. kind: integer, number, boolean, object."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        whole = isinstance(value, int) and not isinstance(value, bool)
        fits = {
            "integer": whole,
            "number": whole or isinstance(value, float),
            "boolean": isinstance(value, bool),
            "object": isinstance(value, dict),
        }[kind]
        if not fits or (test is not None and not test(value)):
            raise ApiError(400, f"{name} is {shown(value)}; it takes {takes or f'a value of type {kind}'}", name)
        return value

    def take_any(self, name: str) -> Any:
        """The field as it was sent, None where it is absent."""
        return self._left.pop(name, None)

    def holds(self, name: str, value: bool) -> bool:
        """Whether the field is there with just this value."""
        return self._left.get(name) is value

    def close(self) -> None:
        """Reject the fields that were not taken, but for those with a value that changes nothing."""
        for name, value in self._left.items():
            if name not in NEUTRAL:
                raise ApiError(400, f"unknown field {name}", name, "unknown_parameter")
            if not is_neutral(name, value):
                raise ApiError(400, f"{name} is {shown(value)}: this server does not support it", name, "unsupported")


def read_completion(body: Any, model: str, tokenizer: Tokenizer, limits: Limits) -> GenerationRequest:
    """A body of `/v1/completions`. Raises ApiError naming the invalid field."""
    fields = _Body(body)
    _check_model(fields, model)
    prompts, texts = _prompts(fields.take_any("prompt"), tokenizer)
    n = fields.take("n", "integer", 1, lambda x: x >= 1, "a number of at least 1")
    fields.take("best_of", "integer", n, lambda x: x == n, f"the value of n ({n}): all completions are returned")
    echo = fields.take("echo", "boolean", False)
    if fields.holds("logprobs", False):  # as a client that knows the other endpoint says "none"
        fields.take_any("logprobs")
    top = fields.take("logprobs", "integer", None, lambda x: 0 <= x <= MAX_TOP_LOG_PROBS, f"0 to {MAX_TOP_LOG_PROBS}")
    limit = fields.take("max_tokens", "integer", 16, lambda x: x >= 0, "a number of at least 0")
    if limit == 0 and not echo:
        raise ApiError(400, "max_tokens is 0: this is only allowed together with echo", "max_tokens")
    request = GenerationRequest(
        prompts,
        texts,
        _params(fields, tokenizer, limit, n, top or 0, scored=echo and (top is not None or limit == 0)),
        log_probs=top is not None,
        echo=echo,
        **_streaming(fields),
    )
    fields.close()
    _check_room(request, limits, "prompt", "max_tokens")
    return request


def read_chat(body: Any, model: str, tokenizer: Tokenizer, limits: Limits) -> GenerationRequest:
    """A body of `/v1/chat/completions`. Raises ApiError naming the invalid field."""
    fields = _Body(body)
    _check_model(fields, model)
    messages = read_messages(fields.take_any("messages"), tokenizer)
    try:
        ids, _ = tokenizer.render_chat(messages, add_generation_prompt=True)
    except ValueError as error:
        raise ApiError(400, str(error), "messages") from None
    _refuse_calls(fields)
    n = fields.take("n", "integer", 1, lambda x: x >= 1, "a number of at least 1")
    log_probs = fields.take("logprobs", "boolean", False)
    top = fields.take("top_logprobs", "integer", 0, lambda x: 0 <= x <= MAX_TOP_LOG_PROBS, f"0 to {MAX_TOP_LOG_PROBS}")
    if top and not log_probs:
        raise ApiError(400, "top_logprobs requires logprobs to be true", "top_logprobs")
    positive = (lambda x: x >= 1, "a number of at least 1")
    old, new = (fields.take(name, "integer", None, *positive) for name in ("max_tokens", "max_completion_tokens"))
    name = "max_completion_tokens" if new is not None else "max_tokens"
    room = max(1, limits.context_length - len(ids))
    limit = next((x for x in (new, old) if x is not None), room)
    params = _params(fields, tokenizer, limit, n, top, scored=False, chat=True)
    request = GenerationRequest((tuple(ids),), (None,), params, chat=True, log_probs=log_probs, **_streaming(fields))
    fields.close()
    _check_room(request, limits, "messages", name)
    return request


def _refuse_calls(fields: _Body) -> None:
    """Tools change nothing where none may be called; this server never calls one."""
    for tools, choice in (("tools", "tool_choice"), ("functions", "function_call")):
        offered, chosen = fields.take_any(tools), fields.take_any(choice)
        if chosen not in ("none", "auto", None):
            raise ApiError(400, f"{choice} is {shown(chosen)}: this server calls no tools", choice, "unsupported")
        if offered and chosen != "none":
            raise ApiError(
                400, f'{tools}: this server calls no tools; send {choice}: "none", or no {tools}', tools, "unsupported"
            )
    fields.take("parallel_tool_calls", "boolean", False)


def _params(
    fields: _Body, tokenizer: Tokenizer, max_tokens: int, n: int, top: int, scored: bool, chat: bool = False
) -> SamplingParams:
    most = (lambda x: 0 <= x <= 100, "a number from 0 to 100")
    temperature = float(fields.take("temperature", "number", 1.0, *most))
    top_k = fields.take("top_k", "integer", 0, lambda x: x >= -1, "a number of at least 0")
    return SamplingParams(
        max_tokens=max_tokens,
        # So cold that only one token is left: greedy.
        temperature=temperature if temperature >= LEAST_TEMPERATURE else 0.0,
        top_k=min(max(0, top_k), tokenizer.vocab_size),
        top_p=float(fields.take("top_p", "number", 1.0, lambda x: 0 < x <= 1, "a number above 0, at most 1")),
        min_p=float(fields.take("min_p", "number", 0.0, lambda x: 0 <= x <= 1, "a number from 0 to 1")),
        num_samples=n,
        seed=fields.take("seed", "integer", secrets.randbits(63)),
        stop_ids=tuple(sorted(tokenizer.stop_ids)),
        stop=_stops(fields.take_any("stop")),
        # In a chat the template's roles and padding are never generated; plain text is the model's as it is.
        ban_ids=tuple(sorted(tokenizer.special_ids - tokenizer.stop_ids)) if chat else (),
        raw_log_probs=True,
        top_log_probs=top,
        prompt_log_probs=scored,
    )


def _streaming(fields: _Body) -> dict[str, bool]:
    stream = fields.take("stream", "boolean", False)
    options = fields.take("stream_options", "object", {})
    for name, value in options.items():
        if name not in ("include_usage", "include_obfuscation") or not isinstance(value, bool):
            raise ApiError(
                400,
                f"stream_options.{name} is {shown(value)}; it takes include_usage: true or false",
                "stream_options",
            )
    # An answer that does not stream always has its usage.
    return {"stream": stream, "include_usage": stream and bool(options.get("include_usage"))}


def _check_model(fields: _Body, model: str) -> None:
    wanted = fields.take_any("model")
    if wanted != model:
        message = f"model is {shown(wanted)}; this server has {model!r}"
        raise ApiError(404 if isinstance(wanted, str) else 400, message, "model", "model_not_found")


def _prompts(value: Any, tokenizer: Tokenizer) -> tuple[tuple[tuple[int, ...], ...], tuple[str | None, ...]]:
    """The ids of every prompt, and its text where it was sent as text."""
    many = value if isinstance(value, list) and value and not _is_id(value[0]) else [value]
    ids: list[tuple[int, ...]] = []
    texts: list[str | None] = []
    for index, prompt in enumerate(many):
        name = f"prompt[{index}]" if many is value else "prompt"
        if isinstance(prompt, str):
            try:
                # An empty text is the beginning of a document.
                ids.append(tuple(tokenizer.encode_prompt(prompt)) or (tokenizer.bos_id,))
            except ValueError as error:
                raise ApiError(400, f"{name}: {error}", "prompt") from None
            texts.append(prompt)
            continue
        if not isinstance(prompt, list) or not prompt or not all(_is_id(token) for token in prompt):
            takes = "a string, a list of strings, a list of token ids, or a list of such lists"
            raise ApiError(400, f"{name} is {shown(prompt)}; it takes {takes}", "prompt")
        worst = next((token for token in prompt if not 0 <= token < tokenizer.vocab_size), None)
        if worst is not None:
            raise ApiError(
                400, f"{name} contains the invalid token {worst}; ids are 0 to {tokenizer.vocab_size - 1}", "prompt"
            )
        ids.append(tuple(prompt))
        texts.append(None)
    return tuple(ids), tuple(texts)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ApiError(400, f"stop is {shown(value)}; it takes a string or a list of strings", "stop")
    if len(stops) > MAX_STOPS or any(not 0 < len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
        message = f"stop takes up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
        raise ApiError(400, message, "stop")
    for stop in stops:
        if sendable(stop) != stop:
            raise ApiError(400, f"stop is {shown(stop)}, which is not valid text: it contains a lone surrogate", "stop")
    return tuple(stops)


def _check_room(request: GenerationRequest, limits: Limits, prompt_name: str, limit_name: str) -> None:
    count = len(request.prompts) * request.params.num_samples
    if count > limits.max_sequences:
        name = "n" if request.params.num_samples > 1 else prompt_name
        raise ApiError(
            400, f"the request is for {count} completions (prompts times n); the limit is {limits.max_sequences}", name
        )
    longest = max(map(len, request.prompts))
    whole = limits.context_length
    if longest + request.params.max_tokens > whole:
        message = (
            f"the model's context length is {whole} tokens; this request needs {longest + request.params.max_tokens}: "
            f"{longest} for {prompt_name} and {request.params.max_tokens} for {limit_name}"
        )
        name = prompt_name if longest >= whole else limit_name
        raise ApiError(400, message, name, "context_length_exceeded")
