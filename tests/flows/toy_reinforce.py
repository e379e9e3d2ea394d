"""REINFORCE with a running baseline (Williams 1992): in a life, `components/rlhf/reinforce.py`.

The example of the recipe "an RL algorithm" in CONTRIBUTING: this loop, its config, and its stage.

Shape suffixes: B answers, T tokens, A = T - 1 actions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from toy_reinforce_config import ReinforceConfig

from components.inference.sampling import SamplingParams
from components.model.transformer import Transformer
from components.rlhf.rollouts import draw_prompts, rollout_metrics, sample_rollout, seeded, token_stats
from components.training.optimizers import Optimizer, clip_gradients
from components.training.state import load_state_tensors, state_tensors


@dataclass
class ReinforceState:
    """All that an iteration changes; `tensors` and `load_tensors` round-trip it bit for bit."""

    policy: Transformer
    optimizer: Optimizer
    iteration: int = 0
    baseline: float = 0.0

    @classmethod
    def start(cls, reference: Transformer, config: ReinforceConfig) -> ReinforceState:
        policy = copy.deepcopy(reference).requires_grad_(True)
        return cls(policy, Optimizer(policy, config.optimizer))

    def tensors(self) -> dict[str, Tensor]:
        own = {"iteration": torch.tensor(self.iteration), "baseline": torch.tensor(self.baseline, dtype=torch.float64)}
        return state_tensors(self.policy, self.optimizer) | own

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        load_state_tensors(self.policy, self.optimizer, dict(tensors))
        self.iteration, self.baseline = int(tensors["iteration"]), float(tensors["baseline"])


def reinforce(
    state: ReinforceState,
    reward: Callable[[int, Sequence[int]], float],
    prompts: Sequence[Sequence[int]],
    stop_ids: tuple[int, ...],
    config: ReinforceConfig,
    seed: int,
) -> Iterator[dict[str, float]]:
    """Improve `state.policy` in place; yields metrics after each iteration, when `state` is fit to be saved. All
    randomness depends on (seed, iteration) alone."""
    while state.iteration < config.num_iterations:
        # 1. Sample one answer to each drawn prompt, and judge it.
        rng = seeded(seed, state.iteration)
        params = SamplingParams(max_tokens=config.max_tokens, seed=int(rng.integers(2**31)), stop_ids=stop_ids)
        rollout = sample_rollout(state.policy, prompts, draw_prompts(len(prompts), config.batch_size, rng), params)
        judged = zip(rollout.prompt_index, rollout.responses, strict=True)
        rewards_B = torch.tensor([reward(index, response) for index, response in judged])

        # 2. Advantages: rewards above the baseline, which has not seen them yet.
        advantages_B = rewards_B - state.baseline
        kept = config.baseline_decay if state.iteration else 0.0
        state.baseline = kept * state.baseline + (1 - kept) * float(rewards_B.mean())

        # 3. The gradient of −A · log π(answer), averaged over answers.
        log_probs_BA = token_stats(state.policy, rollout.tokens_BT, rollout.mask_BA).log_probs_BA
        loss = -(advantages_B * log_probs_BA.sum(1)).mean()
        loss.backward()
        grad_norm = clip_gradients(state.optimizer.params, config.max_grad_norm)
        state.optimizer.step(1.0)
        state.iteration += 1
        yield rollout_metrics(rollout) | {
            "step": state.iteration,
            "objective/reward": float(rewards_B.mean()),
            "loss/policy": float(loss.detach()),
            "policy/grad_norm": grad_norm,
        }
