"""Folders in Hugging Face's layout: there and back without a bit lost, clear refusals, transformers as the judge."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.hub.errors import UnsupportedModel
from components.model.hub.folder import export_folder, import_folder
from components.model.hub.imports import import_tokenizer
from components.model.hub.source import locate
from components.model.transformer import Transformer

BASE = ModelConfig(
    vocab_size=61, d_model=32, num_layers=2, num_heads=4, num_kv_heads=2, d_ff=48, context_length=64, qk_norm=False
)
LLAMA3 = RopeScaling("llama3", 8.0, 1.0, 4.0, 16)
EXPERTS = MoEConfig(4, 2, 24, normalize_top_k=True)
OURS: dict[str, ModelConfig] = {
    "llama": BASE,
    "llama, untied, wide heads, llama3": dataclasses.replace(
        BASE, tie_embeddings=False, head_dim=16, rope_scaling=LLAMA3, rope_theta=5e5, norm_eps=1e-5
    ),
    "llama, linear": dataclasses.replace(BASE, rope_scaling=RopeScaling("linear", 4.0)),
    "llama, yarn": dataclasses.replace(BASE, rope_scaling=RopeScaling("yarn", 4.0, original_context_length=16)),
    "mistral": dataclasses.replace(BASE, sliding_window=6, tie_embeddings=False),
    "mistral, heads that do not divide": dataclasses.replace(BASE, d_model=30, head_dim=8),
    "qwen2": dataclasses.replace(BASE, attention_bias=True, sliding_window=6),
    "qwen3": dataclasses.replace(BASE, qk_norm=True),
    "qwen3, window": dataclasses.replace(BASE, qk_norm=True, sliding_window=6, tie_embeddings=False),
    "mixtral": dataclasses.replace(BASE, moe=EXPERTS, sliding_window=6),
    "mixtral, softmax after": dataclasses.replace(BASE, moe=MoEConfig(4, 2, 24, softmax_after_top_k=True)),
    "qwen3_moe": dataclasses.replace(BASE, qk_norm=True, num_layers=3, moe=dataclasses.replace(EXPERTS, first_dense=1)),
    "qwen3_moe, plain gates": dataclasses.replace(BASE, qk_norm=True, moe=MoEConfig(4, 2, 24), sliding_window=6),
    "qwen2_moe": dataclasses.replace(
        BASE, attention_bias=True, moe=MoEConfig(4, 2, 24, shared_d_ff=20, shared_gate=True), tie_embeddings=False
    ),
    "olmo2": dataclasses.replace(
        BASE, qk_norm=True, qk_norm_over="all_heads", norm_placement="after", tie_embeddings=False
    ),
    "olmo2, llama3": dataclasses.replace(
        BASE, qk_norm=True, qk_norm_over="all_heads", norm_placement="after", rope_scaling=LLAMA3
    ),
    "smollm3": dataclasses.replace(BASE, num_layers=5, nope_layers=(1, 3)),
    "smollm3, every layer a window": dataclasses.replace(BASE, num_layers=2, nope_layers=(0, 1), sliding_window=6),
    "granite": dataclasses.replace(
        BASE, attention_scale=0.2, embedding_scale=3.0, residual_scale=0.4, logit_divisor=2.3
    ),
}


def model_of(cfg: ModelConfig, seed: int = 0) -> Transformer:
    """Weights large enough that every one of them shows in the logits, biases and norms among them."""
    model = Transformer(cfg, seed).eval()
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(torch.randn(weight.shape, generator=draw) * (0.3 if weight.dim() == 1 else 0.15))
            if name.endswith("router.weight"):
                weight.mul_(3)
    return model


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 61, (2, 40), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", OURS)
def test_a_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = model_of(OURS[name])
    export_folder(tmp_path, model.cfg, model.state_dict())
    back = import_folder(tmp_path)
    assert back.cfg == model.cfg
    assert back.state_dict().keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key
    with torch.no_grad():
        assert torch.equal(back(tokens()), model(tokens()))


def test_a_file_in_bf16_becomes_float32_or_stays(tmp_path: Path) -> None:
    model = model_of(OURS["qwen3_moe"]).bfloat16()
    export_folder(tmp_path, model.cfg, model.state_dict())
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    for dtype in (torch.float32, torch.bfloat16):
        back = import_folder(tmp_path, dtype).state_dict()
        for key, tensor in model.state_dict().items():
            assert back[key].dtype == dtype
            assert torch.equal(back[key], tensor.to(dtype))


def changed(folder: Path, **config: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))


def without(folder: Path, name: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors")


def with_tensor(folder: Path, name: str, tensor: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {name: tensor}, folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: there is no such file"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: not JSON"),
    "no object": (lambda f: (f / "config.json").write_text("[]"), "takes a JSON object, found a list"),
    "nested without end": (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json: not JSON"),
    "an index nested without end": (
        lambda f: (f / "model.safetensors.index.json").write_text("[" * 100_000),
        "it has no weight_map",
    ),
    "more words than memory": (lambda f: changed(f, vocab_size=10**15), "such a configuration cannot be built here"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no model.safetensors and no"),
    "torn weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "model.safetensors: not a safetensors file, or damaged",
    ),
    "a tensor less": (lambda f: without(f, "model.norm.weight"), "the tensor model.norm.weight is missing"),
    "a bias more": (
        lambda f: with_tensor(f, "model.layers.0.self_attn.o_proj.bias", torch.zeros(32)),
        "o_proj.bias has no place in the model",
    ),
    "another width": (lambda f: changed(f, intermediate_size=40), r"gate_proj.weight has the shape \[48, 32\].*40, 32"),
    "a billion layers": (lambda f: changed(f, num_hidden_layers=10**9), r"model.layers.\d+.* is missing"),
    "a context of billions": (
        lambda f: changed(f, max_position_embeddings=10**9),
        "the context_length is 1,000,000,000 tokens",
    ),
    "integers": (
        lambda f: with_tensor(f, "model.norm.weight", torch.zeros(32, dtype=torch.int8)),
        "model.norm.weight is stored as int8",
    ),
    "another head": (
        lambda f: with_tensor(f, "lm_head.weight", torch.zeros(61, 32)),
        "tie_word_embeddings is true, yet lm_head.weight is not",
    ),
    "shard outside": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}'),
        "lies outside the folder",
    ),
    "shard missing": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "x.safetensors"}}'),
        "x.safetensors: this shard is listed",
    ),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_folder_that_is_not_a_model_says_why(what: str, tmp_path: Path) -> None:
    model = model_of(BASE)
    export_folder(tmp_path, model.cfg, model.state_dict())
    damage, message = DAMAGE[what]
    damage(tmp_path)
    with pytest.raises(UnsupportedModel, match=message):
        import_folder(tmp_path)


def test_an_id_far_beyond_the_embeddings_is_refused_before_room_is_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.train(["the cat sat"], 280)
    model = model_of(dataclasses.replace(BASE, vocab_size=tokenizer.vocab_size))
    export_folder(tmp_path, model.cfg, model.state_dict(), tokenizer)
    file = tmp_path / "tokenizer.json"
    raw = json.loads(file.read_text())
    raw["model"]["vocab"]["a"] = 10**6  # 10**9 would be a table of as many rows
    file.write_text(json.dumps(raw))

    def byte_lengths(_: Tokenizer) -> Any:
        raise AssertionError("a row for every id is being made")

    monkeypatch.setattr(Tokenizer, "byte_lengths", property(byte_lengths))
    with pytest.raises(UnsupportedModel, match=r"the tokenizer's last id is 1000000 \('a'\), but the model has"):
        import_tokenizer(locate(str(tmp_path)))


def test_a_pickle_is_named_and_not_opened(tmp_path: Path) -> None:
    model = model_of(BASE)
    export_folder(tmp_path, model.cfg, model.state_dict())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model.bin is a pickle, which is never opened"):
        import_folder(tmp_path)


def test_nothing_is_written_of_a_model_that_no_layout_holds(tmp_path: Path) -> None:
    model = Transformer(dataclasses.replace(BASE, logit_softcap=3.0))
    with pytest.raises(UnsupportedModel, match="logit_softcap"):
        export_folder(tmp_path, model.cfg, model.state_dict())
    assert not list(tmp_path.iterdir())


# -- transformers as the judge ----------------------------------------------------------------------------------------


def theirs(transformers: Any) -> dict[str, Any]:
    """A tiny random config of every architecture, as transformers makes it."""
    base: dict[str, Any] = {
        "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    padded = {**base, "pad_token_id": 0}
    llama3 = {
        "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    linear = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    yarn = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
    experts: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_experts": 5}
    t = transformers
    return {
        "llama": t.LlamaConfig(**base),
        "llama, tied, llama3": t.LlamaConfig(**base, tie_word_embeddings=True, head_dim=16, rope_parameters=llama3),
        "llama, linear": t.LlamaConfig(**base, rope_parameters=linear),
        "mistral": t.MistralConfig(**base, sliding_window=7),
        "mistral, no window": t.MistralConfig(**base, sliding_window=None),
        "qwen2": t.Qwen2Config(**base),
        "qwen2, window": t.Qwen2Config(**base, use_sliding_window=True, sliding_window=5, max_window_layers=0),
        "qwen3": t.Qwen3Config(**base, head_dim=16),
        "qwen3, yarn": t.Qwen3Config(**base, head_dim=16, rope_parameters={**yarn, "beta_fast": 2.0, "beta_slow": 0.5}),
        "mixtral": t.MixtralConfig(**base, num_local_experts=4, num_experts_per_tok=2, sliding_window=9),
        "qwen3_moe": t.Qwen3MoeConfig(**base, **experts, head_dim=16, norm_topk_prob=True, mlp_only_layers=[0]),
        "qwen3_moe, plain gates": t.Qwen3MoeConfig(**base, **experts, norm_topk_prob=False),
        "qwen2_moe": t.Qwen2MoeConfig(**base, **experts, shared_expert_intermediate_size=20),
        "olmo2": t.Olmo2Config(**base),
        "olmo2, tied, yarn": t.Olmo2Config(**base, tie_word_embeddings=True, rope_parameters=yarn),
        "smollm3": t.SmolLM3Config(**padded | {"num_hidden_layers": 5}),
        "smollm3, interval": t.SmolLM3Config(**padded, no_rope_layer_interval=2, tie_word_embeddings=False),
        "smollm3, layers": t.SmolLM3Config(**padded, no_rope_layers=[0, 1, 0], rope_parameters=linear),
        "phi3": t.Phi3Config(**padded),
        "phi3, window": t.Phi3Config(**padded, sliding_window=7, tie_word_embeddings=True),
        "granite": t.GraniteConfig(
            **base, attention_multiplier=0.2, embedding_multiplier=3.0, residual_multiplier=0.4, logits_scaling=2.0
        ),
        "granite, defaults": t.GraniteConfig(**base, tie_word_embeddings=True),
    }  # fmt: skip


def agree(reference: Any, model: Transformer, greedily: bool = True) -> None:
    """The same logits, and the same greedy tokens by each one's own generation."""
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams

    x = tokens()
    with torch.no_grad():
        expected, found = reference(x).logits, model(x)
    assert expected.abs().max() > 0.5
    assert (expected - found).abs().max() <= 1e-4
    if not greedily:
        return
    prompt = x[:1, :12]
    greedy = reference.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=30, eos_token_id=None,
        pad_token_id=0,
    )  # fmt: skip
    ours = generate(model, prompt.tolist(), SamplingParams(max_tokens=30, temperature=0.0))[0][0]
    assert ours.tokens == greedy[0, 12:].tolist()


@pytest.mark.slow
def test_models_of_transformers_are_read_from_every_form_that_it_writes(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    for name, config in theirs(transformers).items():
        torch.manual_seed(0)
        reference = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        with torch.no_grad():
            for parameter in reference.parameters():
                parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.15))
        for shard_size in ("5GB", "20KB"):
            for published in (True, False):  # experts apart under the published names, or stacked
                folder = tmp_path / f"{name} {shard_size} {published}"
                reference.save_pretrained(folder, max_shard_size=shard_size, save_original_format=published)
                assert len(list(folder.glob("*.safetensors"))) > (shard_size == "20KB")
                agree(reference, import_folder(folder), greedily=published and shard_size == "5GB")


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_transformers_loads_what_is_exported(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    model = model_of(OURS[name])
    export_folder(tmp_path, model.cfg, model.state_dict())
    reference, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert reference.config.model_type == name.split(",")[0]
    agree(reference.eval(), model)


@pytest.mark.slow
def test_a_file_of_the_older_names_alone_is_the_same_model_to_both(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    model = model_of(OURS["llama, untied, wide heads, llama3"])
    export_folder(tmp_path, model.cfg, model.state_dict())
    raw = json.loads((tmp_path / "config.json").read_text())
    for newer in ("rope_parameters", "lifespan"):
        del raw[newer]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    agree(transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval(), import_folder(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "mistral", "qwen2", "qwen3", "mixtral", "qwen3_moe", "qwen2_moe", "olmo2", "smollm3", "granite"]
)
def test_the_tokenizer_goes_along(name: str, tmp_path: Path) -> None:
    """The same ids for text, the same rendered chat, and the end of a turn ends a generation."""
    transformers = pytest.importorskip("transformers", reason="the extra `peers` brings transformers")
    tokenizer = Tokenizer.train(["the cat sat: 12+34=46; naïve 日本\n"] * 50, 320)
    model = model_of(dataclasses.replace(OURS[name], vocab_size=tokenizer.vocab_size))
    export_folder(tmp_path, model.cfg, model.state_dict(), tokenizer)
    reference = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the cat sat 12+34=46;", "  a=b>=(x);y \t\n z<>|12 ", "日本 naïve 🙂\n\n x", "", "it's CAN'T"):
        ids = tokenizer.encode(text)
        assert reference(text)["input_ids"] == ids
        assert reference.decode(ids) == text
    turns = [{"role": "user", "content": "12+34"}, {"role": "assistant", "content": "=46"}]
    assert reference.apply_chat_template(turns, return_dict=False) == tokenizer.render_chat(turns)[0]
    asked = reference.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert asked == tokenizer.render_chat(turns[:1], add_generation_prompt=True)[0]
    judge = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    agree(judge, model)
    assert judge.generation_config.eos_token_id == [tokenizer.end_id, tokenizer.eos_id]
    back = import_folder(tmp_path)
    assert back.cfg == model.cfg
    assert Tokenizer.load(tmp_path).render_chat(turns) == tokenizer.render_chat(turns)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    ("pointer", "told"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer.*`git lfs pull`"),
        ("/annex/objects/SHA256E-s9--00\n", "a git-annex pointer.*`git annex get"),
    ],
)
def test_a_pointer_in_place_of_a_file_is_told(name: str, pointer: str, told: str, tmp_path: Path) -> None:
    model = model_of(BASE)
    export_folder(tmp_path, model.cfg, model.state_dict())
    (tmp_path / name).write_text(pointer)
    with pytest.raises(UnsupportedModel, match=f"{name}: {told}"):
        locate(str(tmp_path))
    (tmp_path / "m.gguf").write_text(pointer)
    with pytest.raises(UnsupportedModel, match=f"m.gguf: {told}"):
        locate(str(tmp_path / "m.gguf"))


def test_a_template_that_renders_no_question_is_refused_at_import(tmp_path: Path) -> None:
    tokenizer = Tokenizer.train(["the cat sat\n"] * 50, 320)
    model = model_of(dataclasses.replace(BASE, vocab_size=tokenizer.vocab_size))
    export_folder(tmp_path, model.cfg, model.state_dict(), tokenizer)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<|user|>", "<|person|>"))  # so that it is nobody's but its own
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for template, fails in (
        ("{{ now() }}", True),
        ("{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}{{ messages }}", False),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        if fails:
            with pytest.raises(UnsupportedModel, match="'now' is undefined, which was one question of a user: mend"):
                import_tokenizer(locate(str(tmp_path)))
        else:
            import_tokenizer(locate(str(tmp_path)))
