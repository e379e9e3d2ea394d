"""The conversations of supervised fine-tuning: seeded problems (answered at once or worked) and requested stories."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.data.stories import generate_story_conversations
from components.reasoning.tasks import HeldOutProblems, Style, chain_problem, prompt, response

if TYPE_CHECKING:
    from components.data.conversations import Conversation


@dataclass(frozen=True)
class InstructionConfig:
    """num_conversations: how many. story_share: share of stories; the rest are problems of 1 to max_difficulty
    operations. worked_share: share of problems whose answer is worked, not direct."""

    num_conversations: int = 12_000
    story_share: float = 0.3
    worked_share: float = 0.5
    max_difficulty: int = 6

    def __post_init__(self) -> None:
        for name in ("story_share", "worked_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it takes a share from 0 to 1")
        if self.num_conversations < 1 or self.max_difficulty < 1:
            raise ValueError("num_conversations and max_difficulty take a number of at least 1")


def generate_conversations(config: InstructionConfig, seed: int, held_out: HeldOutProblems) -> Iterator[Conversation]:
    """`num_conversations` conversations; no problem is used that `held_out` (of the evaluation set) forbids."""
    from components.data.conversations import Conversation  # brings torch, which reading settings does without

    rng = random.Random(f"instruction-{seed}")
    stories = generate_story_conversations(seed)
    made = 0
    while made < config.num_conversations:
        if rng.random() < config.story_share:
            request, text = next(stories)
            yield Conversation.turn(request, text, "stories")
        else:
            problem = chain_problem(rng, rng.randint(1, config.max_difficulty))
            if held_out.forbids(problem):
                continue
            style: Style = "worked" if rng.random() < config.worked_share else "direct"
            yield Conversation.turn(prompt(problem, style), response(problem, style), style)
        made += 1
