"""A reward that is the reward model of this life, trained on its preferences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.rlhf.rewards.answers import Sample, Score, Scorer


@dataclass(frozen=True)
class ModelReward:
    """The mean score of the ensemble, in standard deviations of its scores of the preference pairs."""

    kind: Literal["reward_model"] = "reward_model"
    name: str = ""
    weight: float = 1.0

    def refusal(self, answer: str, metadata: Mapping[str, Any]) -> str:
        """It needs no reference."""
        return ""


Encode = Callable[[Sample], Sequence[int]]
"""Prompt and answer as token ids of the reward model."""


def open_reward_model(score_sequences: Callable[[Sequence[Sequence[int]]], Sequence[float]], encode: Encode) -> Scorer:
    """`score_sequences`: as `components.rlhf.reward_model` has it for a model. `encode`: for a sample without
    tokens."""

    def score(samples: Sequence[Sample]) -> list[Score]:
        return [Score(float(x)) for x in score_sequences([sample.tokens or encode(sample) for sample in samples])]

    return score
