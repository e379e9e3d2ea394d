"""Settings of the task that GRPO practises; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VerifierTaskConfig:
    """The chains that GRPO practises: seeded, never with a question or a solution of the evaluation set.

    num_problems: how many questions it draws from; evaluate_every: iterations between greedy evaluations on `num_watch`
    problems of the held-out set."""

    num_problems: int = 2000
    min_difficulty: int = 4
    max_difficulty: int = 6
    evaluate_every: int = 10
    num_watch: int = 100
