"""What the alignment study compares and measures, free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from components.data.stories import NAMES, OBJECTS, story_prompt


@dataclass(frozen=True)
class AlignmentConfig:
    """kl_coefs: one PPO run each. num_eval: answers on which a policy is judged at the end. best_of: sizes of
    best-of-n; the largest is also how many answers a held-out prompt gets. max_tokens, temperature: of judged answers.
    held_out_every: every such prompt is kept for judging alone."""

    kl_coefs: tuple[float, ...] = (0.0, 0.1, 0.4)
    num_eval: int = 400
    best_of: tuple[int, ...] = (1, 4, 16, 64)
    max_tokens: int = 64
    temperature: float = 1.0
    held_out_every: int = 4

    def prompts(self) -> tuple[list[str], list[str]]:
        """Requests to train on, and others to judge on."""
        # Every name and every object stands in both parts: a diagonal of the grid is held out.
        every = [(i + j, story_prompt(name, thing)) for i, name in enumerate(NAMES) for j, thing in enumerate(OBJECTS)]
        held_out = [text for diagonal, text in every if diagonal % self.held_out_every == 0]
        return [text for diagonal, text in every if diagonal % self.held_out_every], held_out


@dataclass(frozen=True)
class VerifierTaskConfig:
    """The chains that GRPO practises: seeded, never one of the evaluation set. num_problems: how many questions it
    draws from; evaluate_every: iterations between greedy evaluations on `num_watch` problems of the held-out set."""

    num_problems: int = 2000
    min_difficulty: int = 4
    max_difficulty: int = 6
    evaluate_every: int = 10
    num_watch: int = 100
