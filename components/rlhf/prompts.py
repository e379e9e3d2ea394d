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


def stop_tokens(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every token that ends an answer, in order: the end of the turn, of the text, and what else an imported model's
    files name."""
    return tuple(sorted(tokenizer.stop_ids))


def answer_text(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """What sampled tokens say, without the end of the turn."""
    return tokenizer.decode(tokens).strip()
