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
    """What the user says before the first answer, in lower case and with single spaces. How the system was told to
    behave makes no other prompt of the same question."""
    said: list[str] = []
    for message in conversation.messages:
        if message.role == "assistant":
            break
        if message.role != "system":
            said += message.content.lower().split()
    return " ".join(said)


def split_by_prompt(conversations: Iterable[Conversation], share: float) -> PromptSplit:
    """Hold out a share of the distinct prompts twice, with all of their conversations; at least one prompt each time.

    Where a prompt goes is decided by its hash alone: another conversation moves none of those that were there. The one
    exception are so few prompts that no hash falls into a part: then the prompt whose hash is nearest goes there.
    Of a conversation with several copies, training has them all, `valid` and `test` one.

    Args:
        share: of the prompts, for each of `valid` and `test`; above 0 and at most 1/3.

    Raises:
        ValueError: there are fewer than three distinct prompts, or `share` is out of range.
    """
    if not 0 < share <= 1 / 3:
        raise ValueError(f"the held-out share of prompts is {share}: give a number above 0 and at most 1/3")
    everything = [(prompt_of(conversation), conversation) for conversation in conversations]
    place = {prompt: _place(prompt) for prompt, _ in everything}
    if len(place) < 3:
        raise ValueError(
            f"{len(everything)} conversations have {len(place)} distinct prompts; training, early stopping and the "
            "reported loss need one of their own each: give conversations with at least 3 prompts"
        )
    valid = {prompt for prompt, at in place.items() if at < share}
    valid = valid or {min(place, key=lambda prompt: place[prompt])}
    test = {prompt for prompt, at in place.items() if at < 2 * share} - valid
    test = test or {min(place.keys() - valid, key=lambda prompt: place[prompt])}
    if not place.keys() - valid - test:  # all of a handful of prompts fell into the parts that are held out
        (valid if len(valid) > 1 else test).remove(max(valid if len(valid) > 1 else test, key=lambda one: place[one]))
    return PromptSplit(
        train=tuple(c for prompt, c in everything if prompt not in valid | test for _ in range(c.copies)),
        valid=tuple(c for prompt, c in everything if prompt in valid),
        test=tuple(c for prompt, c in everything if prompt in test),
    )


def _place(prompt: str) -> float:
    """Where a prompt lies from 0 to 1."""
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big") / 2**64
