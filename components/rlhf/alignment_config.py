"""Which policies a life aligns; only the assembly reads it, so it is in no stage's key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from components.rlhf.ppo_config import PPOConfig

Mitigation = Literal["worst", "variance", "length"]


@dataclass(frozen=True)
class AlignmentConfig:
    """compare_kl_coefs: PPO runs beside the one at `ppo.kl_coef`. mitigations: further runs without a KL penalty, each
    held back in one other way: by the worst case of the ensemble, by its mean minus ppo.variance_coef · variance, or by
    `length_penalty` for each token. dpo: also train on the pairs directly. best_of: sizes of best-of-n; the largest is
    also how many answers a held-out request gets."""

    compare_kl_coefs: tuple[float, ...] = (0.0, 0.4)
    mitigations: tuple[Mitigation, ...] = ()
    length_penalty: float = 0.05
    dpo: bool = False
    best_of: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)

    def mitigated(self, ppo: PPOConfig, how: Mitigation) -> PPOConfig:
        """A run without a KL penalty, held back in this way alone."""
        free = replace(ppo, kl_coef=0.0, kl_target=0.0)
        if how == "length":
            return replace(free, length_penalty=self.length_penalty)
        return replace(free, combine=how)
