from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from components.inference.engine import generate, token_log_probs
from components.inference.sampling import SamplingParams
from components.model.config import ModelConfig, MoEConfig
from components.model.transformer import Transformer
from components.rlhf.ppo import PPORecord, PPOState, judged_scores, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel
from components.rlhf.rollouts import Rollout, of_sequences, pack_responses, repeated_share, sample_rollout, token_stats
from components.training.language_model import LMBatch
from components.training.optimizers import OptimizerConfig

DENSE = ModelConfig(vocab_size=24, d_model=16, num_layers=2, num_heads=2, context_length=32)
EXPERTS = dataclasses.replace(DENSE, moe=MoEConfig(num_experts=4, top_k_experts=2, d_ff=16))
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11]]
STOP, WANTED = 0, 7
CONFIG = PPOConfig(num_iterations=3, batch_size=24, num_epochs=2, num_minibatches=3, max_tokens=10)


def honest(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """How often the wanted token stands in a sequence."""
    real = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    return ((tokens_BT == WANTED) & real).sum(1).float()


def _start(cfg: ModelConfig, config: PPOConfig) -> tuple[Transformer, PPOState]:
    reference = Transformer(cfg, seed=1)
    for weight in reference.parameters():
        weight.data.mul_(1.5)  # an untrained model's choices are nearly uniform: make them differ
    return reference, PPOState.start(reference, RewardModel.from_policy(reference, seed=2), config)


def _run(cfg: ModelConfig, config: PPOConfig, prompts: Sequence[Sequence[int]] = PROMPTS) -> list[PPORecord]:
    reference, state = _start(cfg, config)
    return list(ppo(state, reference, of_sequences(honest), prompts, [STOP], config, seed=3))


@pytest.mark.parametrize("cfg", [DENSE, EXPERTS], ids=["dense", "moe"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_is_one_before_the_first_step_of_each_rollout(cfg: ModelConfig, temperature: float) -> None:
    records = _run(cfg, dataclasses.replace(CONFIG, temperature=temperature))
    assert len(records) == 3
    for record in records:
        assert record.metrics["check/first_ratio_deviation"] == 0.0
        assert record.metrics["check/first_clip_fraction"] == 0.0
        assert record.metrics["rollout/log_prob_difference"] < 1e-4  # generator and trainer see one distribution
    assert records[0].metrics["objective/kl"] == 0.0 and records[-1].metrics["objective/kl_k3"] > 0


@pytest.mark.parametrize("cfg", [DENSE, EXPERTS], ids=["dense", "moe"])
def test_a_run_resumes_bit_for_bit(cfg: ModelConfig) -> None:
    config = dataclasses.replace(CONFIG, kl_target=0.5, kl_horizon=100)
    reference, whole = _start(cfg, config)
    records = list(ppo(whole, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))

    _, cut = _start(cfg, config)
    next(ppo(cut, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))
    saved = {name: value.clone() for name, value in cut.tensors().items()}
    _, resumed = _start(cfg, config)
    resumed.load_tensors(saved)
    rest = list(ppo(resumed, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))

    assert [r.iteration for r in rest] == [1, 2]
    assert rest[-1].rollout.responses == records[-1].rollout.responses
    expected, got = whole.tensors(), resumed.tensors()
    assert expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    assert resumed.kl_coef == whole.kl_coef != config.kl_coef


def test_it_learns_an_honest_reward_and_the_penalty_holds_it_back() -> None:
    fast = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-2, eps=1e-5)
    config = dataclasses.replace(CONFIG, num_iterations=7, batch_size=48, kl_coef=0.0, score_clip=0.0)
    config = dataclasses.replace(config, missing_eos_penalty=0.0, policy_optimizer=fast)
    config = dataclasses.replace(config, critic_optimizer=fast)
    free, held = _run(DENSE, config), _run(DENSE, dataclasses.replace(config, kl_coef=2.0))
    assert free[-1].metrics["objective/score"] > free[0].metrics["objective/score"] + 1
    assert held[-1].metrics["objective/kl"] < 0.5 * free[-1].metrics["objective/kl"]


def test_an_answer_without_end_pays_and_clipping_bounds_the_score() -> None:
    config = dataclasses.replace(CONFIG, num_iterations=1, missing_eos_penalty=3.0, score_clip=0.5)
    (record,) = _run(DENSE, config)
    finished = record.rollout.finished_B
    assert 0 < int(finished.sum()) < len(finished)
    expected = (record.scores_B.clamp(-0.5, 0.5) - 3.0 * ~finished).mean()
    assert record.metrics["objective/reward"] == pytest.approx(float(expected), abs=1e-6)  # no KL at first
    ends = [response[-1] == STOP for response in record.rollout.responses]
    assert ends == finished.tolist()


def test_what_an_answer_is_paid_in_the_order_that_is_stated() -> None:
    """Scaling, clip, length, then the end: by hand for three answers of 2, 3 and 2 tokens, the last one cut off."""
    rollout = _rollout([[5, STOP], [5, 6, STOP], [5, 6]], [True, True, False])
    scores, none = torch.tensor([1.0, 3.0, -2.0]), np.zeros(3)
    config = PPOConfig(score_clip=1.5, length_penalty=0.1, missing_eos_penalty=1.0)
    assert judged_scores(scores, rollout, config, none)[0].tolist() == pytest.approx([0.8, 1.2, -2.7])
    replaced = dataclasses.replace(config, unfinished_score=-1.0)  # the EOS trick of Huang et al. 2024
    assert judged_scores(scores, rollout, replaced, none)[0].tolist() == pytest.approx([0.8, 1.2, -1.0])
    scaled = PPOConfig(score_scaling=True, score_clip=0.0, missing_eos_penalty=0.0)
    first, seen = judged_scores(scores, rollout, scaled, none)
    spread = np.std([1.0, 3.0, -2.0])
    assert first.tolist() == pytest.approx([1 / spread, 3 / spread, -2 / spread], rel=1e-6)
    second, _ = judged_scores(torch.tensor([4.0, 0.0, 0.0]), rollout, scaled, seen)
    assert float(second[0]) == pytest.approx(4 / np.std([1, 3, -2, 4, 0, 0]), rel=1e-6)


def _rollout(answers: list[list[int]], finished: list[bool]) -> Rollout:
    tokens, lengths, mask = pack_responses([[1, 2]] * len(answers), answers)
    index = tuple(range(len(answers)))
    return Rollout(tokens, lengths, mask, torch.tensor(finished), index, tuple(map(tuple, answers)), mask * 0.0)


def test_sampling_to_the_end_token_is_sampling_all_and_cutting_there() -> None:
    """The EOS trick's fixed length, without paying for what is thrown away: draws depend on place and seed alone."""
    model = Transformer(DENSE, seed=4)
    stopped = generate(model, PROMPTS * 8, SamplingParams(max_tokens=10, seed=9, stop_ids=(STOP,)))
    whole = generate(model, PROMPTS * 8, SamplingParams(max_tokens=10, seed=9))
    ends = 0
    for (short,), (long,) in zip(stopped, whole, strict=True):
        cut = long.tokens.index(STOP) + 1 if STOP in long.tokens else len(long.tokens)
        assert short.tokens == long.tokens[:cut]
        ends += short.finished
    assert 0 < ends < len(whole)


def test_an_ensemble_pays_as_it_is_told_to_be_combined() -> None:
    def three(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        return honest(tokens_BT, lengths_B)[:, None] + torch.tensor([0.0, 1.0, 2.0])

    for combine, shift in (("mean", 1.0), ("worst", 0.0), ("variance", 1.0 - 2.0 * 2 / 3)):
        config = dataclasses.replace(CONFIG, num_iterations=1, combine=combine, variance_coef=2.0)
        reference, state = _start(DENSE, config)
        (record,) = ppo(state, reference, of_sequences(three), PROMPTS, [STOP], config, seed=3)
        plain = honest(record.rollout.tokens_BT, record.rollout.lengths_B)
        torch.testing.assert_close(record.scores_B, plain + shift)
        assert record.scores_BM.shape == (24, 3)
        assert record.metrics["objective/score_disagreement"] == pytest.approx(np.std([0, 1, 2]), rel=1e-5)


@pytest.mark.parametrize("cfg", [DENSE, EXPERTS], ids=["dense", "moe"])
def test_other_conventions_start_from_a_ratio_of_one_too_and_resume(cfg: ModelConfig) -> None:
    config = dataclasses.replace(CONFIG, score_after_end=True, score_scaling=True, whiten_rewards=True, dual_clip=3.0)
    reference, whole = _start(cfg, config)
    records = list(ppo(whole, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))
    assert [r.metrics["check/first_ratio_deviation"] for r in records] == [0.0] * 3
    assert [r.metrics["check/first_clip_fraction"] for r in records] == [0.0] * 3
    _, cut = _start(cfg, config)
    next(ppo(cut, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))
    _, resumed = _start(cfg, config)
    resumed.load_tensors({name: value.clone() for name, value in cut.tensors().items()})
    list(ppo(resumed, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))
    assert all(torch.equal(value, resumed.tensors()[name]) for name, value in whole.tensors().items())


def test_updates_stop_once_the_policy_has_moved_too_far() -> None:
    free = _run(DENSE, dataclasses.replace(CONFIG, num_iterations=1))
    (record,) = _run(DENSE, dataclasses.replace(CONFIG, num_iterations=1, max_kl=1e-9))
    assert free[0].metrics["policy/num_updates"] == 6 and record.metrics["policy/num_updates"] == 1


def test_replayed_data_moves_the_policy() -> None:
    tokens = torch.arange(1, 17).view(1, 16)
    batch = LMBatch(tokens[:, :-1], tokens[:, 1:])
    config = dataclasses.replace(CONFIG, num_iterations=4, replay_coef=5.0)
    reference, state = _start(DENSE, config)
    for _ in ppo(state, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3, replay=lambda _: batch):
        pass
    with torch.no_grad():
        before, after = (float(token_log_probs(m, tokens).sum()) for m in (reference, state.policy))
    assert after > before + 1
    with pytest.raises(ValueError, match="no replay data"):
        next(ppo(state, reference, of_sequences(honest), PROMPTS, [STOP], config, seed=3))


def test_packed_responses_mask_the_response_and_nothing_else() -> None:
    tokens, lengths, mask = pack_responses([[1, 2, 3], [4]], [[5, 6], [7, 8, 9]])
    assert tokens.tolist() == [[1, 2, 3, 5, 6], [4, 7, 8, 9, 0]] and lengths.tolist() == [5, 4]
    assert mask.int().tolist() == [[0, 0, 1, 1], [1, 1, 1, 0]]


def test_repetition() -> None:
    assert repeated_share([1, 2, 3, 4, 5]) == 0 and repeated_share([1]) == 0
    assert repeated_share([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)  # 123 231 312 123


def test_token_stats_equal_the_plain_formula() -> None:
    model = Transformer(DENSE, seed=4)
    tokens, _, mask = pack_responses([[1, 2, 3], [4]], [[5, 6], [7, 8, 9]])
    with torch.no_grad():
        stats = token_stats(model, tokens, mask, 0.7, entropy=True)
        torch.testing.assert_close(stats.log_probs_BA, token_log_probs(model, tokens, 0.7) * mask)
        p = (model(tokens[:, :-1]).double() / 0.7).softmax(-1)
    torch.testing.assert_close(stats.entropy_BA.double(), -(p * p.log()).sum(-1) * mask, atol=1e-5, rtol=1e-5)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"ppo.num_minibatches is 9"):
        PPOConfig(batch_size=8, num_minibatches=9)
    with pytest.raises(ValueError, match=r"ppo.kl_coef is -0.1"):
        PPOConfig(kl_coef=-0.1)
    with pytest.raises(ValueError, match="whole distribution"):
        sample_rollout(Transformer(DENSE), PROMPTS, [0], SamplingParams(top_k=5))
