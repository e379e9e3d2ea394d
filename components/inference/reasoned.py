"""Chat requests that a controller answers with as much thinking as their budget allows.

The client sends an ordinary chat request and gets an ordinary answer, whose usage counts all that was read and
generated for it. `reasoning: "off"` asks the model itself; `trace: true` adds what the controller did.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from components.data.tokenizer import Tokenizer
from components.inference.answers import Answer
from components.inference.api_error import ApiError, shown
from components.inference.engine import Completion
from components.inference.engine import Request as Sequence_
from components.inference.requests import GenerationRequest, Limits, read_chat
from components.inference.service import Service
from components.inference.text import TextCompletion

_OWN = ("reasoning", "trace")


class Reasoner(Protocol):
    """What decides how long to think. think: asks for (effort, number of completions) and ends with a decision, which
    has `chosen` (one of them), `answer` and `trace`. wording: what the user's question becomes for an effort.
    temperature, max_tokens: of its completions."""

    def think(self, question: str) -> Generator[tuple[str, int], Sequence[TextCompletion], Any]: ...

    def wording(self, question: str, effort: str) -> str: ...

    def limits(self, effort: str) -> tuple[float, int]: ...


@dataclass(frozen=True)
class Wish:
    """A chat request without the fields of ours. question: its last message. trace: show what was done."""

    body: dict[str, Any]
    question: str
    trace: bool


def wish_of(body: Any) -> Wish | dict[str, Any]:
    """What a client of a reasoning server wishes; the plain body where it wants no reasoning. Raises ApiError."""
    if not isinstance(body, dict):
        raise ApiError(400, "the body is no JSON object")
    plain = {name: value for name, value in body.items() if name not in _OWN}
    wanted, trace = body.get("reasoning", "auto"), body.get("trace", False)
    if wanted not in ("auto", "off"):
        raise ApiError(400, f'reasoning is {shown(wanted)}; it takes "auto" or "off"', "reasoning")
    if not isinstance(trace, bool):
        raise ApiError(400, f"trace is {shown(trace)}; it takes true or false", "trace")
    if wanted == "off":
        return plain
    for name, neutral in (("n", 1), ("logprobs", False)):
        if plain.get(name) not in (None, neutral):
            raise ApiError(400, f'{name} is {shown(plain[name])}: reasoning answers once; send reasoning: "off"', name)
    messages = plain.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user" or not isinstance(last.get("content"), str):
        raise ApiError(400, "the last message must be the user's, a text: it is what is reasoned about", "messages")
    return Wish(plain, last["content"], trace)


@dataclass
class Reasoned:
    """One request on its way. sent, generated: tokens of all that was asked for."""

    reasoner: Reasoner
    model: str
    tokenizer: Tokenizer
    service: Service
    limits: Limits
    wish: Wish
    sent: int = 0
    generated: int = 0

    async def answer(self) -> tuple[Answer, Completion, dict[str, Any]]:
        """The answer's request and completion, and what the controller tells of it."""
        thought = self.reasoner.think(self.wish.question)
        effort, count = next(thought)
        asked: dict[int, tuple[GenerationRequest, Completion]] = {}
        while True:
            request = await asyncio.to_thread(self._request, effort, count)
            completions, texts = await self._complete(request)
            asked |= {id(text): (request, done) for text, done in zip(texts, completions, strict=True)}
            try:
                effort, count = thought.send(texts)
            except StopIteration as end:
                decision = end.value
                request, done = asked[id(decision.chosen)]
                told = {"answer": decision.answer, "effort": decision.trace[-1]["effort"], "steps": decision.trace}
                return Answer(self.model, request, self.tokenizer), done, told

    def usage(self) -> dict[str, int]:
        """Of everything, prompts of each request included."""
        return {
            "prompt_tokens": self.sent,
            "completion_tokens": self.generated,
            "total_tokens": self.sent + self.generated,
        }

    def _request(self, effort: str, count: int) -> GenerationRequest:
        """The client's own request, worded for the effort; its limit holds for every completion."""
        body = self.wish.body
        temperature, most = self.reasoner.limits(effort)
        said = {"role": "user", "content": self.reasoner.wording(self.wish.question, effort)}
        checked = read_chat(body, self.model, self.tokenizer, self.limits)
        read = read_chat({**body, "messages": [*body["messages"][:-1], said]}, self.model, self.tokenizer, self.limits)
        room = max(1, self.limits.context_length - len(read.prompts[0]))
        given = any(body.get(name) is not None for name in ("max_tokens", "max_completion_tokens"))
        limit = min(most, room, checked.params.max_tokens if given else most)
        params = replace(read.params, temperature=temperature, max_tokens=limit, num_samples=count)
        return replace(read, params=params, stream=False)

    async def _complete(self, request: GenerationRequest) -> tuple[list[Completion], list[TextCompletion]]:
        began = time.monotonic()
        count = request.params.num_samples
        done = [Completion() for _ in range(count)]
        sequences = [Sequence_(request.prompts[0], request.params, sample, stepwise=False) for sample in range(count)]
        async with self.service.run(sequences) as updates:
            async for batch in updates:
                for one in batch:
                    done[one.index] = one.completion
        seconds, prompt = time.monotonic() - began, len(request.prompts[0])
        self.sent += prompt
        self.generated += sum(len(one.tokens) for one in done)
        words = Answer(self.model, request, self.tokenizer)
        texts = [
            TextCompletion(
                words.text_of(one),
                len(one.tokens),
                one.log_prob,
                one.finished,
                prompt_tokens=prompt,
                billed_prompt_tokens=0 if place else prompt,
                seconds=seconds,
            )
            for place, one in enumerate(done)
        ]
        return done, texts


def whole(reasoned: Reasoned, answer: Answer, done: Completion, told: Mapping[str, Any]) -> dict[str, Any]:
    """The response to a request that does not stream."""
    body = {**answer.whole([done]), "usage": reasoned.usage()}
    return {**body, "reasoning": told} if reasoned.wish.trace else body


async def events(reasoned: Reasoned, work: asyncio.Task[Any]) -> AsyncIterator[str]:
    """The same as server-sent events, the text in one piece: which answer is chosen is known at the end alone."""
    try:
        answer, done, told = await work
        usage = bool((reasoned.wish.body.get("stream_options") or {}).get("include_usage"))
        answer = replace(answer, request=replace(answer.request, include_usage=usage))
        pieces = [answer.first(0), answer.piece(0, answer.text_of(done), done, 0, True, answer.places(0))]
        if reasoned.wish.trace:
            pieces[-1]["reasoning"] = told
        if usage:
            pieces.append({**answer.last(0), "usage": reasoned.usage()})
        for piece in pieces:
            yield f"data: {json.dumps(piece, ensure_ascii=False)}\n\n"
        yield "data: [DONE]\n\n"
    except ApiError as error:
        yield f"data: {json.dumps(error.body())}\n\n"
    finally:
        work.cancel()
