"""Settings of Tree of Thought; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TreeConfig:
    """A search over partial solutions (Yao et al. 2023, "Tree of Thoughts").

    search: breadth (their algorithm 1: the best `beam_width` states of each level go on), depth (algorithm 2: the most
    promising child first, back up from what is valued below `threshold`) or best (the most promising open state
    anywhere). proposals: sampled next steps of a state, at `temperature`; 0: every step that the task lists.
    value: judge (probability of "yes" to the task's judge prompt), log_prob (of the steps so far, per token) or oracle
    (the task's own; for tests and upper bounds). max_expansions: states that depth and best may expand, per item.
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
        for name in ("beam_width", "max_expansions", "max_step_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"tree.{name} is {getattr(self, name)}: give a number of at least 1")
        if self.proposals < 0:
            raise ValueError(f"tree.proposals is {self.proposals}: give how many to sample, or 0 to list all steps")
        if self.proposals and not self.temperature > 0:
            raise ValueError(f"tree.temperature is {self.temperature}: sampled steps must differ, give one above 0")
