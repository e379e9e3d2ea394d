"""Tiny GGUF files, written as llama.cpp's converter writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.model.transformer import Transformer

Write = Callable[..., Path]


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py orders them: row 2·r + h of
    a head is its row h·half + r."""
    result = np.empty_like(weight)
    size = weight.shape[0] // heads
    for head in range(heads):
        for half in range(2):
            for row in range(size // 2):
                result[head * size + 2 * row + half] = weight[head * size + half * (size // 2) + row]
    return result


def _tensors(model: Transformer, arch: str) -> dict[str, np.ndarray]:
    cfg = model.cfg
    weights = {name: tensor.detach().float().numpy() for name, tensor in model.state_dict().items()}
    q, kv = cfg.num_heads * cfg.per_head, cfg.kv_heads * cfg.per_head
    found = {"token_embd.weight": weights["embedding.weight"], "output_norm.weight": weights["norm.weight"]}
    if not cfg.tie_embeddings:
        found["output.weight"] = weights["unembedding.weight"]
    for i in range(cfg.num_layers):
        ours, theirs = f"blocks.{i}.", f"blk.{i}."
        for kind in ("weight", "bias") if cfg.attention_bias else ("weight",):
            rows = np.split(weights[f"{ours}attention.qkv.{kind}"], [q, q + kv])
            if arch == "llama":
                rows[0], rows[1] = interleaved(rows[0], cfg.num_heads), interleaved(rows[1], cfg.kv_heads)
            for part, rows_of in zip("qkv", rows, strict=True):
                found[f"{theirs}attn_{part}.{kind}"] = rows_of
        found[f"{theirs}attn_output.weight"] = weights[f"{ours}attention.out.weight"]
        found[f"{theirs}attn_norm.weight"] = weights[f"{ours}attention_norm.weight"]
        found[f"{theirs}ffn_norm.weight"] = weights[f"{ours}mlp_norm.weight"]
        if cfg.qk_norm:
            found[f"{theirs}attn_q_norm.weight"] = weights[f"{ours}attention.q_norm"]
            found[f"{theirs}attn_k_norm.weight"] = weights[f"{ours}attention.k_norm"]
        if cfg.moe is None:
            gate, up = np.split(weights[f"{ours}mlp.gate_up.weight"], 2)
            found |= {f"{theirs}ffn_gate.weight": gate, f"{theirs}ffn_up.weight": up}
            found[f"{theirs}ffn_down.weight"] = weights[f"{ours}mlp.down.weight"]
        else:
            gate, up = np.split(weights[f"{ours}mlp.gate_up"], 2, axis=1)
            found |= {f"{theirs}ffn_gate_exps.weight": gate, f"{theirs}ffn_up_exps.weight": up}
            found[f"{theirs}ffn_down_exps.weight"] = weights[f"{ours}mlp.down"]
            found[f"{theirs}ffn_gate_inp.weight"] = weights[f"{ours}mlp.router.weight"]
    return found


def random_blocks(shape: tuple[int, ...], kind: Any, seed: int) -> np.ndarray:
    """Bytes of a K-quantised matrix: any bits, with scales that are small numbers."""
    from gguf import GGML_QUANT_SIZES

    block, size = GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (int(np.prod(shape)) // block, size), dtype=np.uint8)
    places = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[kind.name]
    for place in places:
        data[:, place : place + 2] = rng.uniform(1e-4, 2e-3, (len(data), 1)).astype(np.float16).view(np.uint8)
    return data.reshape(*shape[:-1], shape[-1] // block * size)


@pytest.fixture
def write_gguf() -> Write:
    """`write(path, model, arch, kind, fields, extra)`: matrices as `kind`, vectors as F32."""

    def write(
        path: Path,
        model: Transformer,
        arch: str = "llama",
        kind: str = "F32",
        fields: dict[str, Any] | None = None,
        extra: dict[str, np.ndarray] | None = None,
    ) -> Path:
        from gguf import GGMLQuantizationType, GGUFWriter
        from gguf.quants import quantize

        cfg = model.cfg
        writer = GGUFWriter(path, arch)
        writer.add_block_count(cfg.num_layers)
        writer.add_context_length(cfg.context_length)
        writer.add_embedding_length(cfg.d_model)
        writer.add_feed_forward_length(cfg.hidden if cfg.moe is None else cfg.moe.d_ff)
        writer.add_head_count(cfg.num_heads)
        writer.add_head_count_kv(cfg.kv_heads)
        writer.add_key_length(cfg.per_head)
        writer.add_value_length(cfg.per_head)
        writer.add_rope_freq_base(cfg.rope_theta)
        writer.add_rope_dimension_count(cfg.per_head)
        writer.add_layer_norm_rms_eps(cfg.norm_eps)
        if cfg.moe is not None:
            writer.add_expert_count(cfg.moe.num_experts)
            writer.add_expert_used_count(cfg.moe.top_k_experts)
            if arch == "qwen3moe":
                writer.add_expert_feed_forward_length(cfg.moe.d_ff)
        for name, value in (fields or {}).items():
            if isinstance(value, bool):
                writer.add_bool(name, value)
            elif isinstance(value, str):
                writer.add_string(name, value)
            elif isinstance(value, int):
                writer.add_uint32(name, value)
            elif isinstance(value, float):
                writer.add_float32(name, value)
            else:
                writer.add_array(name, value)
        stored = GGMLQuantizationType[kind]
        for number, (name, values) in enumerate({**_tensors(model, arch), **(extra or {})}.items()):
            if values.ndim == 1 or kind == "F32":
                writer.add_tensor(name, np.ascontiguousarray(values, dtype=np.float32))
            elif kind.endswith("_K"):
                writer.add_tensor(name, random_blocks(values.shape, stored, number), raw_dtype=stored)
            else:
                writer.add_tensor(name, quantize(np.ascontiguousarray(values), stored), raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(0))
