from __future__ import annotations

import numpy as np
import pytest
import torch

from components.inference.engine import generate, token_log_probs
from components.inference.sampling import SamplingParams, choose, uniforms
from components.model.config import ModelConfig
from components.model.transformer import Transformer

MODEL = Transformer(
    ModelConfig(vocab_size=40, d_model=32, num_layers=2, num_heads=2, context_length=64, tie_embeddings=False), 0
).eval()
GENERATOR = np.random.default_rng(0)
PROMPTS = [GENERATOR.integers(0, 40, GENERATOR.integers(1, 12)).tolist() for _ in range(30)]


def test_greedy_text_is_that_of_whole_passes_for_prompts_of_any_length() -> None:
    answers = generate(MODEL, PROMPTS[:6], SamplingParams(max_tokens=10, temperature=0.0), max_batch=4)
    for prompt, [said] in zip(PROMPTS, answers, strict=False):
        row = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(10):
                row = torch.cat([row, MODEL(row)[:, -1:].argmax(-1)], 1)
        assert said.tokens == row[0, len(prompt) :].tolist()


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_log_probs_are_those_that_a_trainer_recomputes(temperature: float) -> None:
    params = SamplingParams(max_tokens=12, temperature=temperature, num_samples=3)
    for prompt, group in zip(PROMPTS, generate(MODEL, PROMPTS[:5], params), strict=False):
        for said in group:
            row = torch.tensor([prompt + said.tokens])
            with torch.no_grad():
                again = token_log_probs(MODEL, row, temperature or 1.0)[0, len(prompt) - 1 :]
            torch.testing.assert_close(torch.tensor(said.log_probs), again, atol=1e-4, rtol=1e-4)


def test_slots_are_refilled_without_changing_what_is_said() -> None:
    params = SamplingParams(max_tokens=20, seed=3, stop_ids=(0, 1, 2, 3))
    wide = generate(MODEL, PROMPTS, params, max_batch=64)
    narrow = generate(MODEL, PROMPTS, params, max_batch=5)
    assert [[c.tokens for c in g] for g in wide] == [[c.tokens for c in g] for g in narrow]
    assert [g[0].prompt_index for g in narrow] == list(range(len(PROMPTS)))
    finished = [c for g in wide for c in g if c.finished]
    assert finished
    assert all(c.tokens[-1] in (0, 1, 2, 3) and not set(c.tokens[:-1]) & {0, 1, 2, 3} for c in finished)
    assert all(len(c.tokens) == 20 for g in wide for c in g if not c.finished)


def test_equal_prompts_get_different_samples_and_one_seed_the_same() -> None:
    params = SamplingParams(max_tokens=16, num_samples=4, seed=1)
    [first], [again] = generate(MODEL, PROMPTS[:1], params), generate(MODEL, PROMPTS[:1], params)
    assert [c.tokens for c in first] == [c.tokens for c in again]
    assert len({tuple(c.tokens) for c in first}) == 4
    [other] = generate(MODEL, PROMPTS[:1], SamplingParams(max_tokens=16, num_samples=4, seed=2))
    assert [c.tokens for c in other] != [c.tokens for c in first]


def test_an_answer_ends_where_the_context_does() -> None:
    [[said]] = generate(MODEL, [PROMPTS[0][:1] * 60], SamplingParams(max_tokens=50, temperature=0.0))
    assert len(said.tokens) == 4
    assert not said.finished


@pytest.mark.parametrize("prompt", [[], [1] * 64])
def test_a_prompt_that_cannot_be_answered_is_named(prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="prompt 1 has"):
        generate(MODEL, [[1], prompt], SamplingParams())


def test_sampled_frequencies_are_the_tempered_probabilities() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = 40_000
    random = uniforms(0, np.arange(draws, dtype=np.uint64), np.zeros(draws, dtype=np.uint64))
    tokens, _ = choose(logits.expand(draws, -1), SamplingParams(temperature=0.5), random)
    expected = (logits[0] / 0.5).softmax(-1)
    observed = torch.bincount(tokens, minlength=4) / draws
    # Four standard errors of a binomial share.
    assert ((observed - expected).abs() < 4 * (expected * (1 - expected) / draws).sqrt() + 1e-9).all()


def test_top_k_and_top_p_keep_what_they_should() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    random = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    rows = logits.expand(500, -1)
    assert set(choose(rows, SamplingParams(top_k=2), random)[0].tolist()) == {0, 1}
    assert set(choose(rows, SamplingParams(top_p=0.65), random)[0].tolist()) == {0, 1}
    assert set(choose(rows, SamplingParams(top_p=0.75), random)[0].tolist()) == {0, 1, 2}
    assert 1 not in choose(rows, SamplingParams(ban_ids=(1,)), random)[0].tolist()


def test_uniforms_are_uniform_and_uncorrelated() -> None:
    sequences = np.repeat(np.arange(200, dtype=np.uint64), 200)
    positions = np.tile(np.arange(200, dtype=np.uint64), 200)
    grid = uniforms(5, sequences, positions).view(200, 200)
    assert grid.mean() == pytest.approx(0.5, abs=0.01)
    assert grid.var() == pytest.approx(1 / 12, abs=0.003)
    centred = grid - 0.5
    assert abs(float((centred[:, 1:] * centred[:, :-1]).mean()) * 12) < 0.03
    assert abs(float((centred[1:] * centred[:-1]).mean()) * 12) < 0.03
