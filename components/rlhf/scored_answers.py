"""Answers with what every reward said of them: while a policy trains, and before against after."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from components.data.prompt_files import Prompt
from components.data.tokenizer import Tokenizer
from components.rlhf.prompts import samples_of_rollout
from components.rlhf.results.policy import RewardGain
from components.rlhf.rewards.scoring import Judged, Rewards
from components.rlhf.rollouts import Rollout
from components.statistics import clustered_mean_interval


class ScoredAnswers:
    """The rewards of a rollout as a `Score`, which remembers what every part said until the rollout is `taken`.

    An answer that occurs twice is judged once. `encoded`: the tokens of each prompt.
    """

    def __init__(
        self, rewards: Rewards, words: Tokenizer, prompts: Sequence[Prompt], encoded: Sequence[Sequence[int]]
    ) -> None:
        self._rewards, self._words, self._prompts, self._encoded = rewards, words, prompts, encoded
        self._judged: dict[tuple[int, tuple[int, ...]], Judged] = {}

    def __call__(self, rollout: Rollout) -> Tensor:
        samples = samples_of_rollout(self._words, self._prompts, self._encoded, rollout)
        rows = list(zip(rollout.prompt_index, rollout.responses, strict=True))
        new = {row: sample for row, sample in zip(rows, samples, strict=True) if row not in self._judged}
        self._judged |= dict(zip(new, self._rewards.judge(list(new.values())), strict=True))
        return torch.tensor([self._judged[row].total for row in rows])

    def taken(self, rollout: Rollout) -> list[Judged]:
        """What was said of the answers of a rollout, row by row; all that is remembered is then forgotten."""
        judged = [self._judged[row] for row in zip(rollout.prompt_index, rollout.responses, strict=True)]
        self._judged = {}
        return judged


def reward_gains(before: Sequence[Judged], after: Sequence[Judged], prompts: Sequence[str]) -> dict[str, RewardGain]:
    """Every reward by name, and their sum where there are several, of two models' answers to the same prompts; the
    interval of the gain is over prompts, of which one may stand several times."""
    each = {name: [(a.parts[name].value, b.parts[name].value) for a, b in zip(before, after, strict=True)]
            for name in before[0].parts}  # fmt: skip
    if len(each) > 1:
        each["sum"] = [(a.total, b.total) for a, b in zip(before, after, strict=True)]
    gains = {}
    for name, pairs in each.items():
        first, second = np.array(pairs).T
        gains[name] = RewardGain(
            float(first.mean()), float(second.mean()), clustered_mean_interval(second - first, prompts)
        )
    return gains
