from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.rlhf.grpo import (
    GRPOConfig,
    GRPORecord,
    GRPOState,
    Variant,
    group_advantages,
    grpo,
    overlong_penalties,
    token_losses,
    token_weights,
)
from components.rlhf.rollouts import join_rollouts, of_answers
from components.training.optimizers import OptimizerConfig

DENSE = ModelConfig(vocab_size=24, d_model=16, num_layers=2, num_heads=2, context_length=32)
EXPERTS = dataclasses.replace(DENSE, moe=MoEConfig(num_experts=4, top_k_experts=2, d_ff=16))
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]
STOP = 0
# Plain steps: with Adam the first step is lr·sign(gradient), which would hide a wrong scale.
CONFIG = GRPOConfig(num_iterations=3, num_prompts=4, group_size=4, num_minibatches=2, num_epochs=2, max_tokens=10)


def wanted(prompt_index: int, tokens: Sequence[int]) -> float:
    """Whether token 7 stands in the answer."""
    return float(7 in tokens)


def _start(cfg: ModelConfig, config: GRPOConfig) -> tuple[Transformer, GRPOState]:
    reference = Transformer(cfg, seed=1)
    for weight in reference.parameters():
        weight.data.mul_(1.5)
    return reference, GRPOState.start(reference, config)


def _run(cfg: ModelConfig, config: GRPOConfig) -> tuple[GRPOState, list[GRPORecord]]:
    reference, state = _start(cfg, config)
    return state, list(grpo(state, reference, of_answers(wanted), PROMPTS, [STOP], config, seed=3))


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.1, 0.1, 0.1, 0.1], [3.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    got = group_advantages(rewards, "grpo")
    for row, values in enumerate(rewards.numpy()):
        expected = (values - values.mean()) / (values.std(ddof=1) + 1e-4)
        np.testing.assert_allclose(got[row], expected, atol=1e-9)
    assert got[1].tolist() == [0.0] * 4
    torch.testing.assert_close(group_advantages(rewards, "dr_grpo")[2], rewards[2] - 0.75)
    # RLOO: each reward against the mean of the other three.
    assert group_advantages(rewards, "rloo")[2].tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0])
    assert group_advantages(rewards, "rloo")[0].tolist() == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])


def test_token_weights_by_hand() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    grpo_w, dapo, dr = (token_weights(mask, v, 10) for v in ("grpo", "dapo", "dr_grpo"))
    torch.testing.assert_close(grpo_w, torch.tensor([[0, 0.25, 0.25, 0], [0.125] * 4]))
    torch.testing.assert_close(dapo, mask / 6)
    torch.testing.assert_close(dr, mask / 20)


@pytest.mark.parametrize("variant", ["gspo", "rloo"])
def test_losses_of_whole_answers_by_hand(variant: Variant) -> None:
    """In float64: one clipped ratio an answer, the mean over answers of −min(sA, clip(s)A), and its gradient."""
    rng = np.random.default_rng(0)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 1]], dtype=torch.bool)
    new, old = (torch.from_numpy(rng.normal(0, 0.3, (3, 4))) for _ in range(2))
    new.requires_grad_()
    advantages = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    config = dataclasses.replace(CONFIG, variant=variant, clip_low=0.1, clip_high=0.15)
    each = token_losses(new, old, torch.zeros(3, 4), advantages, mask, config)
    loss = (each.loss_BA * token_weights(mask, variant, 10)).sum()
    loss.backward()
    expected, gradient = 0.0, np.zeros((3, 4))
    for row in range(3):
        inside = mask[row].numpy()
        gaps = (new.detach() - old)[row].numpy()[inside]
        share = 1 / len(gaps) if variant == "gspo" else 1.0
        ratio, a = math.exp(share * gaps.sum()), float(advantages[row])
        clipped = min(max(ratio, 0.9), 1.15)
        expected -= min(ratio * a, clipped * a) / 3
        if ratio * a <= clipped * a:
            gradient[row, inside] = -ratio * a * share / 3
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-6)
    assert new.grad is not None
    np.testing.assert_allclose(new.grad.numpy(), gradient, atol=1e-6)


def test_overlong_penalty_by_hand() -> None:
    lengths = torch.tensor([3, 6, 7, 8, 10])
    assert overlong_penalties(lengths, 10, 4).tolist() == [0.0, 0.0, -0.25, -0.5, -1.0]
    assert overlong_penalties(lengths, 10, 0).tolist() == [0.0] * 5


@pytest.mark.parametrize("cfg", [DENSE, EXPERTS], ids=["dense", "moe"])
@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo", "rloo"])
def test_the_ratio_is_one_before_the_first_step_and_a_run_resumes(cfg: ModelConfig, variant: Variant) -> None:
    config = dataclasses.replace(CONFIG, variant=variant, micro_batch_size=3, kl_coef=0.05)
    whole, records = _run(cfg, config)
    assert [r.metrics["check/first_ratio_deviation"] for r in records] == [0.0] * 3
    assert [r.metrics["check/first_clip_fraction"] for r in records] == [0.0] * 3
    assert all(r.metrics["rollout/log_prob_difference"] < 1e-4 for r in records)

    reference, cut = _start(cfg, config)
    next(grpo(cut, reference, of_answers(wanted), PROMPTS, [STOP], config, seed=3))
    saved = {name: value.clone() for name, value in cut.tensors().items()}
    _, resumed = _start(cfg, config)
    resumed.load_tensors(saved)
    rest = list(grpo(resumed, reference, of_answers(wanted), PROMPTS, [STOP], config, seed=3))
    assert rest[-1].rollout.responses == records[-1].rollout.responses
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo", "rloo"])
def test_micro_batches_do_not_change_the_gradient(variant: Variant) -> None:
    once = dataclasses.replace(CONFIG, variant=variant, num_iterations=1, num_epochs=1, num_minibatches=1)
    whole, (first,) = _run(DENSE, once)
    parts, (second,) = _run(DENSE, dataclasses.replace(once, micro_batch_size=3))
    assert first.metrics["policy/grad_norm"] == pytest.approx(second.metrics["policy/grad_norm"], rel=1e-4)
    assert first.metrics["loss/policy"] == pytest.approx(second.metrics["loss/policy"], abs=1e-5)
    for a, b in zip(whole.policy.parameters(), parts.policy.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_one_update_equals_the_policy_gradient_written_out() -> None:
    """On-policy the surrogate's gradient is Σ w_t A ∇log π (Williams 1992): the loss value is −Σ w_t A_i too."""
    config = dataclasses.replace(CONFIG, num_iterations=1, num_epochs=1, num_minibatches=1, max_grad_norm=1e9)
    reference, state = _start(DENSE, config)
    (record,) = grpo(state, reference, of_answers(wanted), PROMPTS, [STOP], config, seed=3)
    rollout = record.rollout
    advantages = group_advantages(record.rewards_B.view(4, 4), "dapo").flatten()
    total = torch.zeros(())
    for row, advantage in enumerate(advantages.tolist()):
        tokens = rollout.tokens_BT[row : row + 1, : int(rollout.lengths_B[row])]
        log_probs = reference(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])[0, :, 0]
        total = total - advantage * log_probs[-len(rollout.responses[row]) :].sum()
    grads = torch.autograd.grad(total / sum(map(len, rollout.responses)), list(reference.parameters()))
    norm = float(torch.cat([g.flatten() for g in grads]).norm())
    assert record.metrics["policy/grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_groups_without_variance_are_reported_and_leave_the_weights_alone() -> None:
    reference, state = _start(DENSE, CONFIG)
    before = [p.detach().clone() for p in state.policy.parameters()]
    records = list(grpo(state, reference, of_answers(lambda i, t: 1.0), PROMPTS, [STOP], CONFIG, seed=3))
    assert [r.metrics["groups/zero_variance"] for r in records] == [1.0] * 3
    assert [r.metrics["policy/num_updates"] for r in records] == [0] * 3
    assert all(torch.equal(a, b) for a, b in zip(before, state.policy.parameters(), strict=True))


def test_dynamic_sampling_replaces_groups_that_teach_nothing() -> None:
    plain = _run(DENSE, dataclasses.replace(CONFIG, num_iterations=1))[1][0].metrics
    dynamic = _run(DENSE, dataclasses.replace(CONFIG, num_iterations=1, dynamic_sampling=6))[1][0]
    assert plain["groups/zero_variance"] > 0 == dynamic.metrics["groups/zero_variance"]
    assert dynamic.metrics["groups/sampled"] > 4 == len(dynamic.rollout) // 4
    assert dynamic.metrics["groups/sampled_zero_variance"] > 0
    rows = torch.arange(3)
    rejoined = join_rollouts([dynamic.rollout.rows(rows), dynamic.rollout.rows(torch.arange(3, 16))])
    assert rejoined.responses == dynamic.rollout.responses
    assert torch.equal(rejoined.mask_BA, dynamic.rollout.mask_BA)


def test_truncated_answers_can_be_left_out() -> None:
    config = dataclasses.replace(CONFIG, num_iterations=1, mask_truncated=True, max_tokens=2)
    reference, state = _start(DENSE, config)
    (record,) = grpo(state, reference, of_answers(lambda i, t: sum(t)), PROMPTS, [27], config, seed=3)
    assert record.metrics["response/finished"] == 0 and record.metrics["loss/policy"] == 0


def test_it_learns_a_verified_reward() -> None:
    fast = OptimizerConfig(muon_lr=0.0, adamw_lr=5e-3)
    config = dataclasses.replace(CONFIG, num_iterations=12, num_prompts=8, num_epochs=1, optimizer=fast)
    _, records = _run(DENSE, config)
    assert records[-1].metrics["objective/reward"] > records[0].metrics["objective/reward"] + 0.2


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"grpo.variant is 'ppo'"):
        GRPOConfig(variant="ppo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"grpo.group_size is 1"):
        GRPOConfig(group_size=1)


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "rloo"])
@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_the_kl_has_value_and_gradient_of_the_kl_to_the_reference(variant: Variant, moved: float) -> None:
    """All answers of three tokens out of four that a policy of independent tokens gives, each as likely as it is."""
    generator = torch.Generator().manual_seed(0)
    old, away, ref = torch.randn(3, 3, 4, dtype=torch.float64, generator=generator).unbind()
    logits = (old + moved * away).requires_grad_(True)
    new, old, ref = (x.log_softmax(-1) for x in (logits, old, ref))
    answers = torch.cartesian_prod(*[torch.arange(4)] * 3)
    new_BA, old_BA, ref_BA = (x[torch.arange(3), answers] for x in (new, old, ref))
    config = GRPOConfig(variant=variant, kl_coef=1.0)
    mask = torch.ones(64, 3, dtype=torch.bool)
    each = token_losses(new_BA, old_BA, ref_BA, torch.zeros(64, dtype=torch.float64), mask, config)
    expected = (old_BA.sum(1).exp()[:, None] * each.loss_BA).sum()
    exact = (new.exp() * (new - ref)).sum()
    assert float(expected.detach()) == pytest.approx(float(exact.detach()), abs=1e-12)
    (gradient,), (true,) = (torch.autograd.grad(x, logits, retain_graph=True) for x in (expected, exact))
    torch.testing.assert_close(gradient, true, atol=1e-12, rtol=0)
