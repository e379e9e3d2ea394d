"""Settings of reasoning, free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.reasoning.puzzles import PuzzleConfig


def _at_least_one(config: object, section: str, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{section}.{name} is {getattr(config, name)}: give a number of at least 1")


@dataclass(frozen=True)
class ReasoningConfig:
    """num_samples: worked answers an item, from which votes of 1, 2, 4, … are read. temperature, max_tokens: of those;
    max_tokens also limits the greedy chain. max_direct_tokens: of an answer at once."""

    num_samples: int = 16
    temperature: float = 1.0
    max_tokens: int = 96
    max_direct_tokens: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "reasoning", "num_samples", "max_tokens", "max_direct_tokens")
        if not self.temperature > 0:
            raise ValueError(f"reasoning.temperature is {self.temperature}: samples must differ, give one above 0")


@dataclass(frozen=True)
class TreeConfig:
    """A search over partial solutions (Yao et al. 2023, "Tree of Thoughts").

    search: breadth (their algorithm 1: the best `beam_width` states of each level go on), depth (algorithm 2: the most
    promising child first, back up from what is valued below `threshold`) or best (the most promising open state
    anywhere). proposals: sampled next steps of a state, at `temperature`; 0: every step that the task lists.
    value: judge (probability of "yes" to the task's judge prompt), log_prob (of the steps so far, a token) or oracle
    (the task's own; for tests and upper bounds). max_expansions: states that depth and best may expand, an item.
    """

    search: Literal["breadth", "depth", "best"] = "depth"
    proposals: int = 3
    temperature: float = 1.0
    value: Literal["judge", "log_prob", "oracle"] = "judge"
    beam_width: int = 4
    threshold: float = 0.05
    max_expansions: int = 30
    max_step_tokens: int = 12
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "tree", "beam_width", "max_expansions", "max_step_tokens")
        if self.proposals < 0:
            raise ValueError(f"tree.proposals is {self.proposals}: give how many to sample, or 0 to list all steps")
        if self.proposals and not self.temperature > 0:
            raise ValueError(f"tree.temperature is {self.temperature}: sampled steps must differ, give one above 0")


@dataclass(frozen=True)
class ForgettingConfig:
    """What every checkpoint is measured on: num_windows held-out windows of context_length tokens (less where the model
    takes no more) of each source of the pretraining text, num_problems chains, num_stories requested stories.
    compare_replay: shares of replayed text at which fine-tuning is done again, to be measured beside the rest."""

    num_windows: int = 24
    context_length: int = 256
    num_problems: int = 60
    num_stories: int = 32
    compare_replay: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("num_windows", 2), ("context_length", 1), ("num_problems", 1), ("num_stories", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: give a number of at least {least}")


@dataclass(frozen=True)
class AdaptiveConfig:
    """The thresholds that the controller's tuning tries (`adaptive.Policy` says what they mean); above 1 stands for
    "never". num_folds: the items are tuned on all folds but one and evaluated on that one. tolerance: accuracy that the
    default policy may lose on its tuning items for fewer tokens."""

    direct_confidences: tuple[float, ...] = (0.9, 2.0)
    worked_confidences: tuple[float, ...] = (0.0, 0.3, 0.5, 0.7, 0.85, 0.95, 2.0)
    vote_confidences: tuple[float, ...] = (0.8, 0.9, 0.97)
    max_votes: tuple[int, ...] = (4, 8, 16)
    num_folds: int = 2
    tolerance: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("direct_confidences", "worked_confidences", "vote_confidences", "max_votes"):
            if not getattr(self, name):
                raise ValueError(f"adaptive.{name} is empty: give at least one value to try")
        if self.num_folds < 2:
            raise ValueError(f"adaptive.num_folds is {self.num_folds}: tuning and evaluation need at least 2")


@dataclass(frozen=True)
class PuzzleStudyConfig:
    """Search against sampling on sign puzzles. num_conversations: puzzles and judged states to fine-tune on, with
    `judge_share` of the latter. num_puzzles: held-out ones that every strategy is asked. num_samples, temperature: for
    best-of-k and votes. trees: the searches to try."""

    puzzle: PuzzleConfig = field(default_factory=PuzzleConfig)
    num_conversations: int = 30_000
    judge_share: float = 0.5
    num_puzzles: int = 300
    num_samples: int = 16
    temperature: float = 0.7
    trees: tuple[TreeConfig, ...] = (TreeConfig(search="depth", proposals=0, max_expansions=60),)
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least_one(self, "puzzles", "num_conversations", "num_puzzles", "num_samples")
