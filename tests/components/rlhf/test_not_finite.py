"""A loss or gradient that is not finite: every alignment loop skips the update, counts it, and goes back after a run of
them; and a run that did so resumes bit for bit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from components.model.config import ModelConfig
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
from components.rlhf.rollouts import of_answers, of_sequences
from components.training.config import NonFiniteConfig, OptimizerConfig
from components.training.guard import TrainingDiverged
from components.training.results.guard import GuardCounts

MODEL = ModelConfig(vocab_size=24, d_model=16, num_layers=1, num_heads=1, context_length=32)
PROMPTS = [[1, 2, 3], [4, 5]]
PATIENCE = NonFiniteConfig(max_in_a_row=3, max_rollbacks=2, snapshot_every=1)
ADAM = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-3)
PAIRS = [TokenPair((1, 2, 3 + i, 0), (1, 2, 4 + i, 0), num_prompt=2, margin=float(i == 5)) for i in range(16)]


class Poison:
    """A reward whose values from call to call are those of `bad`: at these calls one of them is not a number."""

    def __init__(self, bad: set[int]) -> None:
        self.bad, self.calls = bad, 0

    def __call__(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        scores_B = lengths_B.float() + tokens_BT[:, 3] % 2
        if self.calls in self.bad:
            scores_B[1] = math.nan
        self.calls += 1
        return scores_B


@dataclass
class Loop:
    """A loop of 8 steps or iterations of two updates: its state, what trains, its records as metrics, and how to make a
    state that goes on."""

    state: Any
    models: Callable[[Any], list[torch.nn.Module]]
    run: Callable[[Any], Iterator[dict[str, float]]]
    fresh: Callable[[], Any]
    prefix: str = "policy"
    save: Callable[[Any], dict[str, Tensor]] = lambda state: state.tensors()
    load: Callable[[Any, dict[str, Tensor]], None] = lambda state, tensors: state.load_tensors(tensors)


def ppo_loop(bad: set[int], lr: float = 1e-3, patience: NonFiniteConfig = PATIENCE) -> Loop:
    model = Transformer(MODEL, 0)
    adam = replace(ADAM, adamw_lr=lr)
    config = PPOConfig(
        num_iterations=8, batch_size=8, num_minibatches=2, max_tokens=4, kl_target=0.5, score_scaling=True,
        policy_optimizer=adam, critic_optimizer=adam, non_finite=patience, max_grad_norm=1e9 if lr > 1 else 1.0,
    )  # fmt: skip

    def fresh() -> PPOState:
        return PPOState.start(model, RewardModel.from_policy(model), config)

    def run(state: PPOState) -> Iterator[dict[str, float]]:
        # A poisoned iteration is the same whenever it is run.
        score = Poison({i - state.iteration for i in bad})
        return (record.metrics for record in ppo(state, model, of_sequences(score), PROMPTS, [0], config, seed=0))

    return Loop(fresh(), lambda state: [state.policy, state.critic], run, fresh)


def grpo_loop(bad: set[int], lr: float = 1e-3, patience: NonFiniteConfig = PATIENCE) -> Loop:
    model = Transformer(MODEL, 0)
    config = GRPOConfig(
        num_iterations=8, num_prompts=2, group_size=4, num_minibatches=2, max_tokens=4, non_finite=patience,
        optimizer=replace(ADAM, adamw_lr=lr), max_grad_norm=1e9 if lr > 1 else 1.0,
    )  # fmt: skip

    def run(state: GRPOState) -> Iterator[dict[str, float]]:
        def reward(prompt: int, answer: Sequence[int]) -> float:
            return math.nan if state.iteration in bad else float(sum(answer) % 7)

        return (record.metrics for record in grpo(state, model, of_answers(reward), PROMPTS, [0], config, seed=0))

    def fresh() -> GRPOState:
        return GRPOState.start(model, config)

    return Loop(fresh(), lambda state: [state.policy], run, fresh)


def dpo_loop(lr: float, patience: NonFiniteConfig = PATIENCE) -> Loop:
    model = Transformer(MODEL, 0)
    config = DPOConfig(
        epochs=4, batch_pairs=4, optimizer=replace(ADAM, adamw_lr=lr), non_finite=patience, max_grad_norm=1e9
    )
    return Loop(
        DPOState.start(model, config),
        lambda state: [state.policy],
        lambda state: dpo(state, model, PAIRS, config, seed=0),
        lambda: DPOState.start(model, config),
    )


def reward_loop(lr: float, pairs: Sequence[TokenPair] = PAIRS, patience: NonFiniteConfig = PATIENCE) -> Loop:
    model = Transformer(MODEL, 0)
    config = RewardModelConfig(
        epochs=2, batch_pairs=4, num_members=2, margin_coef=1.0, optimizer=replace(ADAM, adamw_lr=lr),
        non_finite=patience, max_grad_norm=1e9,
    )  # fmt: skip
    return Loop(
        RewardState.start(model, config, 0),
        lambda state: list(state.members),
        lambda state: train_reward_model(state, pairs, seed=0),
        lambda: RewardState.start(model, config, 0),
        prefix="reward_model",
        save=lambda state: state.tensors(len(pairs)),
        load=lambda state, tensors: state.load_tensors(tensors, len(pairs)),
    )


def weights(loop: Loop, state: Any = None) -> list[Tensor]:
    return [x.clone() for model in loop.models(state or loop.state) for x in model.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("make", [ppo_loop, grpo_loop])
def test_answers_with_a_reward_that_is_no_number_teach_nothing_and_are_counted(make: Callable[..., Loop]) -> None:
    loop = make({3})
    reports = loop.run(loop.state)
    for _ in range(3):
        assert next(reports)["policy/skipped_updates"] == 0
    before = weights(loop)
    bad = next(reports)
    assert (bad["policy/skipped_updates"], bad["policy/num_updates"], bad["policy/rolled_back"]) == (2, 0, 0)
    assert same(before, weights(loop))
    after = next(reports)
    assert (after["policy/skipped_updates"], after["policy/num_updates"]) == (0, 2)
    assert all(math.isfinite(after[name]) for name in ("loss/policy", "policy/grad_norm"))
    assert not same(before, weights(loop))
    assert loop.state.guard.counts() == GuardCounts(2, 0, 1.0)
    if make is ppo_loop:  # neither the controller nor the running scale of scores took the number in
        assert math.isfinite(loop.state.kl_coef) and loop.state.scores_seen[0] == 4 * 8


@pytest.mark.parametrize("make", [ppo_loop, grpo_loop])
def test_a_run_of_them_goes_back_to_the_snapshot_ends_the_iteration_and_resumes(make: Callable[..., Loop]) -> None:
    loop = make({3, 4})
    reports = loop.run(loop.state)
    states = [loop.save(loop.fresh())]
    records = []
    for record in reports:
        records.append(record)
        states.append({name: x.clone() for name, x in loop.save(loop.state).items()})
    # Four updates in a row fail; at the third the guard goes back to the snapshot before the last good one.
    assert [r["policy/rolled_back"] for r in records] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert records[4]["policy/skipped_updates"] == 1
    assert loop.state.guard.counts() == GuardCounts(3, 1, 0.5)
    assert records[5]["policy/lr"] == pytest.approx(0.5 * records[4]["policy/lr"])
    held = {k.removeprefix("guard.snapshot."): x for k, x in states[5].items() if k.startswith("guard.snapshot.")}
    kept = [held[f"{i}.model.{k}"] for i, m in enumerate(loop.models(loop.state)) for k in m.state_dict()]
    assert same(kept, weights(loop, _restored(loop, states[5]))) and not same(kept, weights(loop))
    ended = weights(loop)
    for done in (4, 5):
        other = loop.fresh()
        loop.load(other, states[done])
        for _ in loop.run(other):
            pass
        assert same(ended, weights(loop, other))


def _restored(loop: Loop, tensors: dict[str, Tensor]) -> Any:
    state = loop.fresh()
    loop.load(state, tensors)
    return state


@pytest.mark.parametrize(
    "make",
    [
        lambda patience: ppo_loop(set(), 3e38, patience),
        lambda patience: grpo_loop(set(), 3e38, patience),
        lambda patience: dpo_loop(3e38, patience),
        lambda patience: reward_loop(3e38, patience=patience),
    ],
    ids=["ppo", "grpo", "dpo", "reward model"],
)
def test_weights_that_blew_up_are_replaced_by_good_ones(make: Callable[[NonFiniteConfig], Loop]) -> None:
    """The update itself makes the weights infinite: no later batch is to blame, and only going back helps."""
    loop = make(replace(PATIENCE, max_in_a_row=2, rate_factor=1e-41))
    records = list(loop.run(loop.state))
    assert loop.state.guard.rollbacks == 1 and loop.state.guard.skipped == 2
    assert sum(record[f"{loop.prefix}/rolled_back"] for record in records) == 1
    assert all(x.isfinite().all() for x in weights(loop))

    hopeless = make(replace(PATIENCE, max_in_a_row=2, rate_factor=1.0))
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        list(hopeless.run(hopeless.state))


def test_a_pair_with_a_margin_that_is_no_number_is_passed_by_and_each_member_goes_back_to_itself() -> None:
    pairs = [replace(PAIRS[0], margin=math.nan), *PAIRS[1:]]
    loop = reward_loop(1e-3, pairs, replace(PATIENCE, max_in_a_row=1, max_rollbacks=9))
    records = list(loop.run(loop.state))
    # 16 pairs in batches of 4, two epochs, two members: the pair is met once an epoch.
    assert sum(record["reward_model/skipped_updates"] for record in records) == 4 == loop.state.guard.skipped
    assert all(x.isfinite().all() for x in weights(loop))
    first, second = loop.state.members
    assert not torch.equal(first.head.weight, second.head.weight)


def test_the_reward_model_and_dpo_resume_bit_for_bit_after_going_back() -> None:
    patience = replace(PATIENCE, max_in_a_row=2, rate_factor=1e-41)
    for loop in (dpo_loop(3e38, patience), reward_loop(3e38, patience=patience)):
        states = []
        for record in loop.run(loop.state):
            states.append({name: x.clone() for name, x in loop.save(loop.state).items()})
            if record[f"{loop.prefix}/rolled_back"]:
                break
        for _ in itertools.islice(loop.run(loop.state), 2):
            pass
        ended = weights(loop)
        for number, tensors in enumerate(states[1:], 2):
            other = _restored(loop, tensors)
            for _ in itertools.islice(loop.run(other), len(states) - number + 2):
                pass
            assert same(ended, weights(loop, other))
