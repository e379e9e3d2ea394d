"""GGUF files: the same logits as the model that was written, whatever the quantisation keeps of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_file import import_gguf, read_gguf_config
from components.model.hub.gguf_format import GGUFFile
from components.model.hub.imports import import_model, import_tokenizer
from components.model.hub.source import BaseConfig, Source, digests, locate
from components.model.rotary import rotary_frequencies
from components.model.transformer import Transformer

Write = Callable[..., Path]
BASE = ModelConfig(
    vocab_size=61, d_model=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=16, d_ff=96, context_length=64,
    qk_norm=False, norm_eps=1e-5, rope_theta=5e5,
)  # fmt: skip
EXPERTS = MoEConfig(4, 2, 32, normalize_top_k=True, load_balance_coef=0.001, router_z_coef=0.0)
MODELS: dict[str, tuple[str, ModelConfig]] = {
    "llama": ("llama", BASE),
    "llama, untied": ("llama", dataclasses.replace(BASE, tie_embeddings=False)),
    "llama, biased": ("llama", dataclasses.replace(BASE, attention_bias=True)),
    "mixtral": ("llama", dataclasses.replace(BASE, moe=EXPERTS, d_ff=32)),
    "qwen2": ("qwen2", dataclasses.replace(BASE, attention_bias=True)),
    "qwen3": ("qwen3", dataclasses.replace(BASE, qk_norm=True)),
    "qwen3moe": ("qwen3moe", dataclasses.replace(BASE, qk_norm=True, moe=EXPERTS, d_ff=32)),
}


def model_of(cfg: ModelConfig) -> Transformer:
    model = Transformer(cfg, 1).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * (0.3 if weight.dim() == 1 else 0.1))
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_the_model_that_was_written(name: str, tmp_path: Path, write_gguf: Write) -> None:
    arch, cfg = MODELS[name]
    model = model_of(cfg)
    found = import_model(Source(write_gguf(tmp_path / "m.gguf", model, arch)))
    assert found.cfg == cfg
    for key, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[key], tensor), key


# Largest error of a weight, in units of the largest of its block of 32: half a step of what the bits can tell apart.
STEPS = {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 254, "Q5_1": 1 / 31, "Q5_0": 1 / 16, "Q4_1": 1 / 15, "Q4_0": 1 / 8}


@pytest.mark.parametrize("kind", STEPS)
def test_quantised_matrices_come_back_within_half_a_step(kind: str, tmp_path: Path, write_gguf: Write) -> None:
    model = model_of(BASE)
    found = import_model(Source(write_gguf(tmp_path / "m.gguf", model, kind=kind))).state_dict()
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            assert torch.equal(found[name], tensor)
            continue
        blocks, error = tensor.view(-1, 32), (found[name] - tensor).view(-1, 32).abs()
        limit = STEPS[kind] + 2**-10  # the block's scale is itself rounded to 11 bits
        assert (error <= limit * blocks.abs().amax(1, keepdim=True) + 1e-6).all(), name
    assert not torch.equal(found["embedding.weight"], model.embedding.weight)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_read_in_place_and_in_order(kind: str, tmp_path: Path, write_gguf: Write) -> None:
    """No package quantises to these, so the file holds random blocks; values are those of the gguf package, read with
    its own reader."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    cfg = dataclasses.replace(BASE, d_model=256, head_dim=64, d_ff=256, num_layers=1)
    path = write_gguf(tmp_path / "m.gguf", model_of(cfg), kind=kind)
    theirs = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}
    found = import_model(Source(path)).state_dict()
    assert torch.equal(found["embedding.weight"], torch.from_numpy(theirs["token_embd.weight"]))
    ours = found["blocks.0.attention.qkv.weight"][:64]  # the first head of the queries
    first, second = ours[:32], ours[32:]
    expected = torch.from_numpy(theirs["blk.0.attn_q.weight"][:64])
    assert torch.equal(torch.stack([first, second], 1).flatten(0, 1), expected)


def test_stretched_positions(tmp_path: Path, write_gguf: Write) -> None:
    linear = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    path = write_gguf(tmp_path / "linear.gguf", model_of(BASE), fields=linear)
    assert read_gguf_config(GGUFFile(path)).rope_scaling == RopeScaling("linear", 4.0)
    yarn = {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    yarn |= {"llama.rope.scaling.original_context_length": 16, "llama.rope.scaling.yarn_beta_fast": 24.0}  # type: ignore[dict-item]
    path = write_gguf(tmp_path / "yarn.gguf", model_of(BASE), fields=yarn)
    assert read_gguf_config(GGUFFile(path)).rope_scaling == RopeScaling(
        "yarn", 4.0, original_context_length=16, beta_fast=24.0
    )
    scaling = RopeScaling("llama3", 32.0, 1.0, 4.0, 8192)
    lengthened = rotary_frequencies(BASE) / rotary_frequencies(dataclasses.replace(BASE, rope_scaling=scaling))
    factors = {"rope_freqs.weight": lengthened.numpy().astype(np.float32)}
    path = write_gguf(tmp_path / "llama3.gguf", model_of(BASE), extra=factors)
    assert import_model(Source(path)).cfg == dataclasses.replace(BASE, rope_scaling=scaling)
    factors["rope_freqs.weight"][2] += 0.5
    path = write_gguf(tmp_path / "other.gguf", model_of(BASE), extra=factors)
    with pytest.raises(UnsupportedModel, match=r"rope_freqs.weight is not what Llama 3.1"):
        read_gguf_config(GGUFFile(path))


def test_a_shorter_context_is_the_same_model(tmp_path: Path, write_gguf: Write, tokens: torch.Tensor) -> None:
    model = model_of(BASE)
    short = import_model(Source(write_gguf(tmp_path / "m.gguf", model)), context_length=32)
    assert (short.cfg.context_length, short.cos.shape[0]) == (32, 32)
    with torch.no_grad():
        torch.testing.assert_close(short(tokens), model(tokens))


@pytest.mark.parametrize(
    ("fields", "arch", "named"),
    [
        ({}, "gemma2", "general.architecture is 'gemma2': takes one of llama"),
        ({"llama.rope.dimension_count": 8}, "llama", "llama.rope.dimension_count is 8"),
        ({"llama.rope.scaling.type": "longrope"}, "llama", "llama.rope.scaling.type is 'longrope'"),
        ({"llama.rope.scaling.type": "yarn"}, "llama", "llama.rope.scaling.original_context_length is missing"),
        ({"llama.rope.scaling.yarn_log_multiplier": 0.1}, "llama", "llama.rope.scaling.yarn_log_multiplier is 0.1"),
        ({"llama.logit_scale": 2.0}, "llama", "llama.logit_scale is 2.0"),
        ({"llama.attention.head_count_kv": 3}, "llama", "num_kv_heads is 3"),
    ],
)
def test_what_would_be_another_model_is_refused(
    fields: dict[str, Any], arch: str, named: str, tmp_path: Path, write_gguf: Write
) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(BASE), arch)
    file = GGUFFile(path)
    file.metadata |= fields
    with pytest.raises(UnsupportedModel, match=named):
        read_gguf_config(file)


def test_a_tensor_more_or_less_is_named(tmp_path: Path, write_gguf: Write) -> None:
    bias = {"blk.1.attn_output.bias": np.zeros(64, np.float32)}
    path = write_gguf(tmp_path / "m.gguf", model_of(BASE), extra=bias)
    with pytest.raises(UnsupportedModel, match=r"blk.1.attn_output.bias has no place"):
        import_model(Source(path))
    file = GGUFFile(write_gguf(tmp_path / "n.gguf", model_of(BASE)))
    del file.tensors["blk.0.attn_k.weight"]
    with pytest.raises(UnsupportedModel, match=r"blk.0.attn_k.weight is missing"):
        import_gguf(file, BASE)


def test_a_damaged_file_is_told_from_a_model(tmp_path: Path, write_gguf: Write) -> None:
    whole = write_gguf(tmp_path / "m.gguf", model_of(BASE)).read_bytes()
    for number, content in enumerate((b"", b"no GGUF here" * 9, whole[:70], whole[:4] + b"\x09" + whole[5:])):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(content)
        with pytest.raises(UnsupportedModel, match="not a GGUF file, or damaged"):
            GGUFFile(path)
    rows = whole.index(b"token_embd.weight") + len(b"token_embd.weight") + 12  # behind the number of axes and the first
    path = tmp_path / "tall.gguf"
    path.write_bytes(whole[:rows] + (1 << 30).to_bytes(8, "little") + whole[rows + 8 :])
    with pytest.raises(UnsupportedModel, match=r"token_embd.weight has the shape .* more than the file has bits"):
        GGUFFile(path)
    path = tmp_path / "cut.gguf"
    path.write_bytes(whole[:-400])
    with pytest.raises(UnsupportedModel, match="does not fit into the file"):
        import_model(Source(path))


# -- tokenizers -------------------------------------------------------------------------------------------------------

PIECES = ["▁", "▁t", "he", "▁the", "t", "h", "e", "a", "▁a", "at", "▁cat", "c", "b", "▁b", "▁bat", "hat", "▁th"]
RANKS = [17, 2, 1, 6, 18, 19, 20, 21, 3, 4, 10, 22, 23, 5, 9, 8, 7]
SENTENCE_PIECE: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES],
    "tokenizer.ggml.scores": [0.0] * 259 + [-float(rank) for rank in RANKS],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(PIECES)],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}  # fmt: skip


def best_merges(text: str) -> list[str]:
    """SentencePiece's BPE by its definition (Kudo & Richardson 2018): merge the neighbours whose union scores best."""
    scores = dict(zip(SENTENCE_PIECE["tokenizer.ggml.tokens"], SENTENCE_PIECE["tokenizer.ggml.scores"], strict=True))
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        unions = [(scores[a + b], -i) for i, (a, b) in enumerate(pairwise(pieces)) if a + b in scores]
        if not unions:
            return pieces
        at = -max(unions)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def test_sentence_piece_merges_by_score_and_falls_back_to_bytes(tmp_path: Path, write_gguf: Write) -> None:
    cfg = dataclasses.replace(BASE, vocab_size=300)
    path = write_gguf(tmp_path / "m.gguf", model_of(cfg), fields=SENTENCE_PIECE)
    tokenizer = import_tokenizer(Source(path))
    for text in ("the bat", "that hat", "a cat the hat", "atheaththe tat", "b"):
        ids = tokenizer.encode(text)
        assert [tokenizer.backend.id_to_token(i) for i in ids] == best_merges(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("é")[-2:] == [3 + 0xC3, 3 + 0xA9]
    for text in ("é\n", "the <s> hat", "", " two  spaces", "日本"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.bytes_of(tokenizer.encode(text)) == len(text.encode()) + 1 if text else True
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.end_id, tokenizer.vocab_size) == (1, 2, 2, 300)
    assert tokenizer.decode([299]) == ""  # a row of the embedding that no text has
    path = write_gguf(tmp_path / "n.gguf", model_of(cfg), fields={**SENTENCE_PIECE, "tokenizer.ggml.eot_token_id": 1})
    assert import_tokenizer(Source(path)).stop_ids == {1, 2}  # an end of turn beside that of a text


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model is 'bert': takes gpt2 or llama"),
        ({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "chameleon"}, "tokenizer.ggml.pre is 'chameleon'"),
        ({"tokenizer.ggml.eos_token_id": 100_000}, "eos_token_id is missing"),
    ],
)
def test_a_tokenizer_of_another_kind_is_named(
    fields: dict[str, Any], named: str, tmp_path: Path, write_gguf: Write
) -> None:
    cfg = dataclasses.replace(BASE, vocab_size=300)
    path = write_gguf(tmp_path / "m.gguf", model_of(cfg), fields=SENTENCE_PIECE | fields)
    with pytest.raises(UnsupportedModel, match=named):
        import_tokenizer(Source(path))


def test_ids_without_an_embedding_are_found_before_a_run_finds_them(tmp_path: Path, write_gguf: Write) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(BASE), fields=SENTENCE_PIECE)
    with pytest.raises(UnsupportedModel, match=r"last id is 275.*the model has 61 embeddings"):
        import_tokenizer(Source(path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "llama, untied", "qwen2", "qwen3"])
def test_transformers_reads_the_same_model_from_the_file(
    name: str, tmp_path: Path, write_gguf: Write, tokens: torch.Tensor
) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    arch, cfg = MODELS[name]
    head_dim = 128 if name == "qwen3" else 16  # transformers does not read another one for Qwen3
    cfg = dataclasses.replace(cfg, vocab_size=300, head_dim=head_dim)
    for kind in ("F32", "Q8_0"):
        path = write_gguf(
            tmp_path / f"{kind}.gguf", model_of(cfg), arch, kind, SENTENCE_PIECE | {f"{arch}.vocab_size": 300}
        )
        reference = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name).eval()
        with torch.no_grad():
            expected, found = reference(tokens).logits, import_model(Source(path))(tokens)
        assert expected.abs().max() > 0.5
        assert (expected - found).abs().max() <= 1e-4


def test_a_split_model_is_read_by_its_folder_or_any_of_its_files(tmp_path: Path, write_gguf: Write) -> None:
    model = model_of(BASE)
    whole = write_gguf(tmp_path / "whole.gguf", model)
    folder = tmp_path / "split"
    folder.mkdir()
    names = [f"m-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    for number, name in enumerate(names):
        write_part(whole, folder / name, number, len(names))
    for place in (folder, *(folder / name for name in names)):
        source = locate(str(place))
        assert source.path == folder / names[0]
        found = import_model(source)
        assert found.cfg == BASE
        for key, tensor in model.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor), key
    assert set(digests(BaseConfig(str(folder)))) == set(names)
    (folder / names[1]).rename(folder / "kept")
    for place in (folder, folder / names[2]):
        with pytest.raises(UnsupportedModel, match=r"one of 3 split files, and m-00002-of-00003.gguf is not beside it"):
            locate(str(place))
    (folder / "kept").rename(folder / "other.gguf")
    with pytest.raises(UnsupportedModel, match=r"split file 1 \(from 0\) of 3, which its name does not say"):
        GGUFFile(folder / "other.gguf")
    (folder / names[0]).rename(folder / names[1])
    write_part(whole, folder / names[0], 0, 3)
    with pytest.raises(
        UnsupportedModel, match=r"m-00002-of-00003.gguf: not a GGUF file, or damaged: token_embd.weight is there"
    ):
        GGUFFile(folder / names[0])


def write_part(whole: Path, path: Path, number: int, count: int) -> None:
    """Every `count`-th tensor of a file, as llama.cpp's gguf-split writes them: metadata in the first part alone."""
    from gguf import GGUFReader, GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.kv_data[0].clear()  # even the architecture is in the first part alone
    reader = GGUFReader(whole)
    if number == 0:
        for name, read in reader.fields.items():
            if not name.startswith("GGUF."):
                writer.add_key_value(name, read.contents(), read.types[0])
    writer.add_uint16("split.no", number)
    writer.add_uint16("split.count", count)
    writer.add_int32("split.tensors.count", len(reader.tensors))
    for tensor in reader.tensors[number::count]:
        writer.add_tensor(tensor.name, np.asarray(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("kind", "advice"), [("adapter", "merge it into its base model first"), ("imatrix", "own file")]
)
def test_a_file_that_is_no_whole_model_is_refused_by_name(
    kind: str, advice: str, tmp_path: Path, write_gguf: Write
) -> None:
    path = write_gguf(tmp_path / "m.gguf", model_of(BASE), fields={"general.type": kind})
    for read in (import_model, import_tokenizer):
        with pytest.raises(UnsupportedModel, match=f"general.type is '{kind}', which is no whole model: .*{advice}"):
            read(Source(path))
