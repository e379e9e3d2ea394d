"""Completions in the shapes of the OpenAI API, whole and as pieces of a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from components.data.tokenizer import Tokenizer
from components.inference.engine import Completion
from components.inference.requests import GenerationRequest
from components.inference.sampling import Top
from components.inference.streams import Places


@dataclass(frozen=True)
class Answer:
    """One answer, and what all of its pieces have in common."""

    model: str
    request: GenerationRequest
    tokenizer: Tokenizer
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, completions: Sequence[Completion]) -> dict[str, Any]:
        """The response to a request that does not stream; `completions` by index."""
        choices = [self._choice(index, done) for index, done in enumerate(completions)]
        kind = "chat.completion" if self.request.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage(sum(len(c.tokens) for c in completions))}

    def first(self, index: int) -> dict[str, Any]:
        """The first chunk of a choice in a chat: the role."""
        return self._chunk({"index": index, "delta": {"role": "assistant", "content": ""}, "finish_reason": None})

    def piece(self, index: int, text: str, done: Completion, fresh: int, ended: bool, places: Places) -> dict[str, Any]:
        """A chunk of a choice: the text that became certain and, if requested, log-probabilities of the last `fresh`
        tokens of `done`. places: where these tokens begin in the choice's text."""
        reason = _reason(done) if ended else None
        log_probs = self._log_probs(done, len(done.tokens) - fresh, places) if self.request.log_probs else None
        if self.request.chat:
            delta = {"content": text} if text else {}
            return self._chunk({"index": index, "delta": delta, "logprobs": log_probs, "finish_reason": reason})
        return self._chunk({"index": index, "text": text, "logprobs": log_probs, "finish_reason": reason})

    def last(self, num_tokens: int) -> dict[str, Any]:
        """The chunk after all choices, with the usage."""
        return {**self._chunk(None), "usage": self.usage(num_tokens)}

    def usage(self, num_tokens: int) -> dict[str, int]:
        """Tokens of all prompts, each once, and of all completions (`num_tokens`)."""
        prompt = sum(map(len, self.request.prompts))
        return {"prompt_tokens": prompt, "completion_tokens": num_tokens, "total_tokens": prompt + num_tokens}

    def places(self, index: int) -> Places:
        """Where the tokens of a choice's completion begin in its text."""
        return Places(self.tokenizer, len(self.echoed(index)))

    def echoed(self, index: int) -> str:
        """The prompt of a choice as text, or "" if it is not echoed."""
        if not self.request.echo:
            return ""
        number = index // self.request.params.num_samples
        text = self.request.prompt_texts[number]
        return self.tokenizer.decode(self.request.prompts[number], skip_special=False) if text is None else text

    def text_of(self, done: Completion) -> str:
        """The text of a completion, without the stop text that ended it."""
        text = self.tokenizer.decode(done.tokens)
        return text.partition(done.stop)[0] if done.stop else text

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.request.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        head = self._head("chat.completion.chunk" if self.request.chat else "text_completion")
        usage = {"usage": None} if self.request.include_usage else {}
        return {**head, "choices": [] if choice is None else [choice], **usage}

    def _choice(self, index: int, done: Completion) -> dict[str, Any]:
        text = self.text_of(done)
        rest: dict[str, Any] = {"logprobs": None, "finish_reason": _reason(done)}
        if self.request.chat:
            if self.request.log_probs:
                rest["logprobs"] = self._log_probs(done, 0, self.places(index))
            return {"index": index, "message": {"role": "assistant", "content": text}, **rest}
        echoed = self.echoed(index)
        if self.request.log_probs:
            scored = self.prompt_log_probs(index, done) if self.request.echo else _EMPTY
            generated = self._log_probs(done, 0, self.places(index))
            rest["logprobs"] = {name: [*scored[name], *generated[name]] for name in _EMPTY}
        return {"index": index, "text": echoed + text, **rest}

    def prompt_log_probs(self, index: int, done: Completion) -> dict[str, Any]:
        """The prompt's tokens in the form of `/v1/completions`; the first has no log-probability."""
        number = index // self.request.params.num_samples
        prompt, has_names = self.request.prompts[number], self.request.prompt_texts[number] is None
        tops = done.prompt_top_log_probs or [[] for _ in done.prompt_log_probs]
        rows = [
            self._legacy(token, log_prob, top)
            for token, log_prob, top in zip(prompt[1:], done.prompt_log_probs, tops, strict=True)
        ]
        first = self._legacy(prompt[0], None, None)
        return _joined([first, *rows], Places(self.tokenizer, specials=has_names).of(prompt))

    def _log_probs(self, done: Completion, start: int, places: Places) -> dict[str, Any]:
        tokens, log_probs = done.tokens[start:], done.log_probs[start:]
        tops = done.top_log_probs[start:] or [[] for _ in tokens]
        rows = list(zip(tokens, log_probs, tops, strict=True))
        if not self.request.chat:
            return _joined([self._legacy(*row) for row in rows], places.of(tokens))
        return {
            "content": [
                {**self._entry(token, value), "top_logprobs": [self._entry(*pair) for pair in top]}
                for token, value, top in rows
            ],
            "refusal": None,
        }

    def _entry(self, token: int, log_prob: float) -> dict[str, Any]:
        name = self.tokenizer.token(token)
        data = self.tokenizer.text_bytes[token] or name.encode()
        return {"token": name, "logprob": _finite(log_prob), "bytes": list(data)}

    def _legacy(self, token: int, log_prob: float | None, top: Top | None) -> tuple[str, float | None, Any]:
        """Name, log-probability, and alternatives by name (the token itself always among them)."""
        name = self._unique(token)
        if log_prob is None or top is None:
            return name, None, None
        alternatives = {self._unique(other): _finite(value) for other, value in top}
        return name, _finite(log_prob), alternatives | {name: _finite(log_prob)}

    def _unique(self, token: int) -> str:
        """A name that no other token has: text where the token is whole characters, else its bytes."""
        name, data = self.tokenizer.token(token), self.tokenizer.text_bytes[token]
        return name if name.encode() == data or not data else "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


_EMPTY: dict[str, list[Any]] = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}


def _joined(rows: Sequence[tuple[str, float | None, Any]], offsets: Sequence[int]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {name: [] for name in _EMPTY}
    for row, offset in zip(rows, offsets, strict=True):
        for field_name, value in zip(_EMPTY, (*row, offset), strict=True):
            found[field_name].append(value)
    return found


def _finite(log_prob: float) -> float:
    return max(log_prob, -9999.0)  # JSON has no infinity; OpenAI's value for "never"


def _reason(done: Completion) -> str:
    return "stop" if done.finished else "length"
