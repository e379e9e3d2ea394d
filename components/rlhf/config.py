"""Settings of preferences, reward model, PPO, GRPO, DPO and the watch. Free of torch: reading a profile stays quick."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from components.data.stories import NAMES, OBJECTS, story_prompt
from components.training.config import NonFiniteConfig, OptimizerConfig
from components.training.schedules import ScheduleConfig

KLEstimator = Literal["k1", "k2", "k3"]
Variant = Literal["grpo", "dr_grpo", "dapo", "gspo", "rloo"]
Combine = Literal["mean", "worst", "variance"]
DPOLoss = Literal["sigmoid", "ipo", "hinge", "robust"]
Mitigation = Literal["worst", "variance", "length"]


PreferenceSource = Literal["gold", "people", "file", "model"]
ModelName = Literal["sft", "base"]
JUDGE_QUESTION = (
    "A user asked:\n{prompt}\n\nAnswer 1:\n{first}\n\nAnswer 2:\n{second}\n\nWhich answer is better? Say 1, 2, or tie."
)


@dataclass(frozen=True)
class AnswersConfig:
    """Which answers are sampled; see `PreferencesConfig`."""

    num_prompts: int
    num_answers: int
    max_tokens: int
    temperatures: tuple[float, ...]
    models: tuple[ModelName, ...]

    def shares(self) -> list[tuple[ModelName, float, int]]:
        """(model, temperature, number of answers a prompt): even, the first get what is left over."""
        each = [(model, temperature) for model in self.models for temperature in self.temperatures]
        whole, rest = divmod(self.num_answers, len(each))
        return [(model, temperature, whole + (i < rest)) for i, (model, temperature) in enumerate(each)]


@dataclass(frozen=True)
class PreferencesConfig:
    """num_prompts requests with num_answers sampled answers each, of at most max_tokens, shared out evenly among
    `models` (sft, base) and `temperatures`.

    source: who judges. gold: the scorer, on pairs_per_prompt of the pairs, label_noise of the labels turned round;
    model: `judge` is asked judge_question about as many, twice with the answers swapped, or instead of it judge_model
    of the OpenAI-compatible server at judge_url ("": the one model that it has); people: every prompt waits for
    `overlap` annotators of `lifespan annotate`; file: `path`, in a format of `components/rlhf/formats.py`.
    """

    source: PreferenceSource = "gold"
    num_prompts: int = 400
    num_answers: int = 4
    pairs_per_prompt: int = 3
    label_noise: float = 0.18
    max_tokens: int = 64
    temperatures: tuple[float, ...] = (1.0,)
    models: tuple[ModelName, ...] = ("sft",)
    overlap: int = 2
    path: str = ""
    judge: ModelName = "sft"
    judge_url: str = ""
    judge_model: str = ""
    judge_question: str = JUDGE_QUESTION

    @property
    def answers(self) -> AnswersConfig:
        """The part that decides which answers there are: what is judged how comes later and makes no others."""
        return AnswersConfig(self.num_prompts, self.num_answers, self.max_tokens, self.temperatures, self.models)

    def __post_init__(self) -> None:
        if (self.source == "file") != bool(self.path):
            raise ValueError('path names the file of preferences: give it with source = "file", and only then')
        if self.judge_url and (self.source != "model" or not self.judge_url.startswith(("http://", "https://"))):
            raise ValueError(
                f"judge_url is {self.judge_url!r}: give the address of a server (http://127.0.0.1:8000/v1) with "
                'source = "model", and only then'
            )
        if self.judge_model and not self.judge_url:
            raise ValueError("judge_model names a model of the server at judge_url: give both")
        if self.overlap < 1:
            raise ValueError(f"overlap is {self.overlap}: each prompt needs at least 1 annotator")
        if missing := [name for name in ("{prompt}", "{first}", "{second}") if name not in self.judge_question]:
            raise ValueError(f"judge_question lacks {', '.join(missing)}")
        if not self.temperatures or min(self.temperatures) < 0 or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures is {self.temperatures}: give numbers from 0 up, each once")
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models is {self.models}: name each model once")
        if len(self.models) * len(self.temperatures) > self.num_answers:
            raise ValueError(
                f"num_answers is {self.num_answers}: {len(self.models)} models at {len(self.temperatures)} "
                "temperatures need one answer each"
            )
        if not 0 <= self.label_noise < 0.5:
            raise ValueError(f"label_noise is {self.label_noise}: give a share from 0 to below 0.5")
        if self.num_answers < 2:
            raise ValueError(f"num_answers is {self.num_answers}: a pair needs at least 2")
        most = math.comb(self.num_answers, 2)
        if not 1 <= self.pairs_per_prompt <= most:
            raise ValueError(
                f"pairs_per_prompt is {self.pairs_per_prompt}: {self.num_answers} answers have 1 to {most} pairs"
            )


@dataclass(frozen=True)
class RewardModelConfig:
    """epochs over the pairs in batches of `batch_pairs`. margin_coef: how much of a pair's stated margin the loss
    demands. centering_coef: weight of (r_chosen + r_rejected)², which keeps rewards near 0 (Eisenstein et al.
    2023). held_out: share of the pairs kept for accuracy.

    An ensemble has num_members models of num_heads heads, each model from its own seed and in its own order of the
    data. Heads share a trunk and cost next to nothing: each starts from its own seed and sees its own bootstrap of the
    pairs (Poisson weights; Oza & Russell 2001), which makes them disagree where the pairs say little.
    """

    epochs: int = 3
    batch_pairs: int = 16
    margin_coef: float = 0.0
    centering_coef: float = 0.01
    held_out: float = 0.15
    num_members: int = 1
    num_heads: int = 1
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(muon_lr=0.01, adamw_lr=1e-3))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("linear", warmup_steps=5))
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_pairs", "num_members", "num_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"reward_model.{name} is {getattr(self, name)}: give a number of at least 1")
        if not 0 <= self.held_out < 1:
            raise ValueError(f"held_out is {self.held_out}: give a share from 0 to below 1")


def _adam() -> OptimizerConfig:
    return OptimizerConfig(muon_lr=0.0, adamw_lr=1e-3, beta2=0.999, eps=1e-5)


@dataclass(frozen=True)
class PPOConfig:
    """num_iterations of: batch_size answers, then num_epochs over them in num_minibatches.

    kl_coef: weight of the KL penalty a token; with kl_target (nats a sequence) above 0 it adapts over `kl_horizon`
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
            *("variance_coef", "length_penalty"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}: give a number of at least 0")
        if self.temperature <= 0:
            raise ValueError(f"ppo.temperature is {self.temperature}: rollouts are sampled, so give a number above 0")
        if self.dual_clip and self.dual_clip <= 1:
            raise ValueError(f"ppo.dual_clip is {self.dual_clip}: give 0 (off) or a number above 1")


@dataclass(frozen=True)
class WatchConfig:
    """The watch on reward hacking. every: iterations between looks. gold: whether the alarm may use the gold scorer,
    which is never trained on; without it the alarm goes by signs. on_alarm: `stop` ends the run and keeps the best
    policy that was seen; `continue` only tells. false_alarm_rate: of the comparison with gold, over a whole run."""

    every: int = 1
    gold: bool = True
    on_alarm: Literal["continue", "stop"] = "continue"
    false_alarm_rate: float = 0.01

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"watch.every is {self.every}: give a number of at least 1")
        if not 0 < self.false_alarm_rate < 1:
            raise ValueError(f"watch.false_alarm_rate is {self.false_alarm_rate}: give a share between 0 and 1")


@dataclass(frozen=True)
class DPOConfig:
    """beta: strength of the tie to the reference. label_smoothing: the share of wrong labels that `robust` (below 0.5)
    assumes, or how far `sigmoid` hedges. IPO compares log-probabilities a token (length-normalised)."""

    epochs: int = 2
    batch_pairs: int = 32
    loss: DPOLoss = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(muon_lr=0.0, adamw_lr=3e-4))
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig("linear", warmup_steps=5))
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)

    def __post_init__(self) -> None:
        if self.loss not in ("sigmoid", "ipo", "hinge", "robust"):
            raise ValueError(f"dpo.loss is {self.loss!r}: it takes sigmoid, ipo, hinge or robust")
        if self.beta <= 0:
            raise ValueError(f"dpo.beta is {self.beta}: give a number above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"dpo.label_smoothing is {self.label_smoothing}: give a share from 0 to below 0.5")
        if self.epochs < 1 or self.batch_pairs < 1:
            raise ValueError("dpo.epochs and dpo.batch_pairs must be at least 1")


@dataclass(frozen=True)
class GRPOConfig:
    """num_iterations of: num_prompts × group_size answers, then num_epochs over them in num_minibatches.

    variant. How token losses are averaged: grpo within a sequence, then over sequences; dapo over all tokens of the
    optimiser's batch; dr_grpo as a sum over num_sequences · max_tokens. gspo and rloo clip the ratio of whole answers:
    gspo (Zheng et al. 2025) its mean a token, rloo (Ahmadian et al. 2024) the answer's own. Advantages are divided by
    the group's std in grpo, dapo and gspo; rloo takes each reward against the mean of the others. gspo is meant for
    far tighter clips (3e-4 and 4e-4 in its paper).
    clip_low, clip_high: the ratio stays in [1 − clip_low, 1 + clip_high] (clip-higher, DAPO §3.1).
    dynamic_sampling: up to this many further draws replace groups whose rewards are all equal (DAPO §3.2; 0: off).
    overlong_buffer: an answer within this many tokens of max_tokens loses up to overlong_penalty, in proportion
    (DAPO eq. 13). mask_truncated: answers cut by the limit carry no loss. kl_coef: weight of the k3 estimate to the
    reference. micro_batch_size: rows a pass (0: a whole minibatch); it does not change the gradient.
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


@dataclass(frozen=True)
class JudgingConfig:
    """How a policy's answers are judged when it is done: num_eval answers of at most max_tokens at temperature."""

    num_eval: int = 400
    max_tokens: int = 64
    temperature: float = 1.0


HELD_OUT_EVERY = 4


def story_requests() -> tuple[list[str], list[str]]:
    """Requests to train on, and others to judge on; every name and every object stands in both parts."""
    every = [(i + j, story_prompt(name, thing)) for i, name in enumerate(NAMES) for j, thing in enumerate(OBJECTS)]
    held_out = [text for diagonal, text in every if diagonal % HELD_OUT_EVERY == 0]
    return [text for diagonal, text in every if diagonal % HELD_OUT_EVERY], held_out


@dataclass(frozen=True)
class VerifierTaskConfig:
    """The chains that GRPO practises: seeded, never one of the evaluation set. num_problems: how many questions it
    draws from; evaluate_every: iterations between greedy evaluations on `num_watch` problems of the held-out set."""

    num_problems: int = 2000
    min_difficulty: int = 4
    max_difficulty: int = 6
    evaluate_every: int = 10
    num_watch: int = 100
