"""Public configurations: counts that their authors state, refusals by name, and every config of ours there and back."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.model.config import ModelConfig, MoEConfig, RopeScaling, count_params
from components.model.hub.config_file import essence, read_config, write_config
from components.model.hub.errors import UnsupportedModel
from components.model.hub.folder import export_folder, import_folder
from components.model.transformer import Transformer

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
QWEN3_MOE: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "attention_bias": False,
    "decoder_sparse_step": 1,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "max_position_embeddings": 40960,
    "mlp_only_layers": [],
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# As published, with the totals of the safetensors metadata on the hub.
PUBLISHED: dict[str, tuple[dict[str, Any], int, int | None]] = {
    "Llama-3-8B": (LLAMA, 8_030_261_248, None),
    "Llama-2-7B": (
        {
            **LLAMA, "intermediate_size": 11008, "max_position_embeddings": 4096, "num_key_value_heads": 32,
            "vocab_size": 32000,
        }, 6_738_415_616, None,
    ),
    "Llama-2-70B": (
        {
            **LLAMA, "hidden_size": 8192, "intermediate_size": 28672, "max_position_embeddings": 4096,
            "num_attention_heads": 64, "num_hidden_layers": 80, "vocab_size": 32000,
        }, 68_976_648_192, None,
    ),
    "Llama-3.2-1B": (
        {
            **LLAMA, "hidden_size": 2048, "head_dim": 64, "intermediate_size": 8192, "num_hidden_layers": 16,
            "tie_word_embeddings": True,
            "rope_scaling": {
                "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
        }, 1_235_814_400, None,
    ),
    "Mixtral-8x7B": (
        {
            **LLAMA, "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "vocab_size": 32000,
            "num_local_experts": 8, "num_experts_per_tok": 2, "rope_theta": 1e6, "sliding_window": None,
        }, 46_702_792_704, 12_879_925_248,
    ),
    "Qwen3-30B-A3B": (QWEN3_MOE, 30_532_122_624, 3_353_032_704),
    "Qwen3-0.6B": (
        {
            "model_type": "qwen3", "hidden_size": 1024, "head_dim": 128, "intermediate_size": 3072,
            "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16,
            "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
            "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936, "hidden_act": "silu",
        }, 596_049_920, None,
    ),
    "Qwen2.5-0.5B": (
        {
            "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768,
            "max_window_layers": 24, "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
            "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": True,
            "use_sliding_window": False, "vocab_size": 151936, "hidden_act": "silu",
        }, 494_032_768, None,
    ),
    "Qwen1.5-MoE-A2.7B": (
        {
            "model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632, "decoder_sparse_step": 1,
            "max_position_embeddings": 8192, "max_window_layers": 21, "moe_intermediate_size": 1408,
            "norm_topk_prob": False, "num_attention_heads": 16, "num_experts": 60, "num_experts_per_tok": 4,
            "num_hidden_layers": 24, "num_key_value_heads": 16, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "shared_expert_intermediate_size": 5632, "sliding_window": 32768, "tie_word_embeddings": False,
            "use_sliding_window": False, "vocab_size": 151936, "hidden_act": "silu",
        }, 14_315_784_192, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_those_that_the_authors_state(name: str) -> None:
    raw, total, active = PUBLISHED[name]
    counts = count_params(read_config(raw))
    assert counts.total == total
    if active is not None:
        assert counts.active == active


def test_smollm2_as_its_config_is_published() -> None:
    """With the odd fields that it carries, none of which transformers reads."""
    cfg = read_config(
        {
            "_name_or_path": "x", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
            "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576,
            "initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": True,
            "max_position_embeddings": 8192, "mlp_bias": False, "model_type": "llama", "num_attention_heads": 9,
            "num_hidden_layers": 30, "num_key_value_heads": 3, "pad_token_id": 2, "pretraining_tp": 1,
            "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000,
            "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers.js_config": {"kv_cache_dtype": {}},
            "transformers_version": "4.42.3", "use_cache": True, "vocab_size": 49152,
        }
    )  # fmt: skip
    assert count_params(cfg).total == 134_515_008
    assert (cfg.rope_theta, cfg.norm_eps, cfg.per_head, cfg.context_length) == (1e5, 1e-5, 64, 8192)


def test_rotary_settings_of_both_generations_of_files() -> None:
    old = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    new = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}
    bare = {name: value for name, value in LLAMA.items() if not name.startswith("rope")}
    assert read_config({**bare, **old}) == read_config({**bare, **new})
    assert read_config({**bare, **new}).rope_scaling == RopeScaling("linear", 4.0)
    assert read_config(bare).rope_theta == 1e4
    assert read_config({**bare, "model_type": "mixtral"}).rope_theta == 1e6


def test_lengths_that_yarn_gives_to_queries_and_keys() -> None:
    def scaling(**given: Any) -> RopeScaling | None:
        yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048, **given}
        return read_config({**LLAMA, "rope_scaling": yarn}).rope_scaling

    assert scaling() == RopeScaling("yarn", 4.0, original_context_length=2048)
    assert scaling(attention_factor=1.0, beta_fast=16) == RopeScaling(
        "yarn", 4.0, original_context_length=2048, beta_fast=16.0, attention_factor=1.0
    )
    given = scaling(mscale=2.0, mscale_all_dim=0.5)  # as DeepSeek's files say it
    assert given is not None
    assert given.attention_factor == pytest.approx((0.2 * math.log(4) + 1) / (0.05 * math.log(4) + 1))


def test_what_a_window_means_in_each_layout() -> None:
    def window(**changes: Any) -> int:
        return read_config({**LLAMA, "architectures": None, **changes}).sliding_window

    assert window(sliding_window=100) == 0  # transformers' Llama has none
    assert window(model_type="mistral") == 4096  # absent: the default of the class
    assert window(model_type="mistral", sliding_window=None) == 0
    assert window(model_type="mistral", sliding_window=100) == 100
    assert window(model_type="qwen2", sliding_window=100) == 0
    assert window(model_type="qwen2", sliding_window=100, use_sliding_window=True, max_window_layers=0) == 100
    assert window(model_type="qwen2", sliding_window=100, use_sliding_window=True, max_window_layers=32) == 0


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "mixtral", "olmo2", "smollm3", "granite"])
def test_null_is_as_many_key_and_value_heads_as_heads_in_every_layout(model_type: str) -> None:
    raw = {**LLAMA, "architectures": None, "model_type": model_type, "num_key_value_heads": None}
    assert read_config(raw).kv_heads == 32
    optional = ("head_dim", "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "rope_theta")
    optional += ("tie_word_embeddings", "rms_norm_eps", "hidden_act", "no_rope_layers", "max_window_layers")
    for name in optional:
        read_config({**raw, name: None})
    switched = {**QWEN3_MOE, "use_sliding_window": True, "sliding_window": None}
    assert read_config(switched).sliding_window == 0


def test_dense_layers_that_come_first_are_read() -> None:
    assert read_config({**QWEN3_MOE, "mlp_only_layers": [0, 1, 2]}).moe == dataclasses.replace(
        read_config(QWEN3_MOE).moe or MoEConfig(), first_dense=3
    )
    assert read_config({**QWEN3_MOE, "num_experts": 0}).moe is None


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gemma3_text"}, "model_type is 'gemma3_text'.*llama, mistral, qwen2, qwen3"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"mlp_bias": True}, "mlp_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'.*silu"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, "rope_scaling.rope_type is 'dynamic'.*llama3"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4, "truncate": False}}, "rope_scaling: truncate is False"),
        ({"rope_theta": -1.0}, "rope_theta is -1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"model_type": ["llama"]}, "model_type is"),
        ({"layer_types": ["full_attention"]}, "layer_types is .*one for each of the 32 layers"),
        ({"architectures": 3}, "architectures is 3: takes a list of texts"),
        ({"layer_types": [1]}, r"layer_types is \[1\]: takes a list of texts"),
        ({**QWEN3_MOE, "mlp_only_layers": 3}, "mlp_only_layers is 3: takes a list of whole numbers"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "rope_scaling.factor is 0.5"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling.low_freq_factor is missing"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is"),
        ({"num_hidden_layers": None}, "num_hidden_layers is missing"),
        ({"hidden_size": "big"}, "hidden_size is 'big'"),
        ({"num_key_value_heads": 5}, "num_kv_heads is 5"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures is"),
        ({"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 4}, "max_window_layers is 4"),
        ({**QWEN3_MOE, "mlp_only_layers": [3]}, r"mlp_only_layers is \[3\]"),
        ({**QWEN3_MOE, "decoder_sparse_step": 2}, "decoder_sparse_step is 2"),
        ({**QWEN3_MOE, "num_experts_per_tok": 200}, "num_experts_per_tok is 200"),
        ({"no_rope_layers": [1] * 32}, "no_rope_layers is .*the llama layout"),
        ({"attention_multiplier": 0.1}, "attention_multiplier is 0.1"),
        (
            {"model_type": "smollm3", "no_rope_layers": [1, 0]},
            r"no_rope_layers is \[1, 0\]: takes one for",
        ),
        (
            {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 9},
            "sliding_window is 9: every",
        ),
        ({"model_type": "granite", "logits_scaling": 0}, "model.logit_divisor is 0.0"),
        ({"model_type": "granite", "mlp_bias": True}, "mlp_bias is True"),
        ({"model_type": "olmo2", "attention_bias": True}, "attention_bias is True"),
        ({"model_type": "phi3", "partial_rotary_factor": 0.75}, "partial_rotary_factor is 0.75"),
        (
            {"model_type": "phi3", "rope_scaling": {"type": "longrope", "short_factor": [1.0]}},
            "rope_scaling.rope_type is 'longrope': the phi3 layout is read with default",
        ),
    ],
)
def test_what_would_be_another_model_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"config.json: .*{named}"):
        read_config({**LLAMA, "architectures": None, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"attention_softcap": 50.0}, "model.attention_softcap is 50.0"),
        ({"logit_softcap": 30.0}, "model.logit_softcap is 30.0"),
        ({"attention_bias": True}, "model.attention_bias is True"),
        ({"moe": MoEConfig(4, 2, 32, shared_d_ff=16)}, "model.moe.shared_d_ff is 16"),
        ({"moe": MoEConfig(4, 2, 32, balance_bias_rate=0.1)}, "model.moe.balance_bias_rate is 0.1"),
        ({"qk_norm": False, "moe": MoEConfig(4, 2, 32)}, "model.moe.normalize_top_k is False"),
        (
            {"qk_norm": False, "moe": MoEConfig(4, 2, 32, normalize_top_k=True, first_dense=1)},
            "model.moe.first_dense is 1",
        ),
    ],
)
def test_what_no_layout_holds_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"{named}.*cannot be exported"):
        write_config(dataclasses.replace(ModelConfig(), **changes))


@st.composite
def exportable(draw: st.DrawFn) -> ModelConfig:
    """Configs of ours that some layout holds, of toy size, defaults and explicit values alike."""
    qk_norm, heads = draw(st.booleans()), draw(st.sampled_from([1, 2, 4]))
    shared = draw(st.sampled_from([0, 0, 16])) if not qk_norm else 0
    moe = None
    if draw(st.booleans()):
        experts = draw(st.integers(1, 4))
        after = draw(st.booleans())
        moe = MoEConfig(
            experts,
            draw(st.integers(1, experts)),
            draw(st.sampled_from([8, 16])),
            shared_d_ff=shared,
            shared_gate=bool(shared),
            first_dense=draw(st.integers(0, 3) if qk_norm or shared else st.sampled_from([0, 3])),  # 3: all of them
            softmax_after_top_k=after,
            normalize_top_k=draw(st.booleans()) if qk_norm or shared or after else True,
            load_balance_coef=draw(st.sampled_from([0.0, 0.01])),
            router_z_coef=draw(st.sampled_from([0.0, 0.001])),
        )
    scaling = draw(
        st.sampled_from(
            [
                None,
                RopeScaling("linear", 2.0, low_freq_factor=3.0),
                RopeScaling("llama3", 8.0, 1.0, 4.0, 16),
                RopeScaling("yarn", 4.0, 1.0, 4.0, 16),
                RopeScaling("yarn", 4.0, 3.0, 9.0, 16, 8.0, 2.0, 1.5),
            ]
        )
    )
    kind = draw(st.sampled_from(["plain", "plain", "olmo2", "smollm3", "granite"])) if moe is None else "plain"
    of_kind: dict[str, Any] = {}
    if kind == "olmo2":
        qk_norm, of_kind = True, {"norm_placement": "after", "qk_norm_over": "all_heads", "sliding_window": 0}
    elif kind == "smollm3":
        qk_norm, of_kind = False, {"nope_layers": (0,), "sliding_window": 0}
    elif kind == "granite":
        qk_norm, heads, factors = False, 2, st.sampled_from([0.3, 1.0, 3.0, 49.0])
        names = ("attention_scale", "embedding_scale", "residual_scale", "logit_divisor")
        of_kind = {"sliding_window": 0, **{name: draw(factors) for name in names}}
    biased = kind == "plain" and not qk_norm and (moe is None or bool(shared)) and draw(st.booleans())
    cfg = ModelConfig(
        vocab_size=draw(st.integers(1, 40)),
        d_model=draw(st.sampled_from([8, 24])),
        num_layers=draw(st.integers(1, 3)),
        num_heads=heads,
        num_kv_heads=draw(st.sampled_from([0, 1, heads])),
        head_dim=draw(st.sampled_from([0, 4, 6])) if heads < 4 else 4,
        d_ff=draw(st.sampled_from([0, 20])),
        context_length=draw(st.sampled_from([16, 64])),
        rope_theta=draw(st.sampled_from([1e4, 5e5])),
        rope_scaling=scaling,
        sliding_window=draw(st.sampled_from([0, 5])),
        qk_norm=qk_norm,
        attention_bias=biased,
        tie_embeddings=draw(st.booleans()),
        norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        moe=moe,
    )
    return dataclasses.replace(cfg, **of_kind)


@settings(max_examples=120, deadline=None)
@given(cfg=exportable())
def test_every_config_comes_back_as_it_went(cfg: ModelConfig) -> None:
    raw = json.loads(json.dumps(write_config(cfg)))
    assert read_config(raw) == cfg
    public = read_config({name: value for name, value in raw.items() if name != "lifespan"})
    assert count_params(public) == count_params(cfg)
    assert essence(public) == essence(cfg)


def test_a_damaged_number_of_layers_of_ours_takes_no_time() -> None:
    raw = write_config(ModelConfig(num_layers=2))
    raw["lifespan"]["num_layers"] = 10**12
    assert read_config(raw).num_layers == 2


def test_public_fields_win_over_ours_once_somebody_edited_them() -> None:
    raw = write_config(ModelConfig())
    raw["rope_parameters"]["rope_theta"] = raw["rope_theta"] = 123.0
    assert read_config(raw).rope_theta == 123.0


@settings(max_examples=40, deadline=None)
@given(cfg=exportable(), seed=st.integers(0, 9))
def test_every_model_comes_back_bit_for_bit(cfg: ModelConfig, seed: int) -> None:
    model = Transformer(cfg, seed)
    with tempfile.TemporaryDirectory() as folder:
        export_folder(Path(folder), cfg, model.state_dict())
        back = import_folder(Path(folder))
    assert back.cfg == cfg
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], tensor), name
