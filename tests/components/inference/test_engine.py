from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from components.inference.decoders import Rows, open_decoder
from components.inference.engine import Completion, Engine, Request, drain, generate, token_log_probs
from components.inference.multi_step import sampling_spec
from components.inference.sampling import SamplingParams, choose, uniforms
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.native.decoder import choose_natively, library

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


class Counting:
    """A decoder that counts the rows it computes."""

    def __init__(self, slots: int) -> None:
        self.inner, self.slots, self.rows = open_decoder(MODEL, slots, 64), slots, 0

    def forward(self, tokens_N: Rows, slots_N: Rows, positions_N: Rows, wanted: Rows) -> torch.Tensor:
        self.rows += len(tokens_N)
        return self.inner.forward(tokens_N, slots_N, positions_N, wanted)

    def copy(self, source: int, target: int, length: int) -> None:
        self.inner.copy(source, target, length)


def told(engine: Engine, requests: list[Request]) -> list[Completion]:
    """What an engine says to requests that all come at once."""
    tickets = [engine.submit(request) for request in requests]
    done = {update.ticket: update.completion for update in drain(engine) if update.ended}
    return [done[ticket] for ticket in tickets]


def agree(found: list[Completion], expected: list[Completion]) -> None:
    """In C to the bit; through torch, whose products round by the shape of a batch, nearly."""
    if library() is not None:
        assert found == expected
        return
    for one, two in zip(found, expected, strict=True):
        assert dataclasses.replace(one, log_probs=[], prompt_log_probs=[]) == dataclasses.replace(
            two, log_probs=[], prompt_log_probs=[]
        )
        assert one.log_probs == pytest.approx(two.log_probs, abs=1e-5)
        assert one.prompt_log_probs == pytest.approx(two.prompt_log_probs, abs=1e-5)


def test_a_prefix_that_sequences_share_is_computed_once() -> None:
    shared = GENERATOR.integers(0, 40, 30).tolist()
    params = SamplingParams(max_tokens=1, seed=1)
    group = [Request(tuple(shared), params, stream) for stream in range(16)]
    decoder = Counting(16)
    together = told(Engine(MODEL, 16, decoder=decoder), group)
    assert decoder.rows == 30 + 15  # the prompt once, and its last token for each of the others
    # Other prompts with the same examples before them, and one that came later, when the first has long ended.
    tails = [Request((*shared, *GENERATOR.integers(0, 40, 5).tolist()), params, n) for n in range(8)]
    decoder = Counting(4)
    engine = Engine(MODEL, 4, decoder=decoder)
    mixed = told(engine, tails)
    late = told(engine, [tails[0]])
    assert decoder.rows == 35 + 7 * 5 + 5
    alone = [told(Engine(MODEL, 1), [request])[0] for request in (*group, *tails, tails[0])]
    agree([*together, *mixed, *late], alone)


def test_requests_that_come_and_go_at_any_time_change_nothing_for_the_others() -> None:
    generator = np.random.default_rng(3)
    requests = [
        Request(tuple(prompt), SamplingParams(max_tokens=15, seed=n, temperature=0.5 + n % 3), n, stepwise=n % 2 == 0)
        for n, prompt in enumerate(PROMPTS)
    ]
    expected = [told(Engine(MODEL, 1), [request])[0] for request in requests]
    engine = Engine(MODEL, 5)
    waiting, tickets, dropped = list(enumerate(requests)), {}, set()
    steps: dict[int, list[int]] = {}
    done: dict[int, Completion] = {}
    while waiting or engine.num_waiting or engine.num_running:
        for _ in range(generator.integers(0, 4) if waiting else 0):
            if waiting:
                number, request = waiting.pop()
                tickets[engine.submit(request)] = number
        for update in engine.step():
            number = tickets[update.ticket]
            steps.setdefault(number, []).append(len(update.completion.tokens))
            if update.ended:
                done[number] = update.completion
        running = [ticket for ticket, number in tickets.items() if number not in done and number % 7 == 3]
        if running and generator.random() < 0.2:
            engine.cancel(running[0])
            dropped.add(tickets.pop(running[0]))
    assert dropped and set(done) == set(range(len(requests))) - dropped
    for number, completion in done.items():
        agree([completion], [expected[number]])
        # Stepwise requests tell of every token as it comes, the others of the end alone.
        assert steps[number] == ([*range(1, 16)] if number % 2 == 0 else [15])


@pytest.mark.parametrize("threads", [1, 2])
def test_many_tokens_at_once_are_those_of_single_steps(threads: int) -> None:
    ways: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"seed": 5, "stop_ids": (1, 2)},
        {"seed": 6, "temperature": 0.8, "top_k": 6, "ban_ids": (3, 4), "raw_log_probs": True},
        {"seed": 7, "top_p": 0.9, "min_p": 0.01, "stop": ("7", "AB", "C")},
    ]
    letters = [bytes([code]) for code in range(48, 88)]
    requests = [
        Request(tuple(prompt), SamplingParams(max_tokens=40, **ways[n % 4]), n) for n, prompt in enumerate(PROMPTS)
    ]
    slow = Engine(MODEL, 6, token_bytes=letters)
    tickets = [slow.submit(request) for request in requests]
    done = {}
    while slow.num_waiting or slow.num_running:
        done |= {update.ticket: update.completion for update in slow.step()}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        fast = Engine(MODEL, 30, token_bytes=letters)
    finally:
        torch.set_num_threads(before)
    said = told(fast, requests)
    agree(said, [done[ticket] for ticket in tickets])
    assert {c.stop for c in said} > {"", "7"} and {c.finished for c in said} == {True, False}


@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_a_batch_that_nobody_watches_takes_no_step_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[n, *range(10)] for n in range(20)]
    params = SamplingParams(max_tokens=30, seed=1, top_p=0.9, stop_ids=(3,))
    expected = generate(MODEL, prompts, params)
    monkeypatch.setattr("components.native.decoder.NativeDecoder.forward", None)
    assert generate(MODEL, prompts, params, max_batch=7) == expected


def test_weights_that_changed_between_two_calls_are_seen() -> None:
    model = Transformer(MODEL.cfg, 1).eval()
    params = SamplingParams(max_tokens=8, temperature=0.0)
    first = generate(model, PROMPTS[:3], params)
    model.load_state_dict(MODEL.state_dict())
    second = generate(model, PROMPTS[:3], params)
    assert second == generate(MODEL, PROMPTS[:3], params) != first


def test_a_leader_that_leaves_costs_its_followers_nothing_but_time() -> None:
    prompt = tuple(GENERATOR.integers(0, 40, 40).tolist())
    params = SamplingParams(max_tokens=5, temperature=0.0)
    engine = Engine(MODEL, 3)
    leader, follower = (engine.submit(Request(prompt, params)) for _ in range(2))
    engine._slots.admit(engine._waiting)  # both sit, nothing is computed yet
    engine.cancel(leader)
    done = {update.ticket: update.completion for update in drain(engine)}
    assert done[follower].tokens == told(Engine(MODEL, 1), [Request(prompt, params)])[0].tokens


def test_long_prompts_are_read_in_pieces_while_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.inference.slots.PREFILL_ROWS", 7)
    requests = [Request(tuple(p), SamplingParams(max_tokens=6, seed=2, prompt_log_probs=True), 1) for p in PROMPTS]
    pieces = told(Engine(MODEL, 4), requests)
    monkeypatch.undo()
    whole = told(Engine(MODEL, 4), requests)
    agree(pieces, whole)


def test_prompts_are_scored_and_the_most_probable_tokens_named() -> None:
    params = SamplingParams(max_tokens=2, temperature=0.0, prompt_log_probs=True, top_log_probs=3)
    for prompt, [said] in zip(PROMPTS, generate(MODEL, PROMPTS, params), strict=True):
        with torch.no_grad():
            log_probs = MODEL(torch.tensor([prompt + said.tokens]))[0].log_softmax(-1)
        expected = log_probs[range(len(prompt) - 1), prompt[1:]]
        torch.testing.assert_close(torch.tensor(said.prompt_log_probs), expected, atol=1e-4, rtol=1e-4)
        told_of = [*said.prompt_top_log_probs, *said.top_log_probs]
        best = log_probs[: len(prompt) + 1].topk(3)
        assert [[token for token, _ in top] for top in told_of] == best.indices.tolist()
        torch.testing.assert_close(
            torch.tensor([[x for _, x in top] for top in told_of]), best.values, atol=1e-4, rtol=0
        )
    scored = generate(MODEL, [PROMPTS[0]], SamplingParams(max_tokens=0, prompt_log_probs=True))[0][0]
    assert scored.tokens == [] and len(scored.prompt_log_probs) == len(PROMPTS[0]) - 1


def test_raw_log_probs_are_the_model_s_own_whatever_was_drawn_from() -> None:
    params = SamplingParams(max_tokens=6, temperature=0.5, top_k=3, ban_ids=(1, 2), raw_log_probs=True)
    [[said]] = generate(MODEL, [PROMPTS[1]], params)
    with torch.no_grad():
        expected = token_log_probs(MODEL, torch.tensor([PROMPTS[1] + said.tokens]))[0, len(PROMPTS[1]) - 1 :]
    torch.testing.assert_close(torch.tensor(said.log_probs), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=0.0),
        SamplingParams(temperature=0.7),
        SamplingParams(),
        SamplingParams(temperature=0.0, ban_ids=(3, 50), raw_log_probs=True),
        SamplingParams(temperature=0.0, ban_ids=(3, 50)),
        SamplingParams(temperature=1.3, ban_ids=(7, 8, 9)),
        SamplingParams(temperature=0.7, raw_log_probs=True),
        SamplingParams(top_k=1),
        SamplingParams(top_k=9, temperature=2.0),
        SamplingParams(top_p=0.6),
        SamplingParams(min_p=0.1, temperature=1.5),
        SamplingParams(top_k=20, top_p=0.8, min_p=0.02, ban_ids=(0,), temperature=0.9, raw_log_probs=True),
        SamplingParams(top_k=500),
    ],
)
@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_draws_in_c_are_those_of_torch(params: SamplingParams) -> None:
    logits = torch.randn(4000, 101, generator=torch.Generator().manual_seed(0)) * 3
    random = uniforms(0, np.arange(4000, dtype=np.uint64), np.zeros(4000, dtype=np.uint64))
    before = logits.clone()
    tokens, log_probs = choose(logits, params, random)
    ours, ours_log_probs = choose_natively(logits, sampling_spec(params), random.numpy())
    same = tokens.numpy() == ours
    assert same.mean() > 0.999  # a draw on the very edge between two tokens may fall to either
    np.testing.assert_allclose(ours_log_probs[same], log_probs.numpy()[same], atol=3e-6)
    assert torch.equal(before, logits)


@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_equally_probable_tokens_are_all_kept() -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, -3.0]]).expand(500, -1)
    random = np.linspace(0, 0.999, 500)
    assert set(choose_natively(logits, sampling_spec(SamplingParams(top_k=2)), random)[0].tolist()) == {0, 1, 2, 3}
    assert set(choose_natively(logits, sampling_spec(SamplingParams(top_k=1)), random)[0].tolist()) == {0}


def test_min_p_drops_what_is_far_less_probable_than_the_best() -> None:
    rows = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(500, -1)
    random = torch.linspace(0, 0.999, 500, dtype=torch.float64)
    assert set(choose(rows, SamplingParams(min_p=0.25), random)[0].tolist()) == {0, 1, 2}
    assert set(choose(rows, SamplingParams(min_p=0.7), random)[0].tolist()) == {0}


def test_a_share_too_small_for_float32_still_keeps_the_best() -> None:
    rows = torch.tensor([[0.2, 0.5, 0.3]]).log().expand(50, -1)
    random = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert set(choose(rows, SamplingParams(top_p=1e-320), random)[0].tolist()) == {1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_p": 2.0},
        {"max_tokens": 0},
        {"temperature": float("nan")},
        {"temperature": 1e-40},  # its inverse is infinite in float32, and so are the logits over it
        {"top_p": 0.0},
        {"top_k": 2**32 + 1},  # 1 in 32 bits
        {"stop": ("",)},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParams(**wrong)
