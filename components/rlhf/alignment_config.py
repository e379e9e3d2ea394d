"""Which policies a life aligns; only the assembly reads it, so it is in no stage's key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from components.rlhf.ppo_config import PPOConfig

Mitigation = Literal["worst", "variance", "length"]


@dataclass(frozen=True)
class AlignmentConfig:
    """compare_kl_coefs: PPO runs beside the one at `ppo.kl_coef`. free_iterations: of every run without a KL penalty,
    which needs longer to show where it leads than one that is held (0: `ppo.num_iterations`). mitigations: further runs
    without a KL penalty, each held back in one other way: by the worst case of the ensemble, by its mean minus
    ppo.variance_coef · variance, or by `length_penalty` for each token. dpo: also train on the pairs directly. best_of:
    sizes of best-of-n; the largest is also how many answers a held-out request gets."""

    compare_kl_coefs: tuple[float, ...] = (0.0, 0.4)
    free_iterations: int = 0
    mitigations: tuple[Mitigation, ...] = ()
    length_penalty: float = 0.05
    dpo: bool = False
    best_of: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)

    def __post_init__(self) -> None:
        if self.free_iterations < 0:
            raise ValueError(f"free_iterations is {self.free_iterations}: give a number of at least 0")

    def held(self, ppo: PPOConfig, kl_coef: float) -> PPOConfig:
        """The run at this KL coefficient."""
        free = 0 if kl_coef else self.free_iterations
        return replace(ppo, kl_coef=kl_coef, num_iterations=free or ppo.num_iterations)

    def mitigated(self, ppo: PPOConfig, how: Mitigation) -> PPOConfig:
        """A run without a KL penalty, held back in this way alone."""
        free = replace(self.held(ppo, 0.0), kl_target=0.0)
        if how == "length":
            return replace(free, length_penalty=self.length_penalty)
        return replace(free, combine=how)
