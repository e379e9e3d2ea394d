"""Tokens as they are generated, as text: whole characters only, and nothing that may yet begin a stop text."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from components.data.tokenizer import Tokenizer


class TextStream:
    """The text of one completion, piece by piece; together the pieces are what `Tokenizer.decode` makes of all tokens,
    up to where a stop text begins. `specials`: special tokens appear by name instead of being left out."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), specials: bool = False) -> None:
        self._bytes = tokenizer.text_bytes
        self._named = {i: tokenizer.token(i).encode() for i in tokenizer.special_ids} if specials else {}
        self._strip = tokenizer.leading_space
        self._stops = [stop.encode() for stop in stops]
        self._held = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, tokens: Sequence[int], ended: bool = False, stop: str = "") -> str:
        """The text that becomes certain with these tokens. `ended`: they are the last ones; `stop`: the stop text that
        ended them."""
        self._held += b"".join(self._named.get(token) or self._bytes[token] for token in tokens)
        if self._strip and self._held:
            self._held, self._strip = self._held.removeprefix(b" "), False
        if stop:
            self._held = self._held.partition(stop.encode())[0]
        keep = 0 if ended else max((_overlap(self._held, stop) for stop in self._stops), default=0)
        certain, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return self._decoder.decode(certain, final=ended)


class Places:
    """Where in a text each of its tokens begins: after the characters that the tokens before it make certain. start:
    characters before the first token. specials: special tokens appear in the text by name."""

    def __init__(self, tokenizer: Tokenizer, start: int = 0, specials: bool = False) -> None:
        self._stream, self._at = TextStream(tokenizer, specials=specials), start

    def of(self, tokens: Sequence[int]) -> list[int]:
        """Positions of the next tokens, in characters."""
        found = []
        for token in tokens:
            found.append(self._at)
            self._at += len(self._stream.push([token]))
        return found


def _overlap(data: bytes, stop: bytes) -> int:
    """Length of the longest suffix of `data` that is a prefix of `stop`."""
    return next((n for n in range(min(len(data), len(stop) - 1), 0, -1) if data.endswith(stop[:n])), 0)
