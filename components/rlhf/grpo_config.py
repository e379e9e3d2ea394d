"""Settings of GRPO; free of torch, so that reading a profile stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig
from components.training.schedules import ScheduleConfig

Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"]


@dataclass(frozen=True)
class GRPOConfig:
    """num_iterations of: num_prompts × group_size answers, then num_epochs over them in num_minibatches.

    variant. How token losses are averaged: grpo within a sequence, then over sequences; dapo over all tokens of the
    optimiser's batch; dr_grpo as a sum over num_sequences · max_tokens. gspo and rloo clip the ratio of whole answers:
    gspo (Zheng et al. 2025) its mean per token, rloo (Ahmadian et al. 2024) the answer's own. Advantages are divided by
    the group's std in grpo, dapo and gspo; rloo takes each reward against the mean of the others. gspo is meant for far
    tighter clips (3e-4 and 4e-4 in its paper). clip_low, clip_high: the ratio stays in [1 − clip_low, 1 + clip_high]
    (clip-higher, DAPO §3.1). dynamic_sampling: up to this many further draws replace groups whose rewards are all equal
    (DAPO §3.2; 0: off). overlong_buffer: an answer within this many tokens of max_tokens loses up to overlong_penalty,
    in proportion (DAPO eq. 13). mask_truncated: answers cut by the limit carry no loss. kl_coef: weight of the k3
    estimate to the reference. micro_batch_size: rows per pass (0: a whole minibatch); the gradient stays the same up to
    rounding. lora: train adapters alone; the reference is then the same weights without them. gradient_checkpointing:
    keep the input of each block alone, and compute the rest again.
    """

    num_iterations: int = 30
    num_prompts: int = 32
    group_size: int = 8
    num_epochs: int = 1
    num_minibatches: int = 1
    micro_batch_size: int = 0
    max_tokens: int = 64
    temperature: float = 1.0
    variant: Variant = "dapo"
    clip_low: float = 0.2
    clip_high: float = 0.25
    kl_coef: float = 0.0
    dynamic_sampling: int = 0
    overlong_buffer: int = 0
    overlong_penalty: float = 1.0
    mask_truncated: bool = False
    lora: LoRAConfig | None = None
    gradient_checkpointing: bool = False
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(muon_lr=0.0, adamw_lr=5e-4, eps=1e-8))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("constant", warmup_steps=0))
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        for name in ("num_iterations", "num_prompts", "num_epochs", "num_minibatches", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}: give a number of at least 1")
        if self.group_size < 2:
            raise ValueError(f"grpo.group_size is {self.group_size}: a group's mean says something from 2 answers on")
        if self.variant not in ("grpo", "dr_grpo", "dapo", "gspo", "rloo"):
            raise ValueError(f"grpo.variant is {self.variant!r}: it takes grpo, dr_grpo, dapo, gspo or rloo")
        for name in ("clip_low", "clip_high", "kl_coef", "dynamic_sampling", "overlong_penalty", "micro_batch_size"):
            if getattr(self, name) < 0:
                raise ValueError(f"grpo.{name} is {getattr(self, name)}: give a number of at least 0")
        if self.temperature <= 0:
            raise ValueError(f"grpo.temperature is {self.temperature}: rollouts are sampled, so give a number above 0")
        if not 0 <= self.overlong_buffer < self.max_tokens:
            raise ValueError(f"grpo.overlong_buffer is {self.overlong_buffer}: from 0 to below max_tokens")
        if self.num_minibatches > self.num_prompts * self.group_size:
            raise ValueError(f"grpo.num_minibatches is {self.num_minibatches}: at most num_prompts · group_size")
