"""Training and greedy generation on a device that is not the CPU: what they give is what the CPU gives."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from components.inference.engine import generate, token_log_probs
from components.inference.sampling import SamplingParams
from components.model.config import LSTMConfig, ModelConfig
from components.model.lstm import RecurrentModel
from components.model.transformer import Transformer
from components.rlhf.dpo import DPOState, dpo
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.grpo import GRPOState, grpo
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.pairs import TokenPair
from components.rlhf.ppo import PPOState, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel, RewardState, calibrate, score_sequences, train_reward_model
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rollouts import Rollout
from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig, TrainConfig
from components.training.early_stop import EarlyStop
from components.training.guard import Guard
from components.training.language_model import IGNORE, LMBatch, mean_loss, train
from components.training.lora import add_lora, merge_lora
from components.training.optimizers import Optimizer
from components.training.state import load_state_tensors, state_tensors
from components.training.validation import target_losses
from tests.other_device import other_device

MODEL = ModelConfig(32, 16, 2, 2, 1, context_length=24, qk_norm=True)
ADAMW = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-3)
KEPT = NonFiniteConfig(snapshot_every=1)
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
PAIRS = [TokenPair((1, 2, 3, 4), (1, 2, 5, 6, 7), num_prompt=2), TokenPair((3, 9, 1), (3, 8, 2, 2), num_prompt=1)]


def same(step: Callable[[torch.device], Sequence[float]]) -> None:
    """The step gives the same numbers on both devices, up to rounding."""
    expected = step(torch.device("cpu"))
    with other_device() as device:
        found = step(device)
    assert list(found) == pytest.approx(list(expected), rel=2e-3, abs=2e-4)


def batch_at(step: int) -> LMBatch:
    g = torch.Generator().manual_seed(step)
    rows = torch.randint(0, 32, (4, 17), generator=g)
    targets = rows[:, 1:].clone()
    targets[0, :4] = IGNORE
    documents = torch.ones(4, 16, dtype=torch.long)
    documents[1, 10:] = 0
    positions = torch.arange(16).expand(4, 16)
    return LMBatch(rows[:, :-1], targets, positions, documents, torch.rand(4, 16, generator=g))


@pytest.mark.parametrize("optimizer", [OptimizerConfig(), ADAMW])
def test_training_validation_and_resuming(optimizer: OptimizerConfig) -> None:
    config = TrainConfig(4, 4, 16, accumulation=2, z_loss=1e-4, optimizer=optimizer, non_finite=KEPT)

    def step(device: torch.device) -> list[float]:
        network = Transformer(MODEL, 0).to(device)
        learned, guard, best = Optimizer(network, optimizer), Guard(KEPT), EarlyStop(2)
        losses = [r.loss for r in itertools.islice(train(network, learned, config, batch_at, guard=guard), 2)]
        best.look(2, mean_loss(network, [batch_at(9)])[0], network)
        saved = {k: v.cpu().clone() for k, v in state_tensors(network, learned).items()} | guard.tensors()
        again = Transformer(MODEL, 1).to(device)
        optimizer_again, guard_again = Optimizer(again, optimizer), Guard(KEPT)
        load_state_tensors(again, optimizer_again, saved)
        guard_again.load_tensors(saved)
        losses += [r.loss for r in train(again, optimizer_again, config, batch_at, 2, guard=guard_again)]
        best.restore(again)
        held = batch_at(7)
        look = target_losses(again.eval(), held.tokens_BT.to(device), held.targets_BT.clamp_min(0).to(device))
        return [*losses, best.best_loss, float(look.mean())]

    same(step)


def test_fine_tuning_with_adapters_and_noise() -> None:
    config = TrainConfig(2, 4, 16, optimizer=ADAMW)

    def step(device: torch.device) -> list[float]:
        network = Transformer(MODEL, 0).to(device)
        add_lora(network, LoRAConfig(rank=2), 0)
        noisy = replace(batch_at(0), noise_BTD=0.1 * torch.ones(4, 16, 16))
        losses = [r.loss for r in train(network, Optimizer(network, ADAMW), config, lambda _: noisy)]
        merge_lora(network)
        return [*losses, mean_loss(network, [batch_at(5)])[0]]

    same(step)


def test_a_recurrent_model() -> None:
    def step(device: torch.device) -> list[float]:
        network = RecurrentModel(LSTMConfig(32, 16, 1, 16, 24)).to(device)
        config = TrainConfig(1, 4, 16, optimizer=ADAMW)
        whole = batch_at(0)
        plain = LMBatch(whole.tokens_BT, whole.targets_BT)
        return [r.loss for r in train(network, Optimizer(network, ADAMW), config, lambda _: plain)]

    same(step)


def test_generation() -> None:
    params = SamplingParams(max_tokens=6, temperature=0.0, num_samples=2)

    def step(device: torch.device) -> list[float]:
        network = Transformer(MODEL, 0).to(device).eval()
        groups = generate(network, PROMPTS, params)
        scored = token_log_probs(network, torch.tensor([PROMPTS[2]]).to(device))
        done = [completion for group in groups for completion in group]
        tokens = [float(token) for one in done for token in one.tokens]
        return [*tokens, *(x for one in done for x in one.log_probs + one.prompt_log_probs), float(scored.sum())]

    same(step)


def numbers(metrics: dict[str, Any]) -> list[float]:
    """What is no time; NaN where nothing was to be averaged becomes 0."""
    kept = [float(v) for k, v in sorted(metrics.items()) if not k.startswith("seconds")]
    return [0.0 if value != value else value for value in kept]


def test_dpo() -> None:
    config = DPOConfig(epochs=2, batch_pairs=2, optimizer=ADAMW)

    def step(device: torch.device) -> list[float]:
        reference = Transformer(MODEL, 0).to(device)
        state = DPOState.start(reference, config)
        return numbers(list(dpo(state, reference, PAIRS, config, 0))[-1])

    same(step)


def test_reward_model_and_its_scores() -> None:
    config = RewardModelConfig(epochs=1, batch_pairs=2, num_heads=2, optimizer=ADAMW)

    def step(device: torch.device) -> list[float]:
        state = RewardState.start(Transformer(MODEL, 0).to(device), config, 0)
        learned = numbers(list(train_reward_model(state, PAIRS, 0))[-1])
        calibrate(state.members[0], PROMPTS)
        return learned + score_sequences(state.members[0], PROMPTS).tolist()

    same(step)


def reward(rollout: Rollout) -> torch.Tensor:
    return torch.tensor([float(sum(answer) % 5) for answer in rollout.responses])


def test_grpo() -> None:
    config = GRPOConfig(num_iterations=2, num_prompts=3, group_size=2, max_tokens=4, kl_coef=0.1)
    config = replace(config, optimizer=ADAMW)

    def step(device: torch.device) -> list[float]:
        reference = Transformer(MODEL, 0).to(device)
        state = GRPOState.start(reference, config, 0)
        return numbers(list(grpo(state, reference, reward, PROMPTS, (0,), config, 0))[-1].metrics)

    same(step)


def test_ppo() -> None:
    config = PPOConfig(num_iterations=2, batch_size=4, num_minibatches=2, max_tokens=4, replay_coef=0.1)
    config = replace(config, policy_optimizer=ADAMW, critic_optimizer=ADAMW)

    def step(device: torch.device) -> list[float]:
        reference = Transformer(MODEL, 0).to(device)
        state = PPOState.start(reference, RewardModel.from_policy(reference), config)
        return numbers(list(ppo(state, reference, reward, PROMPTS, (0,), config, 0, batch_at))[-1].metrics)

    same(step)


def test_a_tensor_that_was_left_on_the_cpu_is_found() -> None:
    with other_device() as device:
        network = Transformer(MODEL, 0).to(device)
        with pytest.raises(RuntimeError, match=r"one device; of the CPU are those of shape \(1, 3\)"):
            network(torch.zeros(1, 3, dtype=torch.long))
