"""The settings of a whole life: one section for each part, each a frozen dataclass of the component that it sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from components.cost.settings import CostConfig
from components.data.data_config import DataConfig
from components.data.instruction import InstructionConfig
from components.data.prompt_files import PromptsConfig
from components.data.tokenizer import TokenizerConfig
from components.model.config import ModelConfig, linear_maps
from components.model.hub.source import BaseConfig, is_hub_name
from components.reasoning.adaptive_config import AdaptiveConfig
from components.reasoning.evaluation_sets import EvaluationConfig
from components.reasoning.forgetting_config import ForgettingConfig
from components.reasoning.puzzle_study_config import PuzzleStudyConfig
from components.reasoning.reasoning_config import ReasoningConfig
from components.reasoning.tasks import SuiteConfig
from components.rlhf.alignment_config import AlignmentConfig
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.judging_config import JudgingConfig
from components.rlhf.overoptimization_config import WatchConfig
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.preferences_config import PreferencesConfig
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rewards.kinds import RewardConfig, check_names, from_settings
from components.rlhf.rewards.sequence_classifier import ClassifierReward
from components.rlhf.rewards.settings import RewardLimits
from components.rlhf.verifier_task_config import VerifierTaskConfig
from components.scaling.in_context_config import InContextConfig
from components.scaling.sweep import EmergenceConfig, MoEComparisonConfig, ScalingConfig
from components.scaling.text_runs import RecurrentComparisonConfig, SpecializationConfig
from components.training.config import FinetuneConfig, PretrainConfig
from flows.parts import LifeConfig, unmet
from flows.settings import ComputeConfig as ComputeConfig
from flows.settings import ConfigError as ConfigError
from flows.settings import Settings, load


class RunConfig(Settings):
    """All settings of one life. The sections are dataclasses from `components`; see `flows/profiles/laptop.toml`."""

    life: LifeConfig = Field(default_factory=LifeConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    prompts: tuple[PromptsConfig, ...] = ()
    evaluations: tuple[EvaluationConfig, ...] = ()
    rewards: tuple[Annotated[RewardConfig, Field(discriminator="kind")], ...] = ()
    gold: tuple[Annotated[RewardConfig, Field(discriminator="kind")], ...] = ()
    reward_limits: RewardLimits = Field(default_factory=RewardLimits)
    suite: SuiteConfig = Field(default_factory=SuiteConfig)
    base: BaseConfig = Field(default_factory=BaseConfig)
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    pretrain: PretrainConfig = Field(default_factory=PretrainConfig)
    instruction: InstructionConfig = Field(default_factory=InstructionConfig)
    finetune: FinetuneConfig = Field(default_factory=FinetuneConfig)
    alignment: AlignmentConfig = Field(default_factory=AlignmentConfig)
    judging: JudgingConfig = Field(default_factory=JudgingConfig)
    preferences: PreferencesConfig = Field(default_factory=PreferencesConfig)
    reward_model: RewardModelConfig = Field(default_factory=RewardModelConfig)
    ppo: PPOConfig = Field(default_factory=PPOConfig)
    watch: WatchConfig = Field(default_factory=WatchConfig)
    dpo: DPOConfig = Field(default_factory=DPOConfig)
    practice: VerifierTaskConfig = Field(default_factory=VerifierTaskConfig)
    grpo: GRPOConfig = Field(default_factory=GRPOConfig)
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)
    moe: MoEComparisonConfig = Field(default_factory=MoEComparisonConfig)
    recurrent: RecurrentComparisonConfig = Field(default_factory=RecurrentComparisonConfig)
    specialization: SpecializationConfig = Field(default_factory=SpecializationConfig)
    in_context: InContextConfig = Field(default_factory=InContextConfig)
    emergence: EmergenceConfig = Field(default_factory=EmergenceConfig)
    reasoning: ReasoningConfig = Field(default_factory=ReasoningConfig)
    adaptive: AdaptiveConfig = Field(default_factory=AdaptiveConfig)
    puzzles: PuzzleStudyConfig = Field(default_factory=PuzzleStudyConfig)
    finetune_on_puzzles: FinetuneConfig = Field(default_factory=FinetuneConfig)
    forgetting: ForgettingConfig = Field(default_factory=ForgettingConfig)
    cost: CostConfig = Field(default_factory=CostConfig)

    @classmethod
    def in_full(cls, data: Mapping[str, Any]) -> dict[str, Any]:
        """A reward may be a word or a function ("number", "my_rewards.py:score"), and so may an evaluation's scorer."""
        full = dict(data)
        for name in ("rewards", "gold"):
            if isinstance(full.get(name), list):
                full[name] = [from_settings(one, name) for one in full[name]]
        if isinstance(full.get("evaluations"), list):
            full["evaluations"] = [
                {**one, "scorer": from_settings(one["scorer"], "evaluations: scorer")}
                if isinstance(one, dict) and "scorer" in one
                else one
                for one in full["evaluations"]
            ]
        return full

    @model_validator(mode="after")
    def _has_what_its_parts_need(self) -> Self:
        check_names(self.rewards, "rewards")
        check_names(self.gold, "gold")
        for kind, named in (("prompts", self.prompts), ("evaluations", self.evaluations)):
            twice = [name for name, count in Counter(one.called for one in named).items() if count > 1]
            if twice:
                raise ValueError(f"{kind}: two are called {twice[0]!r}: give one a name of its own")
        missing = unmet(
            self.life,
            rewards=[reward.kind for reward in self.rewards],
            prompts=bool(self.prompts),
            evaluations=bool(self.evaluations),
            text=bool(self.data.all_sources),
            base=bool(self.base.model),
            source=self.preferences.source,
        )
        if missing:
            raise ValueError("\n".join(missing))
        return self

    @property
    def uses_hub(self) -> bool:
        """True when a source, the base model or a reward is on the Hugging Face hub."""
        kinds = {*(source.kind for source in self.data.all_sources), *(one.kind for one in self.instruction.sources)}
        models = [one.model for one in (*self.rewards, *self.gold) if isinstance(one, ClassifierReward)]
        return any(is_hub_name(model) for model in (self.base.model, *models)) or "hub" in kinds


def late_mistakes(cfg: RunConfig, labels: Collection[str], context_length: int | None) -> list[str]:
    """What of settings that do not fit together a stage would only find when it runs.

    labels: of the stages that will. context_length: of the model (None: not known before it is there).
    """
    found: list[str] = []
    whose = "the context of base.model" if cfg.base.model else "model.context_length"
    trained = {"pretrain": cfg.pretrain, "finetune": cfg.finetune, "finetune[puzzles]": cfg.finetune_on_puzzles}
    for label, config in trained.items():
        section = "finetune_on_puzzles" if "puzzles" in label else label
        if label not in labels:
            continue
        if context_length is not None and config.context_length > context_length:
            found.append(
                f"{section}.context_length is {config.context_length}: it takes at most {context_length}, {whose}"
            )
        if isinstance(config, FinetuneConfig) and config.replay and not cfg.data.all_sources:
            found.append(
                f"{section}.replay is {config.replay}, and there is no text to replay: give [[data.sources]], or set "
                "it to 0"
            )
    found += _unknown_targets(cfg, labels)
    if "pretrain" in labels:
        sources = sorted(source.name for source in cfg.data.all_sources)
        for name in sorted(cfg.pretrain.loss_weights.keys() - set(sources)):
            found.append(f"pretrain.loss_weights.{name}: no such data source; there are {', '.join(sources)}")
    if "architecture[lstm]" in labels and cfg.recurrent.train.optimizer.base_width:
        width = cfg.recurrent.train.optimizer.base_width
        found.append(f"recurrent.train.optimizer.base_width is {width}: an LSTM has no such width; set it to 0")
    if "architecture[lstm]" in labels and cfg.recurrent.train.gradient_checkpointing:
        found.append(
            "recurrent.train.gradient_checkpointing is true: an LSTM has no blocks to compute again; leave it out"
        )
    return found


def _unknown_targets(cfg: RunConfig, labels: Collection[str]) -> list[str]:
    """Targets of adapters that the model has no linear map for; of a model from elsewhere that is not known yet."""
    known = linear_maps(cfg.model)
    adapted = {
        "finetune": ("finetune", cfg.finetune.lora),
        "finetune[puzzles]": ("finetune_on_puzzles", cfg.finetune_on_puzzles.lora),
        "train_reward_model": ("reward_model", cfg.reward_model.lora),
        "dpo": ("dpo", cfg.dpo.lora),
        "grpo": ("grpo", cfg.grpo.lora),
        f"ppo[kl_coef={cfg.ppo.kl_coef}]": ("ppo", cfg.ppo.lora),
    }
    return [
        f"{section}.lora.targets: no linear map is called {target!r}; it takes {', '.join(known)}"
        for label, (section, lora) in adapted.items()
        if label in labels and lora is not None and not cfg.base.model
        for target in lora.targets
        if not any(f".{name}".endswith(f".{target}") for name in known)
    ]


def load_config(profile: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a profile and lay the overrides over it; raises ConfigError with every mistake, see `flows/settings.py`."""
    return load(profile, overrides, RunConfig)
