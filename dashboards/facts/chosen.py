"""The settings that a profile says were chosen so that effects show."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

# By section of the settings: the stages that it is for, by name. A life of some parts has not all of them, and what was
# chosen for the others is none of its business. A section that is not here is for every life.
STAGES_OF = {
    "pretrain": ("pretrain",),
    "finetune": ("finetune",),
    "instruction": ("make_conversations",),
    "alignment": ("ppo", "dpo", "best_of_n"),
    "judging": ("ppo", "dpo", "best_of_n"),
    "preferences": ("sample_answers", "collect_preferences"),
    "reward_model": ("train_reward_model",),
    "ppo": ("ppo",),
    "watch": ("ppo",),
    "dpo": ("dpo",),
    "practice": ("grpo",),
    "grpo": ("grpo",),
    "scaling": ("train_on_facts",),
    "moe": ("train_experts",),
    "recurrent": ("train_architecture",),
    "specialization": ("specialize_experts",),
    "in_context": ("train_in_context",),
    "emergence": ("train_on_chains",),
    "reasoning": ("evaluate_reasoning", "evaluate_set"),
    "adaptive": ("evaluate_reasoning",),
    "puzzles": ("make_puzzles", "search_puzzles"),
    "finetune_on_puzzles": ("search_puzzles",),
    "forgetting": ("measure_forgetting",),
    "cost": ("measure_serving", "account_costs"),
}


@dataclass(frozen=True)
class ChosenSetting:
    """setting: dotted path; value: as JSON."""

    setting: str
    value: str
    reason: str


def chosen_settings(config: Mapping[str, Any], stages: Collection[str]) -> tuple[ChosenSetting, ...]:
    """Those that the run's settings declare in `chosen`, in their order, with the values that the run had; without
    those of parts that are not among its `stages`."""
    return tuple(
        ChosenSetting(path, json.dumps(_at(config, path), ensure_ascii=False), str(why))
        for path, why in (config.get("chosen") or {}).items()
        if _is_for(path, stages)
    )


def _is_for(path: str, stages: Collection[str]) -> bool:
    needed = STAGES_OF.get(path.partition(".")[0])
    return needed is None or any(stage in stages for stage in needed)


def _at(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
