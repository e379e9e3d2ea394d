"""A model of ours as a GGUF file, for llama.cpp and what is built on it.

What a file holds of a model is not declared but tried, as for folders: it is written in the first layout whose
metadata read back as the same model. What llama.cpp itself would leave out is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from components.model.config import ModelConfig
from components.model.hub import architectures
from components.model.hub.architectures import GGUFNames
from components.model.hub.config_file import lost_settings
from components.model.hub.errors import UnsupportedModel
from components.model.hub.gguf_file import ROTARY_FACTORS, gguf_names, read_gguf_config
from components.model.hub.gguf_format import StoredTensor
from components.model.hub.gguf_vocabulary import vocabulary_metadata
from components.model.hub.weights import scattered
from components.model.rotary import rotary_frequencies

if TYPE_CHECKING:
    from components.data.tokenizer import Tokenizer

_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}  # `general.file_type`, as llama.cpp numbers them
_PLAIN = {"F32": np.float32, "F16": np.float16}
# What llama.cpp's graphs of these architectures do not compute, whatever the file says.
_NOT_COMPUTED = ("sliding_window", "attention_softcap", "logit_softcap")


@dataclass(frozen=True)
class _Head:
    """A file's metadata and the shapes of its tensors before there is a file."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor] = field(default_factory=dict)
    factors: Tensor | None = None

    def get(self, name: str, default: Any = None) -> Any:
        return self.metadata.get(name, default)

    def read(self, name: str) -> Tensor:
        assert self.factors is not None
        return self.factors


def export_gguf(
    path: Path,
    cfg: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer | None = None,
    dtype: str = "f16",
    name: str = "",
) -> None:
    """Write a model of ours as one GGUF file with its tokenizer and chat template.

    tensors: its state dict, written one by one. dtype: of the matrices; vectors and routers are float32, and matrices
    whose rows the blocks of q8_0 (32) do not divide are f16. name: `general.name`.
    Raises UnsupportedModel before anything is written, naming what a file cannot hold.
    """
    from gguf import GGML_QUANT_SIZES, GGML_QUANT_VERSION, GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    if dtype not in _FILE_TYPES:
        raise UnsupportedModel(f"a GGUF file is written as {', '.join(_FILE_TYPES)}, not as {dtype!r}")
    gguf = gguf_layout_for(cfg)
    metadata = model_metadata(cfg, gguf) | {"general.file_type": _FILE_TYPES[dtype]}
    if tokenizer is not None:
        metadata |= vocabulary_metadata(tokenizer, cfg.vocab_size)
    if gguf.is_untied and cfg.tie_embeddings:
        cfg, tensors = (
            replace(cfg, tie_embeddings=False),
            {**tensors, "unembedding.weight": tensors["embedding.weight"]},
        )
    public = scattered(cfg, gguf_names(gguf), tensors)
    if (factors := rotary_factors(cfg)) is not None:
        public[ROTARY_FACTORS] = factors
    kinds = {theirs: GGMLQuantizationType[_kind(theirs, tensor, dtype)] for theirs, tensor in public.items()}

    writer = GGUFWriter(path, gguf.name)
    writer.add_name(name or gguf.name)
    if dtype == "q8_0":
        writer.add_quantization_version(GGML_QUANT_VERSION)
    for key, value in metadata.items():
        _add(writer, key, value)
    for theirs, tensor in public.items():
        kind, plain = kinds[theirs], _PLAIN.get(kinds[theirs].name)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        width = tensor.shape[-1] if plain else tensor.shape[-1] // block * block_bytes
        size = tensor.numel() // block * block_bytes
        writer.add_tensor_info(theirs, (*tensor.shape[:-1], width), np.dtype(plain or np.uint8), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for theirs, tensor in public.items():  # one at a time: never a second copy of the model
        values, plain = tensor.detach().to("cpu", torch.float32).numpy(), _PLAIN.get(kinds[theirs].name)
        values = np.ascontiguousarray(values)
        writer.write_tensor_data(values.astype(plain) if plain else quantize(values, kinds[theirs]))
    writer.close()


def gguf_layout_for(cfg: ModelConfig) -> GGUFNames:
    """The first layout in which a GGUF file is the same model. Raises UnsupportedModel naming what none holds."""
    for setting in _NOT_COMPUTED:
        if value := getattr(cfg, setting):
            raise UnsupportedModel(f"model.{setting} is {value!r}, which llama.cpp does not compute for this layout")
    nearest: dict[str, Any] | None = None
    for arch in architectures.ARCHITECTURES:
        if arch.gguf is None:
            continue
        try:
            whole = replace(cfg, tie_embeddings=False) if arch.gguf.is_untied else cfg
            lost = lost_settings(whole, read_gguf_config(_head(whole, arch.gguf)))
        except UnsupportedModel as error:
            lost = {str(error): ""}
        # What we would read, and llama.cpp would not.
        lost |= {"model.moe": cfg.moe} if cfg.moe is not None and not arch.gguf.has_experts else {}
        lost |= {"model.attention_bias": True} if cfg.attention_bias and not arch.attention_bias else {}
        if arch.gguf.heads_divide_width and cfg.per_head * cfg.num_heads != cfg.d_model:
            lost["model.head_dim"] = cfg.per_head
        if not lost:
            return arch.gguf
        if nearest is None or len(lost) < len(nearest):
            nearest = lost
    listed = ", ".join(f"{name} is {value!r}" if value != "" else name for name, value in (nearest or {}).items())
    raise UnsupportedModel(f"{listed}: no layout of GGUF holds this model, so it cannot be exported so")


def _head(cfg: ModelConfig, gguf: GGUFNames) -> _Head:
    embedding = StoredTensor((cfg.vocab_size, cfg.d_model), 0, 0)
    tensors = {"token_embd.weight": embedding}
    if not cfg.tie_embeddings:
        tensors["output.weight"] = embedding
    if cfg.attention_bias:
        tensors["blk.0.attn_q.bias"] = embedding
    factors = rotary_factors(cfg)
    if factors is not None:
        tensors[ROTARY_FACTORS] = embedding
    metadata = model_metadata(cfg, gguf) | {"general.architecture": gguf.name}
    return _Head(Path("model.gguf"), metadata, tensors, factors)


def rotary_factors(cfg: ModelConfig) -> Tensor | None:
    """How much longer each wavelength became (Llama 3.1), [C/2] float32; None where none did."""
    if cfg.rope_scaling is None or cfg.rope_scaling.kind != "llama3":
        return None
    return (rotary_frequencies(replace(cfg, rope_scaling=None)) / rotary_frequencies(cfg)).float()


def model_metadata(cfg: ModelConfig, gguf: GGUFNames) -> dict[str, Any]:
    """The fields of a layout that describe the model, with their full names."""
    fields: dict[str, Any] = {
        "vocab_size": cfg.vocab_size,
        "context_length": cfg.context_length,
        "embedding_length": cfg.d_model,
        "block_count": cfg.num_layers,
        "feed_forward_length": cfg.hidden,
        "attention.head_count": cfg.num_heads,
        "attention.head_count_kv": cfg.kv_heads,
        "attention.key_length": cfg.per_head,
        "attention.value_length": cfg.per_head,
        "attention.layer_norm_rms_epsilon": cfg.norm_eps,
        "rope.dimension_count": cfg.per_head,
        "rope.freq_base": cfg.rope_theta,
    }
    if cfg.moe is not None:
        fields |= {"expert_count": cfg.moe.num_experts, "expert_used_count": cfg.moe.top_k_experts}
        fields[gguf.expert_width] = cfg.moe.d_ff
        fields["feed_forward_length"] = fields.get("feed_forward_length", cfg.moe.d_ff)
    scaling = cfg.rope_scaling
    if scaling is not None and scaling.kind != "llama3":
        fields |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
        if scaling.kind == "yarn":
            fields |= {
                "rope.scaling.original_context_length": scaling.original_context_length,
                "rope.scaling.yarn_beta_fast": scaling.beta_fast,
                "rope.scaling.yarn_beta_slow": scaling.beta_slow,
            }
    if gguf.has_scales:
        fields |= {
            "attention.scale": cfg.attention_scale or cfg.per_head**-0.5,
            "embedding_scale": cfg.embedding_scale,
            "residual_scale": cfg.residual_scale,
            "logit_scale": cfg.logit_divisor,
        }
    return {f"{gguf.name}.{name}": value for name, value in fields.items()}


def _kind(name: str, tensor: Tensor, dtype: str) -> str:
    if tensor.dim() == 1 or dtype == "f32" or name.endswith("ffn_gate_inp.weight"):
        return "F32"
    return "F16" if dtype == "q8_0" and tensor.shape[-1] % 32 else dtype.upper()


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))
