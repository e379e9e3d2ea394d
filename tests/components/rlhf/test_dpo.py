from __future__ import annotations

import math

import pytest
import torch

from components.inference.engine import token_log_probs
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.rlhf.dpo import DPOState, dpo, dpo_loss, response_log_probs
from components.rlhf.dpo_config import DPOConfig, DPOLoss
from components.rlhf.pairs import TokenPair

TINY = ModelConfig(vocab_size=24, d_model=16, num_layers=2, num_heads=2, context_length=32)


def _pairs(count: int) -> list[TokenPair]:
    """Token 7 is preferred over token 9."""
    g = torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        prompt = torch.randint(1, 24, (2 + index % 3,), generator=g).tolist()
        body = torch.randint(1, 24, (1 + index % 4,), generator=g).tolist()
        made.append(TokenPair((*prompt, *body, 7, 0), (*prompt, 9, *body[1:], 0), num_prompt=len(prompt)))
    return made


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("margin", [-3.0, 0.0, 0.4, 12.0])
def test_losses_by_hand(margin: float) -> None:
    m, beta, eps = torch.tensor([margin], dtype=torch.float64), 0.3, 0.2
    kept, flipped = -math.log(_sigma(beta * margin)), -math.log(_sigma(-beta * margin))
    assert float(dpo_loss(m, "sigmoid", beta)) == pytest.approx(kept)
    assert float(dpo_loss(m, "sigmoid", beta, eps)) == pytest.approx(0.8 * kept + 0.2 * flipped)
    assert float(dpo_loss(m, "robust", beta, eps)) == pytest.approx((0.8 * kept - 0.2 * flipped) / 0.6)
    assert float(dpo_loss(m, "hinge", beta)) == pytest.approx(max(0.0, 1 - beta * margin))
    assert float(dpo_loss(m, "ipo", beta)) == pytest.approx((margin - 1 / (2 * beta)) ** 2)


def test_robust_is_unbiased_under_flipped_labels() -> None:
    m = torch.tensor([0.7], dtype=torch.float64)
    expected = 0.8 * dpo_loss(m, "robust", 0.3, 0.2) + 0.2 * dpo_loss(-m, "robust", 0.3, 0.2)
    torch.testing.assert_close(expected, dpo_loss(m, "sigmoid", 0.3))


@pytest.mark.parametrize(
    ("loss", "start"), [("sigmoid", math.log(2)), ("robust", math.log(2)), ("hinge", 1.0), ("ipo", 25.0)]
)
def test_the_first_step_starts_from_the_reference_and_learning_follows(loss: DPOLoss, start: float) -> None:
    config = DPOConfig(epochs=4, batch_pairs=8, loss=loss, label_smoothing=0.1 if loss == "robust" else 0.0)
    reference = Transformer(TINY, seed=1)
    state = DPOState.start(reference, config)
    records = list(dpo(state, reference, _pairs(32), config, seed=2))
    assert records[0]["loss/policy"] == pytest.approx(start, abs=1e-5)
    assert records[0]["rewards/margin"] == 0.0
    assert records[-1]["rewards/accuracy"] > 0.8 and records[-1]["loss/policy"] < start


def test_answers_are_scored_without_their_prompt() -> None:
    model, pairs = Transformer(TINY, seed=3), _pairs(5)
    with torch.no_grad():
        for per_token in (False, True):
            chosen, rejected, _ = response_log_probs(model, pairs, per_token)
            for index, pair in enumerate(pairs):
                for got, answer in ((chosen, pair.chosen), (rejected, pair.rejected)):
                    each = token_log_probs(model, torch.tensor([answer]))[0, pair.num_prompt - 1 :]
                    assert float(got[index]) == pytest.approx(float(each.mean() if per_token else each.sum()), abs=1e-5)


def test_a_run_resumes_bit_for_bit() -> None:
    config, pairs = DPOConfig(epochs=3, batch_pairs=8), _pairs(20)
    reference = Transformer(TINY, seed=1)
    whole, cut, resumed = (DPOState.start(reference, config) for _ in range(3))
    records = list(dpo(whole, reference, pairs, config, seed=2))
    steps = dpo(cut, reference, pairs, config, seed=2)
    for _ in range(4):
        next(steps)
    resumed.load_tensors({name: value.clone() for name, value in cut.tensors().items()})
    rest = list(dpo(resumed, reference, pairs, config, seed=2))
    assert [r["loss/policy"] for r in rest] == [r["loss/policy"] for r in records[4:]]
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


def test_a_pair_without_an_answer_is_named() -> None:
    state = DPOState.start(Transformer(TINY), DPOConfig())
    with pytest.raises(ValueError, match="pair 0: num_prompt is 2"):
        next(dpo(state, state.policy, [TokenPair((1, 2), (1, 2, 3), num_prompt=2)], DPOConfig(), 0))
