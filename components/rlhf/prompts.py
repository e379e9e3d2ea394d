"""Requests as chat prompts, and sampled tokens as the text of an answer: one rendering for every stage of alignment."""

from __future__ import annotations

from collections.abc import Sequence

from components.data.tokenizer import Tokenizer


def chat_prompts(tokenizer: Tokenizer, requests: Sequence[str]) -> list[list[int]]:
    """Tokens of each request as a user's turn, up to where the assistant answers."""
    return [
        tokenizer.render_chat([{"role": "user", "content": request}], add_generation_prompt=True)[0]
        for request in requests
    ]


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """What sampled tokens say, without the end of the turn."""
    return tokenizer.decode(tokens).strip()
