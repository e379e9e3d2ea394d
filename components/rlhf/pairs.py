"""Pairs of answers as token ids, and their split into training and held-out pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.data.tokenizer import Tokenizer
from components.rlhf.preferences import Preference
from components.rlhf.rollouts import seeded


@dataclass(frozen=True)
class TokenPair:
    """Prompt with each answer as ids (an end token where the answer ended by itself), the margin asked for, how many of
    the ids are the prompt, and which of the preferences it was made from."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float = 0.0
    num_prompt: int = 0
    index: int = -1


def encode_pairs(
    preferences: Sequence[Preference], tokenizer: Tokenizer, context_length: int
) -> tuple[list[TokenPair], list[tuple[int, str]]]:
    """Pairs as token ids under the chat template, and (index, reason) of those that do not fit the context."""
    pairs: list[TokenPair] = []
    too_long: list[tuple[int, str]] = []
    for index, p in enumerate(preferences):
        turns = [*({"role": t.role, "content": t.content} for t in p.context), {"role": "user", "content": p.prompt}]
        prompt, _ = tokenizer.render_chat(turns, add_generation_prompt=True)
        ends = [[tokenizer.end_id] if finished else [] for finished in (p.chosen_finished, p.rejected_finished)]
        chosen, rejected = (
            (*prompt, *tokenizer.encode(text), *end) for text, end in zip((p.chosen, p.rejected), ends, strict=True)
        )
        longest = max(len(chosen), len(rejected))
        if longest > context_length:
            too_long.append((index, f"{longest} tokens; the model's context holds {context_length}"))
            continue
        pairs.append(TokenPair(chosen, rejected, p.margin, len(prompt), index))
    return pairs, too_long


def split_pairs(pairs: Sequence[TokenPair], held_out: float, seed: int) -> tuple[list[TokenPair], list[TokenPair]]:
    """Training and held-out pairs. Pairs with an answer in common stay on one side."""
    groups: dict[tuple[int, ...], int] = {}
    parent: list[int] = []

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for index, pair in enumerate(pairs):
        parent.append(index)
        for answer in (pair.chosen, pair.rejected):
            if answer in groups:
                parent[root(groups[answer])] = index
            groups[answer] = index
    roots = [root(i) for i in range(len(pairs))]
    order = seeded(seed, 0x5B17).permutation(sorted(set(roots))).tolist()
    members: dict[int, list[int]] = {}
    for index, r in enumerate(roots):
        members.setdefault(r, []).append(index)
    held: set[int] = set()
    for r in order:
        if len(held) >= held_out * len(pairs):
            break
        held.update(members[r])
    return [p for i, p in enumerate(pairs) if i not in held], [p for i, p in enumerate(pairs) if i in held]
