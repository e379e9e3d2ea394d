"""The parts of a life: which there are, what each needs, and which of them a profile asks for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# What each part is; the order is that of a life.
PARTS: Mapping[str, str] = {
    "pretrain": "data, tokenizer and a base model from random weights; with [base] the model of somebody else",
    "sft": "supervised fine-tuning; without it the base is what policies begin as",
    "reward_model": "preferences, and a reward model that is trained on them",
    "ppo": "PPO against rewards, or else the reward model",
    "dpo": "DPO on preferences",
    "best_of_n": "the best of n answers by rewards, or else the reward model",
    "grpo": "GRPO on rewards, or else on our worked chains",
    "puzzles": "a puzzle solver, and Tree of Thought",
    "forgetting": "what each training stage did to what came before",
    "scaling": "a sweep, its law, and a forecast",
    "experts": "mixtures of experts beside dense models",
    "recurrent": "an LSTM beside the transformer",
    "specialization": "experts by source of the text",
    "in_context": "recall, composed instructions and steps in a row, beside an LSTM; only where a profile names it",
    "emergence": "a sharp metric beside a smooth one",
    "reasoning": "ways to answer, on the evaluation sets, or else on our chains",
    "cost": "what it all cost, and what serving costs",
}
POLICIES = ("ppo", "dpo", "best_of_n", "grpo")


@dataclass(frozen=True)
class LifeConfig:
    """parts: the parts to live; empty: all of them, DPO only where `alignment.dpo` asks for it."""

    parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.parts:
            if name not in PARTS:
                near = difflib.get_close_matches(name, PARTS, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else "."
                raise ValueError(f"there is no part {name!r}{hint} There are {', '.join(PARTS)}")

    def has(self, part: str) -> bool:
        """Whether a part is lived."""
        return not self.parts or part in self.parts


def needs_reward_model(life: LifeConfig, rewards: Sequence[str]) -> bool:
    """Whether a life trains a reward model: where its part is asked for, or something is paid by it."""
    return life.has("reward_model") and (bool(life.parts) or not rewards or "reward_model" in rewards)


def needs_pairs(life: LifeConfig, rewards: Sequence[str], dpo: bool) -> bool:
    """Whether a life collects preferences."""
    return dpo or needs_reward_model(life, rewards)


def unmet(
    life: LifeConfig, *, rewards: Sequence[str], prompts: bool, evaluations: bool, text: bool, base: bool, source: str
) -> list[str]:
    """What the parts that are asked for need and do not have, a sentence each.

    Args:
        rewards: kinds of the life's rewards.
        prompts, evaluations: whether there are `[[prompts]]`, `[[evaluations]]`.
        text: whether there are data sources.
        base: whether `[base]` names a model.
        source: who judges the preferences, as `preferences.source` has it.
    """
    found = []
    if prompts and source == "gold" and needs_pairs(life, rewards, life.has("dpo") and bool(life.parts)):
        found.append(
            'preferences: source = "gold" judges our own stories, not answers to [[prompts]]: set it to "file", '
            '"people" or "model", or leave "reward_model" and "dpo" out of life.parts'
        )
    wants_model = [part for part in ("ppo", "best_of_n") if life.has(part) and not rewards]
    if life.parts and wants_model and not life.has("reward_model"):
        found.append(
            f'life.parts: nothing pays {" and ".join(wants_model)}: add "reward_model" to life.parts, or give rewards'
        )
    if life.parts and "reward_model" in rewards and not life.has("reward_model"):
        found.append('rewards: reward_model is trained by the part "reward_model": add it to life.parts')
    if life.has("grpo") and prompts and not rewards:
        found.append(
            'grpo: the prompts say nothing about what an answer is worth: give rewards, as in rewards = ["number"], '
            'or leave "grpo" out of life.parts'
        )
    if not text and not base:
        found.append("data: no data source is configured: give [[data.sources]], or a [base] model that needs none")
    if not text:
        needs = [part for part in ("recurrent", "specialization", "forgetting") if life.has(part)]
        needs = [part for part in needs if part != "forgetting" or not evaluations]
        if needs:
            found.append(
                f"life.parts: {', '.join(needs)}: they measure on text: give [[data.sources]], or leave them out"
            )
    return found
