"""Both decoders against the model's own forward pass, and the promise that a sequence's bits are its own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from components.inference.decoders import Decoder, TorchDecoder, open_decoder
from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.transformer import Transformer
from components.native.decoder import NativeDecoder, library

PLAIN = ModelConfig(vocab_size=45, d_model=32, num_layers=2, num_heads=2, context_length=70)
VARIANTS = {
    "plain": PLAIN,
    "grouped": dataclasses.replace(PLAIN, num_heads=4, num_kv_heads=2),
    "capped in a window": dataclasses.replace(PLAIN, attention_softcap=2.0, logit_softcap=3.0, sliding_window=5),
    "biased, untied, stretched": dataclasses.replace(
        PLAIN, qk_norm=False, attention_bias=True, tie_embeddings=False, rope_scaling=RopeScaling("linear", 2.0)
    ),
    "odd widths": dataclasses.replace(PLAIN, d_model=25, num_heads=1, head_dim=10, d_ff=37, vocab_size=77),
}


def random_model(cfg: ModelConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(cfg, 1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def decoders(model: Transformer) -> list[Decoder]:
    found: list[Decoder] = [TorchDecoder(model, 6, 70)]
    if model.cfg.moe is None and library() is not None:
        found.append(NativeDecoder(model, 6, 70))
    return found


def rows(runs: list[tuple[int, int, list[int]]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(slot, first position, tokens) of each run as rows."""
    tokens = np.array([t for _, _, ids in runs for t in ids], np.int32)
    slots = np.array([slot for slot, _, ids in runs for _ in ids], np.int32)
    positions = np.array([first + i for _, first, ids in runs for i in range(len(ids))], np.int32)
    return tokens, slots, positions


@pytest.mark.parametrize("name", [*VARIANTS, "experts"])
def test_logits_are_those_of_the_model_however_a_sequence_is_cut_up(name: str) -> None:
    cfg = VARIANTS.get(name) or dataclasses.replace(PLAIN, moe=MoEConfig(num_experts=4, top_k_experts=2, d_ff=16))
    model = random_model(cfg)
    long, short = (np.random.default_rng(n).integers(0, cfg.vocab_size, n).tolist() for n in (66, 19))
    for decoder in decoders(model):
        said: dict[int, list[torch.Tensor]] = {3: [], 0: []}
        # A prompt in two pieces, beside it a short one, and then single steps of both.
        for runs in (
            [(3, 0, long[:21])],
            [(0, 0, short[:1]), (3, 21, long[21:40])],
            *([(0, 1 + i, [short[1 + i]]), (3, 40 + i, [long[40 + i]])] for i in range(18)),
            [(3, 58, long[58:])],
        ):
            tokens, slots, positions = rows(runs)
            with torch.inference_mode():
                logits = decoder.forward(tokens, slots, positions, np.arange(len(tokens), dtype=np.int32))
            for slot in np.unique(slots):
                said[int(slot)].append(logits[torch.from_numpy(slots == slot)])
        with torch.no_grad():
            for slot, ids in ((3, long), (0, short)):
                torch.testing.assert_close(torch.cat(said[slot]), model(torch.tensor([ids]))[0], atol=5e-5, rtol=1e-4)


def test_a_prefix_that_was_copied_is_the_prefix() -> None:
    model = random_model(PLAIN)
    ids = np.random.default_rng(0).integers(0, 45, 30).tolist()
    for decoder in decoders(model):
        with torch.inference_mode():
            decoder.forward(*rows([(1, 0, ids)]), np.array([29], np.int32))
            decoder.copy(1, 4, 23)
            got = decoder.forward(*rows([(4, 23, ids[23:])]), np.array([6], np.int32))
            torch.testing.assert_close(got[0], model(torch.tensor([ids]))[0, -1], atol=5e-5, rtol=1e-4)


@pytest.mark.skipif(library() is None, reason="no C compiler")
@pytest.mark.parametrize("threads", [1, 2])
def test_bits_of_a_sequence_do_not_depend_on_what_runs_beside_it(threads: int) -> None:
    model = random_model(PLAIN)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decoder = NativeDecoder(model, 6, 70)
    finally:
        torch.set_num_threads(before)
    generator = np.random.default_rng(1)
    prompts = [generator.integers(0, 45, n).tolist() for n in (60, 7, 33, 1, 50)]
    runs = [(slot, 0, ids) for slot, ids in enumerate(prompts)]
    tokens, slots, positions = rows(runs)
    together = decoder.forward(tokens, slots, positions, np.arange(len(tokens), dtype=np.int32))
    for slot, ids in enumerate(prompts):
        alone = torch.cat(
            [decoder.forward(*rows([(5, i, [token])]), np.zeros(1, np.int32)) for i, token in enumerate(ids)]
        )
        assert torch.equal(alone, together[torch.from_numpy(slots == slot)])


@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_what_an_earlier_decoder_left_in_memory_is_never_read() -> None:
    model = random_model(PLAIN)
    ids = np.random.default_rng(0).integers(0, 45, 30).tolist()
    first = NativeDecoder(model, 6, 70)
    expected = first.forward(*rows([(2, 0, ids)]), np.array([29], np.int32))
    memory = first._cache
    memory.fill(np.nan)
    del first
    again = NativeDecoder(model, 6, 70)
    assert again._cache is memory
    assert torch.equal(again.forward(*rows([(2, 0, ids)]), np.array([29], np.int32)), expected)
    assert NativeDecoder(model, 6, 70)._cache is not memory


@pytest.mark.skipif(library() is None, reason="no C compiler")
def test_what_is_kept_of_each_token_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(PLAIN)
    ids = np.random.default_rng(2).integers(0, 45, 50).tolist()
    every = np.arange(50, dtype=np.int32)
    kept = NativeDecoder(model, 2, 60)
    first = kept.forward(*rows([(0, 0, ids)]), every)
    again = kept.forward(*rows([(1, 0, ids)]), every)
    monkeypatch.setattr("components.native.decoder.FIRST_BYTES", 0)
    plain = NativeDecoder(model, 2, 60).forward(*rows([(0, 0, ids)]), every)
    assert torch.equal(first, plain) and torch.equal(again, plain)


def test_a_model_of_experts_and_a_missing_compiler_run_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = dataclasses.replace(PLAIN, moe=MoEConfig(num_experts=2, d_ff=16))
    assert isinstance(open_decoder(Transformer(experts), 2, 20), TorchDecoder)
    monkeypatch.setattr("components.inference.decoders.library", lambda: None)
    assert isinstance(open_decoder(Transformer(PLAIN), 2, 20), TorchDecoder)
