"""LoRA in alignment: one set of weights, of which the reference is the one without adapters; parts of a batch, and
blocks that are computed again, against the whole."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.native.fuse import fuse
from components.rlhf.dpo import DPOState, dpo
from components.rlhf.dpo_config import DPOConfig
from components.rlhf.grpo import GRPOState, grpo
from components.rlhf.grpo_config import GRPOConfig
from components.rlhf.pairs import TokenPair
from components.rlhf.ppo import PPOState, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import (
    Ensemble,
    RewardModel,
    RewardState,
    load_reward_model,
    save_reward_model,
    score_sequences,
    train_reward_model,
)
from components.rlhf.reward_model_config import RewardModelConfig
from components.rlhf.rollouts import of_answers, of_sequences
from components.training.config import LoRAConfig, NonFiniteConfig, OptimizerConfig
from components.training.lora import adapters, merged
from components.training.optimizers import Optimizer
from components.training.schedules import ScheduleConfig

TINY = ModelConfig(vocab_size=24, d_model=16, num_layers=2, num_heads=2, context_length=32)
LORA = LoRAConfig(rank=3, alpha=6.0)
FAST = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-2, eps=1e-5)
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]
SEQUENCES = [(1, 2, 3, 4), (5, 6, 7), (9, 8, 7, 6, 5)]


def start() -> Transformer:
    model = Transformer(TINY, seed=1)
    for weight in model.parameters():
        weight.data.mul_(1.5)  # choices of an untrained model are nearly uniform: make them differ
    fuse(model)
    return model.eval()


def pairs() -> list[TokenPair]:
    g = torch.Generator().manual_seed(0)
    made = []
    for index in range(10):
        prompt = torch.randint(1, 24, (2 + index % 3,), generator=g).tolist()
        body = torch.randint(1, 24, (1 + index % 4,), generator=g).tolist()
        made.append(TokenPair((*prompt, *body, 7, 0), (*prompt, 9, *body[1:], 0), num_prompt=len(prompt)))
    return made


def honest(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    real = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    return ((tokens_BT == 7) & real).sum(1).float()


class Case:
    """An algorithm with small settings: how it starts, and its steps with a reference of the test's choice."""

    def __init__(self, name: str, **changes: Any) -> None:
        self.name = name
        base: Any = {
            "dpo": DPOConfig(epochs=1, batch_pairs=5, optimizer=FAST),
            "reward model": RewardModelConfig(epochs=1, batch_pairs=5, num_heads=2, num_members=2, optimizer=FAST),
            "ppo": PPOConfig(
                num_iterations=2, batch_size=8, num_minibatches=2, num_epochs=2, max_tokens=6,
                policy_optimizer=FAST, critic_optimizer=FAST,
            ),
            "grpo": GRPOConfig(
                num_iterations=2, num_prompts=2, group_size=4, num_minibatches=2, max_tokens=6, kl_coef=0.1,
                optimizer=FAST,
            ),
        }[name]  # fmt: skip
        self.config = dataclasses.replace(base, **changes)

    def begin(self, reference: Transformer, critic: RewardModel | None = None) -> Any:
        if self.name == "reward model":
            return RewardState.start(reference, self.config, 3)
        if self.name == "ppo":
            return PPOState.start(reference, critic or RewardModel(reference, 2), self.config, 3)
        return {"dpo": DPOState, "grpo": GRPOState}[self.name].start(reference, self.config, 3)

    def steps(self, state: Any, reference: Transformer) -> Iterator[Any]:
        if self.name == "dpo":
            return dpo(state, reference, pairs(), self.config, 3)
        if self.name == "reward model":
            return train_reward_model(state, pairs(), 3)
        if self.name == "ppo":
            return ppo(state, reference, of_sequences(honest), PROMPTS, [0], self.config, 3)
        return grpo(state, reference, of_answers(lambda _, r: float(7 in r)), PROMPTS, [0], self.config, 3)

    def tensors(self, state: Any) -> dict[str, Tensor]:
        return state.tensors(10) if self.name == "reward model" else state.tensors()  # type: ignore[no-any-return]

    def load(self, state: Any, tensors: dict[str, Tensor]) -> None:
        state.load_tensors(tensors, 10) if self.name == "reward model" else state.load_tensors(tensors)

    def models(self, state: Any) -> list[nn.Module]:
        if self.name == "reward model":
            return list(state.members)
        return [state.policy, state.critic] if self.name == "ppo" else [state.policy]


NAMES = ("dpo", "reward model", "ppo", "grpo")


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_is_the_same_weights_with_the_adapters_off(name: str) -> None:
    case = Case(name, lora=LORA)
    reference, separate = start(), start()
    shared, other = case.begin(reference), case.begin(separate)
    own = {id(parameter) for parameter in reference.parameters()}
    for model in case.models(shared):
        assert len(adapters(model)) == 2 * len(LORA.targets)
        trained = {n for n, parameter in model.named_parameters() if parameter.requires_grad}
        heads = {n for n, _ in model.named_parameters() if n.startswith("head.")}
        assert trained == {n for n, _ in model.named_parameters() if n.endswith((".lora_a", ".lora_b"))} | heads
        # One set of weights: all that does not learn is the reference's own tensor.
        assert {id(p) for n, p in model.named_parameters() if n not in trained} == own
    # A reference apart from the policy gives the same run, and neither is moved by it.
    frozen = copy.deepcopy(separate)
    list(case.steps(shared, reference))
    list(case.steps(other, frozen))
    for key, value in case.tensors(shared).items():
        torch.testing.assert_close(case.tensors(other)[key], value, atol=1e-6, rtol=1e-6, msg=key)
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), start().parameters(), strict=True))
    assert any(bool(m.lora_b.abs().max() > 0) for model in case.models(shared) for m in adapters(model).values())


@pytest.mark.parametrize("name", NAMES)
def test_adapters_alone_are_saved_and_resume_bit_for_bit(name: str) -> None:
    case, reference = Case(name, lora=LORA), start()
    whole, cut = case.begin(reference), case.begin(reference)
    list(case.steps(whole, reference))
    next(case.steps(cut, reference))
    saved = {key: value.clone() for key, value in case.tensors(cut).items()}
    assert not any(key.endswith("embedding.weight") for key in saved)
    resumed = case.begin(reference)
    case.load(resumed, saved)
    list(case.steps(resumed, reference))
    expected = case.tensors(whole)
    assert expected.keys() == case.tensors(resumed).keys()
    for key, value in case.tensors(resumed).items():
        assert torch.equal(value, expected[key]), key


def test_the_ratio_is_one_before_the_first_step_and_the_sampler_sees_the_adapters() -> None:
    case, reference = Case("ppo", lora=LORA, num_iterations=4, kl_coef=0.0), start()
    state = case.begin(reference)
    records = list(case.steps(state, reference))
    for record in records:
        assert record.metrics["check/first_ratio_deviation"] == 0.0
        assert record.metrics["rollout/log_prob_difference"] < 1e-4
    assert records[0].metrics["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert records[-1].metrics["objective/kl_k3"] > 1e-3


def gradients(case: Case, reference: Transformer) -> list[Tensor]:
    """Of every update that the first step makes, none of which is taken."""
    found: list[Tensor] = []

    def noted(optimizer: Optimizer, factor: float) -> None:
        found.extend(parameter.grad.clone() for parameter in optimizer.params if parameter.grad is not None)
        optimizer.zero_grad()

    state = case.begin(reference)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Optimizer, "step", noted)
        next(case.steps(state, reference))
    assert max(float(gradient.abs().max()) for gradient in found) > 1e-3
    return found


def apart(got: list[Tensor], expected: list[Tensor]) -> float:
    """The L2 norm of the difference of two lists of gradients, in units of that of the second."""
    a, b = (torch.cat([gradient.flatten().double() for gradient in gradients]) for gradients in (got, expected))
    return float((a - b).norm() / b.norm())


OPEN = {"max_grad_norm": 1e9}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changes", [{}, {"lora": LORA}], ids=["all weights", "adapters"])
def test_parts_of_a_batch_and_blocks_computed_again_have_the_gradient_of_the_whole(
    name: str, changes: dict[str, Any]
) -> None:
    reference = Transformer(TINY, seed=1)
    fuse(reference)
    expected = gradients(Case(name, **OPEN, **changes), reference)
    parts = gradients(Case(name, **OPEN, **changes, micro_batch_size=2), reference)
    assert apart(parts, expected) < 1e-6
    again = gradients(Case(name, **OPEN, **changes, gradient_checkpointing=True), reference)
    assert apart(again, expected) < 3e-6  # a block by itself rounds otherwise than one that is joined to the next


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_together_resumes_bit_for_bit(name: str) -> None:
    case = Case(name, lora=LORA, micro_batch_size=2, gradient_checkpointing=True)
    reference = start()
    whole, cut, resumed = (case.begin(reference) for _ in range(3))
    records = list(case.steps(whole, reference))
    if name in ("ppo", "grpo"):
        assert [r.metrics["check/first_ratio_deviation"] for r in records] == [0.0] * 2
    next(case.steps(cut, reference))
    case.load(resumed, {key: value.clone() for key, value in case.tensors(cut).items()})
    list(case.steps(resumed, reference))
    for key, value in case.tensors(resumed).items():
        assert torch.equal(value, case.tensors(whole)[key]), key


@pytest.mark.parametrize("changes", [{"lora": LORA}, {}], ids=["adapters", "all weights"])
def test_a_reward_model_comes_back_from_disk_and_shares_what_it_was_trained_on(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    case, reference = Case("reward model", **changes), start()
    state = case.begin(reference)
    list(case.steps(state, reference))
    ensemble = Ensemble(tuple(state.members))
    save_reward_model(tmp_path, ensemble)
    back = load_reward_model(tmp_path, like=reference)
    assert torch.equal(score_sequences(back, SEQUENCES), score_sequences(ensemble, SEQUENCES))
    own = {parameter.data_ptr() for parameter in reference.parameters()}
    shared = [p for member in back.members for p in member.parameters() if p.data_ptr() in own]
    assert len(shared) == (2 * len(own) if changes else 0)
    if changes:
        # Critic, policy, reference and reward model: one set of weights, and the reward model stays as it is.
        ppo_case = Case("ppo", lora=LORA)
        ppo_state = ppo_case.begin(reference, back.members[0])
        before = score_sequences(back, SEQUENCES)
        list(ppo_case.steps(ppo_state, reference))
        assert torch.equal(score_sequences(back, SEQUENCES), before)
        assert {p.data_ptr() for m in ppo_case.models(ppo_state) for p in m.parameters()} >= own
        values = ppo_state.critic(torch.tensor([[1, 2, 3]]))
        assert not torch.equal(values, back.members[0](torch.tensor([[1, 2, 3]])))


def test_merging_is_the_adapted_model_and_leaves_the_reference_alone() -> None:
    case, reference = Case("dpo", lora=LORA), start()
    state = case.begin(reference)
    list(case.steps(state, reference))
    whole, tokens = merged(state.policy), torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(whole(tokens), state.policy(tokens), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(whole(tokens), reference(tokens), atol=1e-3)
        assert torch.equal(reference(tokens), start()(tokens))
    assert whole.state_dict().keys() == reference.state_dict().keys()


def test_a_policy_that_diverges_goes_back_to_its_adapters() -> None:
    case = Case(
        "dpo", lora=LORA, epochs=6, optimizer=dataclasses.replace(FAST, adamw_lr=1e30),
        non_finite=NonFiniteConfig(max_in_a_row=1, snapshot_every=1),
        schedule=ScheduleConfig("constant", warmup_steps=0),
    )  # fmt: skip
    reference = start()
    state = case.begin(reference)
    with pytest.raises(FloatingPointError):
        list(case.steps(state, reference))
    assert state.guard.rollbacks == 3
    assert all(torch.equal(a, b) for a, b in zip(reference.parameters(), start().parameters(), strict=True))


@pytest.mark.parametrize("name", ["dpo", "reward model", "ppo"])
def test_a_negative_part_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="micro_batch_size is -1"):
        Case(name, micro_batch_size=-1)


@pytest.mark.parametrize("name", NAMES)
def test_experts_are_balanced_over_all_parts_of_a_batch(name: str) -> None:
    cfg = dataclasses.replace(TINY, moe=MoEConfig(num_experts=4, top_k_experts=2, d_ff=16, load_balance_coef=0.5))
    reference = Transformer(cfg, seed=1)
    expected = gradients(Case(name, **OPEN), reference)
    for more in ({"micro_batch_size": 2}, {"gradient_checkpointing": True}):
        assert apart(gradients(Case(name, **OPEN, **more), reference), expected) < 3e-6
