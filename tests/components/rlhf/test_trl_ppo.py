"""Two epochs of PPO beside TRL 1.12's, the last TRL with PPO, on what it sampled and under its convention: the score
one step after the end token. `make peers` unpacks that wheel into the environment, beside the newer TRL."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import components.rlhf.ppo as algorithm
from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel
from components.rlhf.rollouts import Rollout, of_sequences, pack_responses
from components.training.config import OptimizerConfig

pytestmark = pytest.mark.slow
TRL = Path(sys.prefix) / "peers" / "trl-1.12"
END, PAD, PROMPT, LIMIT = 0, 23, 3, 12


def test_ppo(
    peer: Callable[[int], tuple[Transformer, Path]],
    in_our_names: Callable[[Mapping[str, Tensor]], dict[str, Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not TRL.is_dir():
        pytest.skip(f"no TRL 1.12 in {TRL}: `make peers` unpacks it")
    (policy, policy_folder), (reference, reference_folder), (trunk, trunk_folder) = peer(1), peer(2), peer(3)
    reward_model = RewardModel(trunk, seed=4)
    save_file({"head": reward_model.head.weight.detach()}, trunk_folder / "head.safetensors")
    for name, folder in (("policy", policy_folder), ("reference", reference_folder), ("reward", trunk_folder)):
        (tmp_path / name).symlink_to(folder)
    prompts = np.random.default_rng(5).integers(1, 22, (16, PROMPT)).tolist()
    (tmp_path / "prompts.txt").write_text("\n".join(" ".join(map(str, p)) for p in prompts), encoding="utf-8")
    script = Path(__file__).with_name("trl_ppo.py")
    environment = os.environ | {"PYTHONPATH": str(TRL), "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    theirs = load_file(tmp_path / "result.safetensors")

    sampled = theirs["sampled"].tolist()
    answers = [row[PROMPT:] for row in sampled]
    answers = [answer[: answer.index(END) + 1] if END in answer else answer for answer in answers]
    ended = [answer[-1] == END for answer in answers]
    assert PAD not in {token for answer in answers for token in answer}
    # The three cases of the convention: ended with room behind, cut at the limit; not: ended at the very limit.
    assert 0 < sum(ended) < len(ended)
    assert not any(end and len(answer) == LIMIT for end, answer in zip(ended, answers, strict=True))

    def replayed(model: Transformer, prompts: object, index: object, params: SamplingParams) -> Rollout:
        tokens, lengths, mask = pack_responses([row[:PROMPT] for row in sampled], answers)
        rows = tuple(range(len(sampled)))
        return Rollout(
            tokens, lengths, mask, torch.tensor(ended), rows, tuple(map(tuple, answers)), torch.zeros(mask.shape)
        )

    monkeypatch.setattr(algorithm, "sample_rollout", replayed)
    adam = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-3, beta2=0.999, eps=1e-5)
    config = PPOConfig(
        num_iterations=1,
        batch_size=len(sampled),
        num_epochs=2,
        num_minibatches=1,
        max_tokens=LIMIT,
        temperature=0.7,
        kl_coef=0.2,
        gamma=0.98,
        lam=0.9,
        score_clip=0.0,
        score_after_end=True,
        max_grad_norm=1e9,
        policy_optimizer=adam,
        critic_optimizer=adam,
    )
    state = algorithm.PPOState.start(policy, reward_model, config)
    state.critic.head.bias.requires_grad_(False)  # TRL's head has none
    (record,) = algorithm.ppo(state, reference, of_sequences(reward_model.score), prompts, [END], config, seed=0)
    assert record.metrics["check/first_ratio_deviation"] == 0.0 and record.metrics["policy/num_updates"] == 2

    updated = in_our_names(_part(theirs, "policy."))
    before = policy.state_dict()
    for name, value in state.policy.named_parameters():
        torch.testing.assert_close(value.detach(), updated[name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
    assert max(float((updated[name] - before[name]).abs().max()) for name in updated) > 1e-3  # it did move
    critic = _part(theirs, "value.")
    torch.testing.assert_close(state.critic.head.weight.detach(), critic.pop("score.weight"), atol=1e-5, rtol=0)
    critic_trunk = in_our_names(critic | {"lm_head.weight": torch.zeros(24, 16)})
    for name, value in state.critic.trunk.named_parameters():
        if name != "unembedding.weight":
            torch.testing.assert_close(value.detach(), critic_trunk[name], atol=1e-5, rtol=0)


def _part(tensors: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)}
