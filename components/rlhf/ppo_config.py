"""Settings of PPO; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig
from components.training.schedules import ScheduleConfig

KLEstimator = Literal["k1", "k2", "k3"]
Combine = Literal["mean", "worst", "variance"]


def _adam() -> OptimizerConfig:
    return OptimizerConfig(muon_lr=0.0, adamw_lr=1e-3, beta2=0.999, eps=1e-5)


@dataclass(frozen=True)
class PPOConfig:
    """num_iterations of: batch_size answers, then num_epochs over them in num_minibatches.

    kl_coef: weight of the KL penalty per token; with kl_target (nats per sequence) above 0 it adapts over `kl_horizon`
    sequences. max_kl: an iteration's updates stop once the k3 estimate between rollout and policy passes this (0:
    never). dual_clip: 0 or a constant above 1 (usually 3). replay_coef: weight of the next-token loss on replayed
    pretraining text.

    What is done to the score of an answer, in this order. combine: how an ensemble's scores become one (the mean, the
    worst case, or the mean minus variance_coef · variance; Coste et al. 2023). score_scaling: divided by the running
    standard deviation of all scores so far. score_clip: clipped to ± this (0: not). length_penalty: taken off for each
    token of the answer. missing_eos_penalty: taken off where the length limit cut the answer; unfinished_score, where
    given, replaces the score of such an answer instead, since no reward model was trained on half answers (the "EOS
    trick" of Huang et al. 2024: −1). whiten_rewards: unit variance of the rewards without shifting their mean.

    The score belongs to the action that emits the end token. score_after_end: to a step after it, which only the
    critic sees, as TRL has it.

    lora: train adapters alone, of the policy and of the critic, whose head learns too; the reference is the policy's
    weights without adapters, and the critic those that it began as. micro_batch_size: rows a pass (0: a whole
    minibatch); the gradient stays the same up to rounding. gradient_checkpointing: keep the input of each block alone,
    and compute the rest again.

    There is no weight of the value loss: policy and critic share nothing and have an optimizer each. The models have no
    dropout, so there is none to turn off.
    """

    num_iterations: int = 20
    batch_size: int = 96
    num_epochs: int = 1
    num_minibatches: int = 4
    max_tokens: int = 64
    temperature: float = 1.0
    kl_coef: float = 0.1
    kl_estimator: KLEstimator = "k1"
    kl_target: float = 0.0
    kl_horizon: int = 10_000
    gamma: float = 1.0
    lam: float = 0.95
    clip_range: float = 0.2
    value_clip_range: float = 0.2
    dual_clip: float = 0.0
    max_kl: float = 0.0
    combine: Combine = "mean"
    variance_coef: float = 1.0
    score_scaling: bool = False
    score_clip: float = 5.0
    length_penalty: float = 0.0
    missing_eos_penalty: float = 1.0
    unfinished_score: float | None = None
    score_after_end: bool = False
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    replay_coef: float = 0.0
    lora: LoRAConfig | None = None
    micro_batch_size: int = 0
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    policy_optimizer: OptimizerConfig = field(default_factory=_adam)
    critic_optimizer: OptimizerConfig = field(default_factory=_adam)
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("constant", warmup_steps=0))
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        for name in ("num_iterations", "batch_size", "num_epochs", "num_minibatches", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}: give a number of at least 1")
        if self.num_minibatches > self.batch_size:
            raise ValueError(f"ppo.num_minibatches is {self.num_minibatches}: at most batch_size ({self.batch_size})")
        for name in (
            *("kl_coef", "kl_target", "max_kl", "missing_eos_penalty", "score_clip", "replay_coef"),
            *("variance_coef", "length_penalty", "micro_batch_size"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}: give a number of at least 0")
        if self.temperature <= 0:
            raise ValueError(f"ppo.temperature is {self.temperature}: rollouts are sampled, so give a number above 0")
        if self.dual_clip and self.dual_clip <= 1:
            raise ValueError(f"ppo.dual_clip is {self.dual_clip}: give 0 (off) or a number above 1")
