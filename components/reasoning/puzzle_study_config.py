"""Settings of search against sampling; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field

from components.reasoning.puzzles import PuzzleConfig
from components.reasoning.tree_config import TreeConfig


@dataclass(frozen=True)
class PuzzleStudyConfig:
    """Search against sampling on sign puzzles. num_conversations: puzzles and judged states to fine-tune on, with
    `judge_share` of the latter. num_puzzles: held-out ones that every strategy is asked. num_samples, temperature: for
    best-of-k and votes. max_attempts: samples until one is right, at most; enough that they may cost what a tree does.
    trees: the searches to try."""

    puzzle: PuzzleConfig = field(default_factory=PuzzleConfig)
    num_conversations: int = 30_000
    judge_share: float = 0.5
    num_puzzles: int = 300
    num_samples: int = 16
    max_attempts: int = 16
    temperature: float = 0.7
    trees: tuple[TreeConfig, ...] = (TreeConfig(search="depth", proposals=0, max_expansions=60),)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_conversations", "num_puzzles", "num_samples", "max_attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"puzzles.{name} is {getattr(self, name)}: give a number of at least 1")
