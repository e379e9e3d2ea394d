"""A conversation with a model: the turns, and answers that come in pieces."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field

from components.data.tokenizer import Tokenizer
from components.inference.engine import Engine, Request
from components.inference.sampling import SamplingParams
from components.inference.streams import TextStream


@dataclass
class Conversation:
    """The turns so far, and an engine with one slot that keeps its cache of them between turns.

    temperature: 0 always takes the most probable token. max_tokens: of one answer; 0: as many as the context has room
    for. dropped: how many exchanges the last answer had to drop from the beginning.
    """

    tokenizer: Tokenizer
    engine: Engine
    temperature: float = 0.7
    max_tokens: int = 0
    seed: int = field(default_factory=lambda: secrets.randbits(63))
    turns: list[dict[str, str]] = field(default_factory=list)
    dropped: int = 0

    def answer(self, text: str) -> Iterator[str]:
        """The answer in pieces, as they are generated. The oldest exchanges are dropped when the context is full.

        An answer that is not read to its end stays in the conversation as far as it was generated. Raises ValueError
        for a text that is too long by itself or that the chat template refuses; the text is then forgotten.
        """
        limit = self.engine.context_length
        reserved = min(self.max_tokens or limit // 2, limit // 2)
        self.turns.append({"role": "user", "content": text})
        try:
            prompt = self._prompt(reserved, limit)
        except ValueError:
            self.turns.pop()
            raise
        params = SamplingParams(
            max_tokens=min(self.max_tokens or limit, limit - len(prompt)),
            temperature=self.temperature,
            seed=self.seed,
            stop_ids=tuple(sorted(self.tokenizer.stop_ids)),
            ban_ids=tuple(sorted(self.tokenizer.special_ids - self.tokenizer.stop_ids)),
        )
        # A random stream for each turn: the same question is not answered with the same draws again.
        ticket = self.engine.submit(Request(tuple(prompt), params, len(self.turns), stepwise=True))
        stream, answer, num_seen = TextStream(self.tokenizer), "", 0
        try:
            while True:
                for update in self.engine.step():
                    tokens = update.completion.tokens
                    piece = stream.push(tokens[num_seen:], update.ended)
                    num_seen, answer = len(tokens), answer + piece
                    yield piece
                    if update.ended:
                        return
        finally:
            self.engine.cancel(ticket)
            self.turns.append({"role": "assistant", "content": answer})

    def _prompt(self, reserved: int, limit: int) -> list[int]:
        """Token ids of the turns, without the oldest exchanges if they and `reserved` more exceed the `limit`."""
        self.dropped = 0
        while True:
            prompt, _ = self.tokenizer.render_chat(self.turns, add_generation_prompt=True)
            if len(prompt) + (reserved if len(self.turns) > 1 else 1) <= limit:
                return prompt
            if len(self.turns) == 1:
                raise ValueError(f"that is {len(prompt)} tokens; the model's context has {limit}")
            del self.turns[:2]
            self.dropped += 1

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()
