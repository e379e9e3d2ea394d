"""GGUF files (github.com/ggml-org/ggml, docs/gguf.md): metadata and tensors of the llama and Qwen families.

llama.cpp rotates neighbouring rows of a head and we rotate its two halves, so the converter of the llama family
permutes the rows of queries and keys; reading reverses that. Quantised tensors become float32 one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from components.model.config import ModelConfig, MoEConfig, RopeScaling
from components.model.hub import architectures
from components.model.hub.architectures import Architecture, GGUFNames
from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_format import GGUFFile, StoredTensor
from components.model.hub.layout import Names
from components.model.hub.weights import gathered
from components.model.rotary import rotary_frequencies
from components.model.skeleton import filled
from components.model.transformer import Transformer

ROTARY_FACTORS = "rope_freqs.weight"
_LLAMA3_CONTEXT = 8192  # what every published file with rotary factors was first trained on
_RAMP = (("fast", 32.0), ("slow", 1.0))
_TOP = {
    "embedding.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "unembedding.weight": "output.weight",
}
_LAYER = {
    "q": "blk.{i}.attn_q",
    "k": "blk.{i}.attn_k",
    "v": "blk.{i}.attn_v",
    "out": "blk.{i}.attn_output.weight",
    "q_norm": "blk.{i}.attn_q_norm.weight",
    "k_norm": "blk.{i}.attn_k_norm.weight",
    "attention_norm": "blk.{i}.attn_norm.weight",
    "mlp_norm": "blk.{i}.ffn_norm.weight",
    "gate": "blk.{i}.ffn_gate.weight",
    "up": "blk.{i}.ffn_up.weight",
    "down": "blk.{i}.ffn_down.weight",
}
_STACKED = ("blk.{i}.ffn_gate_exps.weight", "blk.{i}.ffn_up_exps.weight", "blk.{i}.ffn_down_exps.weight")
_APART = ("blk.{i}.ffn_gate.{e}.weight", "blk.{i}.ffn_up.{e}.weight", "blk.{i}.ffn_down.{e}.weight")
_SCALES = {"attention.scale": 0.0, "embedding_scale": 1.0, "residual_scale": 1.0, "logit_scale": 1.0}
# Fields of other families, with the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "logit_scale": (1.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "attention.scale": (1.0,),
    "attention.clamp_kqv": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "attention.causal": (True,),
    "use_parallel_residual": (False,),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "leading_dense_block_count": (0,),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (-1.0, 1.0),
    "rope.scaling.yarn_attn_factor": (-1.0, 1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
}


class Head(Protocol):
    """What tells of a file's model before its weights are read."""

    @property
    def path(self) -> Path: ...

    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...

    def get(self, name: str, default: Any = None) -> Any: ...

    def read(self, name: str) -> Tensor: ...


def gguf_names(gguf: GGUFNames, experts: tuple[str, str, str] = _STACKED) -> Names:
    """The names of a layout's tensors."""
    layer = {**_LAYER, **gguf.layer}
    return Names(layer, _TOP, "blk.{i}.ffn_gate_inp.weight", experts, heads_interleaved=gguf.heads_interleaved)


def read_gguf_config(file: Head) -> ModelConfig:
    """Our configuration of a GGUF file. Raises UnsupportedModel naming the field."""
    layout, gguf = _layout(file)
    arch = gguf.name

    def refuse(name: str, found: Any, takes: str) -> UnsupportedModel:
        return UnsupportedModel(f"{file.path}: {arch}.{name} is {found!r}: {takes}")

    def whole(name: str, default: int | None = None) -> int:
        value = file.get(f"{arch}.{name}", default)
        if value is None:
            raise UnsupportedModel(f"{file.path}: {arch}.{name} is missing")
        if isinstance(value, bool) or not isinstance(value, int):
            raise refuse(name, value, "takes one whole number for all layers")
        return value

    for name, neutral in _NEUTRAL.items():
        value = None if gguf.has_scales and name in _SCALES else file.get(f"{arch}.{name}")
        if value is not None and value not in neutral:
            raise refuse(name, value, f"takes {neutral[-1]}")
    heads, d_model = whole("attention.head_count"), whole("embedding_length")
    head_dim = whole("attention.key_length", d_model // max(heads, 1))
    for name in ("attention.value_length", "rope.dimension_count"):
        if whole(name, head_dim) != head_dim:
            raise refuse(name, whole(name), f"takes the length of a key, {head_dim}")
    num_experts = whole("expert_count", 0)
    moe = None
    if num_experts:
        width = whole(gguf.expert_width)
        moe = MoEConfig(
            num_experts, whole("expert_used_count"), width, normalize_top_k=True, load_balance_coef=0.001,
            router_z_coef=0.0,
        )  # fmt: skip
    embedding = _TOP["embedding.weight"]
    if embedding not in file.tensors:
        raise UnsupportedModel(f"{file.path}: the tensor {embedding} is missing")
    theta = _decimal(file.get(f"{arch}.rope.freq_base", 10_000.0))
    given = [_decimal(file.get(f"{arch}.{name}", absent)) for name, absent in _SCALES.items()]
    scores, embeddings, residuals, logits = given if gguf.has_scales else _SCALES.values()
    layers, bare = whole("block_count"), gguf.nope_every
    try:
        return ModelConfig(
            vocab_size=file.tensors[embedding].shape[0],
            d_model=d_model,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=whole("attention.head_count_kv", heads),
            head_dim=head_dim,
            d_ff=whole("feed_forward_length", 0),
            context_length=whole("context_length"),
            rope_theta=theta,
            rope_scaling=_scaling(file, arch, head_dim, theta),
            sliding_window=whole("attention.sliding_window", 0),
            qk_norm=layout.qk_norm,
            qk_norm_over=layout.qk_norm_over,
            norm_placement=layout.norm_placement,
            nope_layers=tuple(range(bare - 1, layers, bare)) if bare else (),
            attention_scale=scores,
            embedding_scale=embeddings,
            residual_scale=residuals,
            logit_divisor=logits,
            attention_bias="blk.0.attn_q.bias" in file.tensors,
            tie_embeddings=_TOP["unembedding.weight"] not in file.tensors,
            norm_eps=_decimal(file.get(f"{arch}.attention.layer_norm_rms_epsilon", 1e-5)),
            moe=moe,
        )
    except UnsupportedModel:
        raise
    except ValueError as error:
        raise UnsupportedModel(f"{file.path}: {error}") from None


def _layout(file: Head) -> tuple[Architecture, GGUFNames]:
    """The record of a file's architecture, and the names that it has there."""
    kind = file.get("general.type", "model")
    if kind != "model":
        advice = "merge it into its base model first" if kind == "adapter" else "take the model's own file"
        raise UnsupportedModel(f"{file.path}: general.type is {kind!r}, which is no whole model: {advice}")
    found = file.get("general.architecture")
    by_name = {arch.gguf.name: (arch, arch.gguf) for arch in architectures.ARCHITECTURES if arch.gguf}
    if found not in by_name:
        raise UnsupportedModel(f"{file.path}: general.architecture is {found!r}: takes one of {', '.join(by_name)}")
    return by_name[found]


def gguf_architecture(file: Head) -> Architecture:
    """The layout that a file's model has as a folder."""
    return _layout(file)[0]


def _decimal(value: float) -> float:
    """The short decimal that a float32 was written from: 9.999999747378752e-06 was 1e-05."""
    return float(str(np.float32(value)))


def _scaling(file: Head, arch: str, head_dim: int, theta: float) -> RopeScaling | None:
    kind, factor = file.get(f"{arch}.rope.scaling.type", "none"), _decimal(file.get(f"{arch}.rope.scaling.factor", 1.0))
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind == "yarn":
        original = file.get(f"{arch}.rope.scaling.original_context_length")
        if not isinstance(original, int):
            raise UnsupportedModel(f"{file.path}: {arch}.rope.scaling.original_context_length is missing")
        ends = (_decimal(file.get(f"{arch}.rope.scaling.yarn_beta_{end}", usual)) for end, usual in _RAMP)
        return RopeScaling("yarn", factor, 1.0, 4.0, original, *ends)
    if kind != "none":
        raise UnsupportedModel(f"{file.path}: {arch}.rope.scaling.type is {kind!r}: takes none, linear or yarn")
    if ROTARY_FACTORS not in file.tensors:
        return None
    # Llama 3.1 and its kin: how much longer each wavelength became, from 1 to the factor.
    lengthened = file.read(ROTARY_FACTORS).double()
    scaling = RopeScaling("llama3", round(float(lengthened.max()), 4), 1.0, 4.0, _LLAMA3_CONTEXT)
    plain = ModelConfig(d_model=head_dim, num_heads=1, head_dim=head_dim, rope_theta=theta)
    stretched = ModelConfig(d_model=head_dim, num_heads=1, head_dim=head_dim, rope_theta=theta, rope_scaling=scaling)
    expected = rotary_frequencies(plain) / rotary_frequencies(stretched)
    if lengthened.shape != expected.shape or not torch.allclose(lengthened, expected, rtol=1e-4):
        raise UnsupportedModel(f"{file.path}: {ROTARY_FACTORS} is not what Llama 3.1 stretches its positions by")
    return scaling


def import_gguf(file: GGUFFile, cfg: ModelConfig, dtype: torch.dtype = torch.float32) -> Transformer:
    """The model of a GGUF file, in eval mode. `cfg`: from `read_gguf_config`, with a shorter context if wanted."""
    experts = _APART if "blk.0.ffn_gate.0.weight" in file.tensors else _STACKED
    names = gguf_names(_layout(file)[1], experts)
    found = {name for name in file.tensors if name != ROTARY_FACTORS and not name.endswith("attn_rot_embd.weight")}
    return filled(cfg, gathered(cfg, names, found, file.read, str(file.path), dtype))
