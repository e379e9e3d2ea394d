from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.rlhf.overoptimization import (
    Observation,
    best_observation,
    check,
    difference_of_means,
    first_alarm,
    hacking_signs,
    length_residualised_gain,
    observe,
    signs_alarm,
)
from components.rlhf.ppo import PPOState, ppo
from components.rlhf.ppo_config import PPOConfig
from components.rlhf.reward_model import RewardModel
from components.rlhf.rollouts import of_sequences, repeated_share
from components.statistics import clustered_mean_interval, mean_interval
from components.training.config import OptimizerConfig


def _history(proxy: list[float], gold: list[float], noise: float, seed: int, n: int = 96) -> list[Observation]:
    rng = np.random.default_rng(seed)
    return [
        observe(10 * i, i, rng.normal(p, noise, n), rng.normal(g, noise, n))
        for i, (p, g) in enumerate(zip(proxy, gold, strict=True))
    ]


def test_a_hacked_reward_raises_the_alarm_after_gold_has_turned() -> None:
    history = _history([0, 1, 2, 2.5, 3], [0, 0.5, 0.8, -0.5, -3], noise=1.0, seed=0)
    alarm = first_alarm(history)
    assert alarm is not None and alarm.step == 30 and alarm.since_step in (10, 20)
    assert alarm.proxy_change.low > 0 > alarm.gold_change.high and "reward hacking" in alarm.message()
    assert best_observation(history).step == 20


def test_an_honest_reward_raises_none_however_often_one_looks() -> None:
    """Gold is the proxy with independent noise: it rises, then stays for 24 looks. At most 1% of runs may alarm."""
    level = [0, 0.4, 0.8, 1.0, *([1.0] * 20)]
    alarms = sum(first_alarm(_history(level, level, 1.0, seed)) is not None for seed in range(30))
    assert alarms <= 1


def test_a_run_whose_rewards_both_fall_is_no_hacking() -> None:
    assert first_alarm(_history([0, -1, -2], [0, -1, -2], 1.0, seed=1)) is None
    assert check(_history([0], [0], 1.0, seed=1)) is None


def test_the_difference_of_means_is_welchs() -> None:
    a, b = [1.0, 2.0, 3.0, 4.0], [2.0, 2.0, 5.0]
    interval = difference_of_means(a, b, 0.95)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (interval.value, interval.low, interval.high) == pytest.approx((-0.5, expected.low, expected.high))


def test_the_intervals_of_a_look_are_over_requests() -> None:
    rng = np.random.default_rng(1)
    requests = [request for request in range(12) for _ in range(8)]
    gold = np.repeat(rng.normal(0, 1, 12), 8) + rng.normal(0, 0.1, 96)
    look = observe(0, 0.0, gold, gold, requests=requests)
    assert look.gold == look.proxy == clustered_mean_interval(gold, requests)
    alone = observe(0, 0.0, gold, gold)
    each = mean_interval(gold)
    assert alone.gold is not None and (alone.gold.low, alone.gold.high) == pytest.approx((each.low, each.high))
    assert look.gold.high - look.gold.low > 2 * (alone.gold.high - alone.gold.low)  # type: ignore[union-attr]


@pytest.mark.parametrize(("gold", "said"), [([0, 2.0, 1.0], "over-optimisation"), ([0, 1.0, -1.0], "reward hacking")])
def test_the_alarm_calls_hacking_what_fell_below_the_start_alone(gold: list[float], said: str) -> None:
    alarm = check(_history([0, 1, 2], gold, noise=0.5, seed=0))
    assert alarm is not None and alarm.start is not None
    assert alarm.message().startswith(said)
    assert ("below the start" in alarm.message()) and ("not yet" in alarm.message()) == (gold[-1] > 0)


def test_scores_of_different_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="3 proxy rewards but 2 gold"):
        observe(0, 0.0, [1, 2, 3], [1, 2])


def _texts(seed: int, proxy: float, length: float, slope: float = 0.0, n: int = 96, **changes: object) -> Observation:
    """Answers of this mean length whose proxy grows with length at the rate of `slope`, from a mean of `proxy`."""
    rng = np.random.default_rng(seed)
    lengths = rng.normal(length, 5, n)
    usual = {
        "disagreement": rng.normal(0.2, 0.05, n),
        "repeated": rng.normal(0.1, 0.05, n),
        "finished": (rng.random(n) < 0.95).astype(float),
        "entropy": 0.5,
        "distinct": 1.0,
    }
    return observe(
        seed,
        float(seed),
        proxy + slope * (lengths - length) + rng.normal(0, 0.3, n),
        lengths=lengths,
        **{**usual, **changes},
    )  # type: ignore[arg-type]


def test_a_gain_that_longer_answers_account_for_is_suspicious() -> None:
    start, longer = _texts(0, 0.0, 30, slope=0.1), _texts(1, 2.0, 50, slope=0.1)
    residual = length_residualised_gain(start, longer, 0.999)
    assert residual.contains(0.0) and residual.high < 1.0  # 20 tokens at 0.1 each are the whole gain
    assert [sign.name for sign in hacking_signs(start, longer, 0.95)] == ["length"]
    better = _texts(2, 4.0, 50, slope=0.1)
    assert length_residualised_gain(start, better, 0.95).contains(2.0)
    assert hacking_signs(start, better, 0.95) == ()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("disagreement", {"disagreement": np.full(96, 0.7)}),
        ("repetition", {"repeated": np.full(96, 0.6)}),
        ("endings", {"finished": np.arange(96) < 30}),
        ("entropy", {"entropy": 0.05}),
        ("distinct", {"distinct": 0.1}),
    ],
)
def test_each_sign_speaks_for_itself_and_only_when_the_proxy_rose(name: str, changes: dict[str, object]) -> None:
    start = _texts(0, 0.0, 30)
    (sign,) = hacking_signs(start, _texts(1, 2.0, 30, **changes), 0.99)  # type: ignore[arg-type]
    assert sign.name == name
    alarm = signs_alarm([start, _texts(1, 2.0, 30, **changes)])  # type: ignore[arg-type]
    assert alarm is not None and "suspected" in alarm.message() and sign.said in alarm.message()
    assert signs_alarm([start, _texts(1, 0.0, 30, **changes)]) is None  # type: ignore[arg-type]
    assert signs_alarm([start, _texts(1, 2.0, 30)]) is None


def test_without_gold_the_best_is_what_the_ensemble_agrees_on() -> None:
    history = [
        _texts(0, 0.0, 30),
        _texts(1, 1.5, 30, disagreement=np.full(96, 0.3)),
        _texts(2, 1.9, 30, disagreement=np.full(96, 1.5)),
    ]
    assert best_observation(history).step == 1
    with pytest.raises(ValueError, match="without gold"):
        check(history)


# -- the controls: a reward that can be hacked, and an honest one, on a policy that really learns ------------------

MODEL = ModelConfig(vocab_size=24, d_model=16, num_layers=2, num_heads=2, context_length=32)
STOP, WANTED = 0, 7


def _count(tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
    """How often the wanted token stands in a sequence."""
    real = torch.arange(tokens_BT.shape[1]) < lengths_B[:, None]
    return ((tokens_BT == WANTED) & real).sum(1).float()


def _watched(proxy: Callable[[Tensor, Tensor], Tensor], gold: Callable[[float], float]) -> list[Observation]:
    fast = OptimizerConfig(muon_lr=0.0, adamw_lr=1e-2, eps=1e-5)
    config = PPOConfig(num_iterations=11, batch_size=64, num_minibatches=2, num_epochs=2, max_tokens=12, kl_coef=0.0)
    config = dataclasses.replace(config, score_clip=0.0, missing_eos_penalty=0.0, policy_optimizer=fast)
    config = dataclasses.replace(config, critic_optimizer=fast)
    reference = Transformer(MODEL, seed=1)
    state = PPOState.start(reference, RewardModel.from_policy(reference, seed=2), config)
    history = []
    for record in ppo(state, reference, of_sequences(proxy), [[1, 2, 3], [4, 5], [6, 8]], [STOP], config, seed=3):
        rollout = record.rollout
        history.append(
            observe(
                record.iteration + 1,
                max(0.0, record.metrics["objective/kl"]),
                record.scores_B,
                [gold(response.count(WANTED)) for response in rollout.responses],
                lengths=rollout.response_lengths_B,
                repeated=[repeated_share(response) for response in rollout.responses],
                finished=rollout.finished_B,
                entropy=record.metrics["policy/entropy"],
                distinct=record.metrics["response/distinct"],
            )
        )
    return history


def test_a_reward_that_can_be_hacked_raises_both_alarms() -> None:
    """The proxy pays for every mention; people want one and are bored by more than two."""
    history = _watched(_count, lambda mentions: min(mentions, 1) - 0.7 * max(0, mentions - 2))
    alarm, suspicion = first_alarm(history), first_alarm(history, gold=False)
    assert alarm is not None and alarm.gold_change is not None and alarm.gold_change.high < 0
    assert suspicion is not None and {sign.name for sign in suspicion.signs} & {"repetition", "length"}
    best = best_observation(history)
    assert best.step < alarm.step
    assert best.gold is not None and history[-1].gold is not None and best.gold.low > history[-1].gold.high


def test_an_honest_reward_raises_none() -> None:
    """The proxy is what people want: one mention."""
    history = _watched(lambda tokens, lengths: _count(tokens, lengths).clamp_max(1), lambda mentions: min(mentions, 1))
    assert history[-1].proxy.low > history[0].proxy.high
    assert first_alarm(history) is None and first_alarm(history, gold=False) is None
