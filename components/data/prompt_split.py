"""Conversations for training, for early stopping and for the reported loss, of which no two parts share a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from components.data.conversations import Conversation


@dataclass(frozen=True)
class PromptSplit:
    """`valid` is what training is watched with, `test` what it is reported on. No prompt stands in two of them."""

    train: tuple[Conversation, ...]
    valid: tuple[Conversation, ...]
    test: tuple[Conversation, ...]


def prompt_of(conversation: Conversation) -> str:
    """All that is said before the first answer, in lower case and with single spaces."""
    said: list[str] = []
    for message in conversation.messages:
        if message.role == "assistant":
            break
        said += message.content.lower().split()
    return " ".join(said)


def split_by_prompt(conversations: Iterable[Conversation], share: float) -> PromptSplit:
    """Hold out a share of the distinct prompts twice, with all of their conversations; at least one prompt each time.

    Prompts are ordered by their source and then by a hash, and drawn at equal distances (systematic sampling, Cochran
    1977, chapter 8), so that every source has its share. A prompt of several sources counts to the first.

    Args:
        share: of the prompts, for each of `valid` and `test`; above 0 and at most 1/3.

    Raises:
        ValueError: there are fewer than three distinct prompts, or `share` is out of range.
    """
    if not 0 < share <= 1 / 3:
        raise ValueError(f"the held-out share of prompts is {share}: give a number above 0 and at most 1/3")
    everything = list(conversations)
    source_of: dict[str, str] = {}
    for conversation in everything:
        source_of.setdefault(prompt_of(conversation), conversation.source)
    prompts = sorted(source_of, key=lambda prompt: (source_of[prompt], hashlib.sha256(prompt.encode()).digest()))
    if len(prompts) < 3:
        raise ValueError(
            f"{len(everything)} conversations have {len(prompts)} distinct prompts; training, early stopping and the "
            "reported loss need one of their own each: give conversations with at least 3 prompts"
        )
    count = max(1, min(round(share * len(prompts)), len(prompts) // 3))
    distance = len(prompts) / count
    valid = {prompts[int(i * distance)] for i in range(count)}
    test = {prompts[int((i + 0.5) * distance)] for i in range(count)}
    return PromptSplit(
        train=tuple(c for c in everything if prompt_of(c) not in valid | test),
        valid=tuple(c for c in everything if prompt_of(c) in valid),
        test=tuple(c for c in everything if prompt_of(c) in test),
    )
