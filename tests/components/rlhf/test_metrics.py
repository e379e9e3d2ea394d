"""docs/metrics.md has every metric that the alignment loops report, and no other under their names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.rlhf.dpo import DPOState, dpo
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.grpo import GRPOState, grpo
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.pairs import TokenPair
from components.rlhf.ppo import PPOState, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel, RewardState, train_reward_model
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rollouts import of_answers

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"
MODEL = ModelConfig(
    vocab_size=24, d_model=16, num_layers=1, num_heads=1, context_length=32, moe=MoEConfig(num_experts=2, d_ff=16)
)
PROMPTS = [[1, 2, 3], [4, 5]]
PAIRS = [TokenPair((1, 2, 3, 0), (1, 2, 4, 0), num_prompt=2)] * 4


@pytest.fixture(scope="module")
def reported() -> set[str]:
    torch.manual_seed(0)
    model = Transformer(MODEL, seed=1)
    ppo_config = PPOConfig(num_iterations=1, batch_size=8, num_minibatches=2, max_tokens=4)
    policy = PPOState.start(model, RewardModel.from_policy(model), ppo_config)
    (first,) = ppo(policy, model, lambda rollout: rollout.lengths_B.float(), PROMPTS, [0], ppo_config, seed=0)
    grpo_config = GRPOConfig(num_iterations=1, num_prompts=2, group_size=4, max_tokens=4, kl_coef=0.1)
    group = GRPOState.start(model, grpo_config)
    (second,) = grpo(group, model, of_answers(lambda prompt, answer: sum(answer)), PROMPTS, [0], grpo_config, seed=0)
    dpo_config = DPOConfig(epochs=1)
    (third,) = dpo(DPOState.start(model, dpo_config), model, PAIRS, dpo_config, seed=0)
    (fourth,) = train_reward_model(RewardState.start(model, RewardModelConfig(epochs=1), seed=0), PAIRS, seed=0)
    return {*first.metrics, *second.metrics, *third, *fourth} - {"step"}


def test_what_is_reported_is_documented_and_what_is_documented_is_reported(reported: set[str]) -> None:
    section = DOCS.read_text(encoding="utf-8").split("## Reward model, PPO, GRPO, DPO")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    documented = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    by_the_stage = {"gold", "gold_low", "gold_high", "greedy_accuracy", "held_out_reward"}
    by_the_stage |= {f"reward/{name}" for name in ("<name>", "failed", "refused", "truncated", "unparsed")}
    assert documented - by_the_stage == reported
