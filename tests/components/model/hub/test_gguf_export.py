"""GGUF files out: what is read back is what was written, and llama.cpp and transformers say the same tokens."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from components.data.tokenizer import Tokenizer
from components.data.vocabulary import Conventions
from components.inference.engine import generate
from components.inference.sampling import SamplingParams
from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_export import export_gguf
from components.model.hub.gguf_format import GGUFFile
from components.model.hub.imports import import_model, import_tokenizer
from components.model.hub.source import Source
from components.model.transformer import Transformer

TEXT = "the cat sat on the mat: 12+34=46; naïve 日本, don't (a) b!\n"
BASE = ModelConfig(
    vocab_size=320, d_model=64, num_layers=4, num_heads=4, num_kv_heads=2, head_dim=32, d_ff=96, context_length=128,
    qk_norm=False, norm_eps=1e-5, rope_theta=5e5,
)  # fmt: skip
EXPERTS = MoEConfig(4, 2, 32, normalize_top_k=True, load_balance_coef=0.001, router_z_coef=0.0)
OURS: dict[str, ModelConfig] = {
    "llama": BASE,
    "llama, untied": dataclasses.replace(BASE, tie_embeddings=False),
    "llama, linear": dataclasses.replace(BASE, rope_scaling=RopeScaling("linear", 4.0)),
    "llama, llama3": dataclasses.replace(BASE, rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)),
    "llama, yarn": dataclasses.replace(BASE, rope_scaling=RopeScaling("yarn", 4.0, original_context_length=32)),
    "mixtral": dataclasses.replace(BASE, moe=EXPERTS, d_ff=32),
    "qwen2": dataclasses.replace(BASE, head_dim=16, attention_bias=True),
    "qwen3": dataclasses.replace(BASE, qk_norm=True),
    "qwen3moe": dataclasses.replace(BASE, qk_norm=True, moe=EXPERTS, d_ff=32),
    "olmo2": dataclasses.replace(
        BASE, head_dim=16, qk_norm=True, qk_norm_over="all_heads", norm_placement="after", tie_embeddings=False
    ),
    "smollm3": dataclasses.replace(BASE, nope_layers=(3,)),
    "granite": dataclasses.replace(
        BASE, head_dim=16, attention_scale=0.2, embedding_scale=3.0, residual_scale=0.4, logit_divisor=2.3
    ),
}


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return Tokenizer.train([TEXT] * 50, 320)


def model_of(cfg: ModelConfig, words: Tokenizer) -> Transformer:
    model = Transformer(dataclasses.replace(cfg, vocab_size=words.vocab_size), 1).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * (0.3 if weight.dim() == 1 else 0.1))
    return model


def written(path: Path, model: Transformer, words: Tokenizer | None, dtype: Any = "f32") -> Path:
    export_gguf(path, model.cfg, model.state_dict(), words, dtype, "a model")
    return path


@pytest.mark.parametrize("name", OURS)
def test_what_is_written_is_read_back_bit_for_bit(name: str, tmp_path: Path, words: Tokenizer) -> None:
    model = model_of(OURS[name], words)
    path = written(tmp_path / "m.gguf", model, words)
    file = GGUFFile(path)
    assert file.get("general.architecture") == {"mixtral": "llama"}.get(name, name.split(",")[0])
    back = import_model(Source(path))
    for key, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key
    ids = torch.tensor([words.encode(TEXT)[:24]])
    with torch.no_grad():
        torch.testing.assert_close(back(ids), model(ids))
    found = import_tokenizer(Source(path))
    assert found.encode(TEXT) == words.encode(TEXT)
    turns = [{"role": "user", "content": "12+34"}, {"role": "assistant", "content": "46"}]
    assert found.render_chat(turns) == words.render_chat(turns)
    assert (found.eos_id, found.end_id, found.bos_id) == (words.eos_id, words.end_id, words.bos_id)


@pytest.mark.parametrize(("dtype", "step"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 1 / 254)])
def test_matrices_are_rounded_as_asked_and_vectors_are_not(
    dtype: str, step: float, tmp_path: Path, words: Tokenizer
) -> None:
    model = model_of(OURS["qwen3moe"], words)
    found = import_model(Source(written(tmp_path / "m.gguf", model, words, dtype))).state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1 or name.endswith("router.weight"):
            assert torch.equal(found[name], tensor), name
            continue
        blocks, error = tensor.reshape(-1, 32), (found[name] - tensor).reshape(-1, 32).abs()
        assert (error <= (step + 2**-10) * blocks.abs().amax(1, keepdim=True) + 1e-6).all(), name
    assert not torch.equal(found["embedding.weight"], model.embedding.weight)


def test_tied_embeddings_are_written_twice_where_llama_cpp_wants_them_twice(tmp_path: Path, words: Tokenizer) -> None:
    model = model_of(dataclasses.replace(OURS["olmo2"], tie_embeddings=True), words)
    back = import_model(Source(written(tmp_path / "m.gguf", model, words)))
    ids = torch.tensor([words.encode(TEXT)[:24]])
    with torch.no_grad():
        torch.testing.assert_close(back(ids), model(ids))


def test_rows_that_no_block_divides_are_not_lost(tmp_path: Path, words: Tokenizer) -> None:
    model = model_of(dataclasses.replace(BASE, d_ff=40), words)
    found = import_model(Source(written(tmp_path / "m.gguf", model, words, "q8_0"))).state_dict()
    down = "blocks.0.mlp.down.weight"
    torch.testing.assert_close(found[down], model.state_dict()[down], rtol=2**-10, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention_bias": True}, "model.(head_dim is 32|attention_bias is True): no layout"),
        ({"attention_bias": True, "qk_norm": True}, "model.attention_bias is True: no layout"),
        ({"sliding_window": 8}, "model.sliding_window is 8, which llama.cpp does not compute"),
        ({"logit_softcap": 30.0}, "model.logit_softcap is 30.0"),
        ({"nope_layers": (1,)}, r"model.nope_layers is \(1,\): no layout of GGUF"),
        ({"norm_placement": "after"}, "model.norm_placement is 'after'|model.qk_norm"),
        ({"moe": MoEConfig(4, 2, 32), "qk_norm": True}, "model.moe.normalize_top_k is False"),
        ({"moe": dataclasses.replace(EXPERTS, shared_d_ff=32, shared_gate=True)}, "model.moe.shared_d_ff is 32"),
        ({"moe": dataclasses.replace(EXPERTS, first_dense=1), "qk_norm": True}, "model.moe.first_dense is 1"),
        ({"rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16)}, "rope_freqs.weight"),
        ({"rope_scaling": RopeScaling("yarn", 4.0, attention_factor=1.5)}, "model.rope_scaling"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_before_it_is_there(
    changes: dict[str, Any], named: str, tmp_path: Path, words: Tokenizer
) -> None:
    model = model_of(dataclasses.replace(BASE, **changes), words)
    with pytest.raises(UnsupportedModel, match=named):
        written(tmp_path / "m.gguf", model, words)
    assert not list(tmp_path.iterdir())


# -- tokenizers of others ---------------------------------------------------------------------------------------------


def byte_level(pre: str) -> tokenizers.Tokenizer:
    from components.model.hub.gguf_tokenizer import _split

    backend = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(_split(pre) or [])
    backend.normalizer = normalizers.NFC() if pre == "qwen2" else None
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT] * 50, trainer)
    backend.add_tokens([AddedToken("<tool>", normalized=False)])
    return backend


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_a_tokenizer_of_another_model_goes_along(pre: str, tmp_path: Path) -> None:
    backend = byte_level(pre)
    bos = backend.token_to_id("<s>")
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    template = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    words = Tokenizer(backend, Conventions({"bos_token": "<s>", "eos_token": "</s>"}, template, 320))
    path = written(tmp_path / "m.gguf", model_of(BASE, words), words)
    assert GGUFFile(path).get("tokenizer.ggml.pre") == pre
    found = import_tokenizer(Source(path))
    for text in (TEXT, "2024 is  a\n\nyear", "é", "", "<tool> <s>"):
        assert found.encode_prompt(text) == words.encode_prompt(text)
    assert found.stop_ids == words.stop_ids and found.special_ids == words.special_ids
    assert found.chat_template == template and found.vocab_size == 320


def test_a_tokenizer_that_no_name_describes_is_refused(tmp_path: Path) -> None:
    backend = byte_level("gpt-2")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("a", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    words = Tokenizer(backend, Conventions({"eos_token": "</s>"}))
    with pytest.raises(UnsupportedModel, match="cuts text in a way that GGUF has no name for"):
        written(tmp_path / "m.gguf", model_of(BASE, words), words)


def sentence_piece() -> tokenizers.Tokenizer:
    """Merges that follow from a score a token, as conversions of SentencePiece have them."""
    from components.model.hub.gguf_tokenizer import merges_by_score

    pieces = ["▁", "▁t", "he", "▁the", "t", "h", "e", "a", "▁a", "at", "▁cat", "c", "b", "hat", "▁th"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    types = [2, 3, 3, *[6] * 256, *[1] * len(pieces)]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = merges_by_score(tokens, [-float(i) for i in range(len(tokens))], types, vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "</s>")])
    return backend


def test_a_sentence_piece_tokenizer_goes_along(tmp_path: Path) -> None:
    words = Tokenizer(sentence_piece(), Conventions({"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))
    path = written(tmp_path / "m.gguf", model_of(BASE, words), words)
    assert GGUFFile(path).get("tokenizer.ggml.model") == "llama"
    found = import_tokenizer(Source(path))
    for text in ("the cat", "a hat at the bat", "é\n", " two  spaces"):
        assert found.encode(text) == words.encode(text)


# -- others as the judge ----------------------------------------------------------------------------------------------


def greedy(model: Transformer, prompt: list[int], count: int = 40) -> list[int]:
    return generate(model, [prompt], SamplingParams(max_tokens=count, temperature=0.0))[0][0].tokens


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f32", "f16", "q8_0"])
@pytest.mark.parametrize("name", OURS)
def test_llama_cpp_says_the_same_tokens(name: str, dtype: str, tmp_path: Path, words: Tokenizer) -> None:
    """Of the model as the file has it: llama.cpp computes with what was rounded, so our own import does, too."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="built from the sdist of llama-cpp-python")
    path = written(tmp_path / "m.gguf", model_of(OURS[name], words), words, dtype)
    model = import_model(Source(path))
    judge = llama_cpp.Llama(
        str(path), n_ctx=128, n_batch=64, type_k=0, type_v=0, verbose=False, logits_all=True, n_threads=1
    )
    for text in (TEXT, "  a=b;\n the 7!", "'s dog"):
        ids = words.encode(text)
        assert judge.tokenize(text.encode(), add_bos=True, special=False) == ids
        with torch.no_grad():
            expected = model(torch.tensor([ids]))[0]
        judge.reset()
        judge.eval(ids)
        theirs = torch.from_numpy(np.array(judge.scores[: len(ids)]))
        assert expected.abs().max() > 0.5
        if dtype == "f32":
            assert (expected - theirs).abs().max() <= 2e-4
        # With matrices of fewer bits llama.cpp rounds what they are multiplied with, too.
        share = {"f32": 1e-5, "f16": 5e-3, "q8_0": 8e-2}[dtype]
        if model.cfg.moe is not None and dtype != "f32":
            share *= 4  # a token whose experts are near a tie may go to others
        assert (expected - theirs).norm() <= share * expected.norm()
        if dtype == "f32":
            judge.reset()
            said = []
            for token in judge.generate(ids, temp=0.0, repeat_penalty=1.0):
                said.append(token)
                if len(said) == 40:
                    break
            assert said == greedy(model, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "llama, untied", "qwen2", "qwen3", "qwen3moe"])
def test_transformers_reads_the_same_model(name: str, tmp_path: Path, words: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    # What transformers takes for Qwen3 whatever the file says.
    other = {"qwen3": {"head_dim": 128}, "qwen3moe": {"head_dim": 128, "moe": dataclasses.replace(EXPERTS, d_ff=768)}}
    cfg = dataclasses.replace(OURS[name], **{"head_dim": 16} | other.get(name, {}))
    model = model_of(cfg, words)
    written(tmp_path / "m.gguf", model, words)
    reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
    ids = words.encode(TEXT)[:30]
    with torch.no_grad():
        assert (reference(torch.tensor([ids])).logits[0] - model(torch.tensor([ids]))[0]).abs().max() <= 1e-4
    prompt = torch.tensor([ids])
    said = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    assert said[0, len(ids) :].tolist() == greedy(model, ids, 30)


def test_the_metadata_are_those_that_llama_cpp_asks_for(tmp_path: Path, words: Tokenizer) -> None:
    path = written(tmp_path / "m.gguf", model_of(OURS["qwen3"], words), words, "q8_0")
    file = GGUFFile(path)
    assert file.get("general.file_type") == 7 and file.get("general.name") == "a model"
    assert file.get("tokenizer.ggml.eot_token_id") == words.end_id
    assert file.get("tokenizer.ggml.add_bos_token") is False
    assert len(file.get("tokenizer.ggml.tokens")) == words.vocab_size
    assert json.loads(json.dumps(file.get("tokenizer.ggml.merges")))[0].count(" ") == 1
