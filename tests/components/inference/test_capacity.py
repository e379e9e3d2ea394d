"""What serving takes: the cache by a budget, weights by their precision, and models that do not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from components.inference.capacity import (
    cache_bytes_per_token,
    check_fit,
    fit_cache,
    free_memory,
    weight_bytes,
)
from components.inference.decoders import TorchDecoder, open_decoder
from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.inference.serving_weights import load_for_serving, narrowed
from components.model.config import ModelConfig, MoEConfig, count_params
from components.model.kv_cache import KVCache
from components.model.quantized import Int8Linear, quantized_rows
from components.model.transformer import Transformer
from components.training.checkpoints import save_model

# Llama-3.2-1B.
ONE_B = ModelConfig(128256, 2048, 16, 32, 8, 64, 8192, 131072)
SMALL = ModelConfig(64, 32, 2, 4, 2, context_length=32)


def test_a_token_takes_what_a_cache_of_one_does() -> None:
    cache = KVCache.empty(SMALL, 1, 1)
    held = sum(x.nbytes for x in cache.keys_LBKSC + cache.values_LBKSC)
    assert cache_bytes_per_token(SMALL, "float32") == held == 2 * cache_bytes_per_token(SMALL, "bfloat16")


def test_a_model_of_1b_serves_within_the_budget_by_default() -> None:
    asked = 64 * ONE_B.context_length * cache_bytes_per_token(ONE_B, "float32")
    assert asked > 549e9  # what the server took before there was a budget
    fit = fit_cache(ONE_B, "bfloat16", 64, 0, 1e9)
    assert fit.cache_bytes <= 1e9 and fit.slots == 4 and fit.tokens > 7000
    assert weight_bytes(ONE_B, "bfloat16") + fit.cache_bytes < 4e9
    assert weight_bytes(ONE_B, "int8") + fit_cache(ONE_B, "int8", 64, 0, 0.7e9).cache_bytes < 2e9


def test_small_models_get_all_that_they_ask_for() -> None:
    fit = fit_cache(SMALL, "float32", 64, 0, 1e9)
    assert (fit.slots, fit.tokens) == (64, SMALL.context_length)


def test_a_context_that_was_asked_for_is_kept_and_sequences_wait() -> None:
    fit = fit_cache(ONE_B, "float32", 64, 8192, 1.2e9)
    assert (fit.slots, fit.tokens) == (2, 8192)
    with pytest.raises(ValueError, match=r"one sequence of 131,072 tokens take 8.59 GB.*at most 15,258"):
        fit_cache(ONE_B, "float32", 64, 131072, 1e9)


def test_a_model_that_does_not_fit_is_told_in_one_line_with_what_would() -> None:
    with pytest.raises(ValueError, match=r"big: 1.24 billion.*9.9 GB in float32.*take --weights bfloat16 .2.5 GB. or"):
        check_fit(ONE_B, "float32", 1e9, 5e9, "big")
    with pytest.raises(ValueError, match="no precision fits"):
        check_fit(ONE_B, "float32", 1e9, 1e9, "big")
    check_fit(ONE_B, "float32", 1e9, 12e9, "big")
    check_fit(ONE_B, "float32", 1e9, None, "big")
    free = free_memory()
    assert free is None or free > 0


def test_a_weight_in_8_bits_is_off_by_at_most_half_a_step_of_its_row() -> None:
    weight = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    rows, scale = quantized_rows(weight)
    assert rows.dtype == torch.int8
    error = (rows * scale[:, None] - weight).abs()
    assert torch.all(error <= weight.abs().amax(1, keepdim=True) / 254 * 1.001)
    x, bias = torch.randn(3, 4, 20), torch.randn(50)
    expected = x @ (rows * scale[:, None]).T + bias
    assert torch.allclose(Int8Linear(rows, scale, bias)(x), expected, atol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_narrow_model_says_nearly_what_the_wide_one_does(tied: bool, weights: str, tmp_path: Path) -> None:
    cfg = replace(SMALL, tie_embeddings=tied, attention_bias=True)
    wide = Transformer(cfg, 0)
    with torch.no_grad():
        for param in wide.parameters():
            param.add_(0.05 * torch.randn(param.shape, generator=torch.Generator().manual_seed(1)))
    save_model(tmp_path, wide)
    narrow, error = load_for_serving(tmp_path, weights)  # type: ignore[arg-type]
    tokens = torch.randint(0, 64, (4, 16), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        one, other = wide(tokens).log_softmax(-1), narrow(tokens).float().log_softmax(-1)
    assert 0 < float((one - other).abs().max()) < 0.2
    assert (0.001 < error < 0.01) == (weights == "int8")
    held = sum(x.nbytes for name, x in narrow.state_dict().items())
    matrices = count_params(cfg).total
    assert held < (2.05 if weights == "bfloat16" else 1.5) * matrices
    # And so does one that was in memory already.
    there = Transformer(cfg, 0)
    there.load_state_dict(wide.state_dict())
    assert narrowed(there, weights) == pytest.approx(error, rel=0.02)  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(there(tokens), narrow(tokens))


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_narrow_model_generates_as_its_own_passes_say(weights: str) -> None:
    model = Transformer(SMALL, 3)
    narrowed(model, weights)  # type: ignore[arg-type]
    assert isinstance(open_decoder(model, 2, 32), TorchDecoder)
    prompts = [[1, 2, 3, 4, 5], [7], [9, 8]]
    answers = generate(model, prompts, SamplingParams(max_tokens=8, temperature=0.0))
    for prompt, [answer] in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer.tokens]]))[0, len(prompt) - 1 : -1].float()
        best = logits.amax(-1) - logits[torch.arange(8), torch.tensor(answer.tokens)]
        assert float(best.max()) < 0.05  # ties within the rounding of bfloat16


def test_experts_are_not_put_into_8_bits(tmp_path: Path) -> None:
    save_model(tmp_path, Transformer(replace(SMALL, moe=MoEConfig(4, 1, 16)), 0))
    with pytest.raises(ValueError, match="for dense models"):
        load_for_serving(tmp_path, "int8")


def test_damaged_or_foreign_weights_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, Transformer(SMALL, 0))
    other = tmp_path / "other"
    other.mkdir()
    save_model(other, Transformer(replace(SMALL, d_ff=64), 0))
    (tmp_path / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    for weights in ("bfloat16", "int8"):
        with pytest.raises(ValueError, match="does not fit"):
            load_for_serving(tmp_path, weights)  # type: ignore[arg-type]
