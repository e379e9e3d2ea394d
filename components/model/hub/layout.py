"""Where each part of our tensors lies in a public layout: one table, read from left to right to import and from right
to left to export.

Ours are fused: `attention.qkv` holds the rows of queries, keys and values, `mlp.gate_up` those of gate and up, and
experts are stacked along a first axis [E, out, in].
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from components.model.config import ModelConfig

Index = tuple[int | slice, ...]


@dataclass(frozen=True)
class Piece:
    """`ours[index]` and the public tensor `theirs` are the same numbers. heads: the number of heads whose rows GGUF
    files of the llama family store interleaved (0: stored as they are)."""

    ours: str
    index: Index
    theirs: str
    heads: int = 0


@dataclass(frozen=True)
class Names:
    """The names of a layout. `{i}` is the layer, `{e}` the expert; a name of experts without `{e}` holds all of them.
    Where `layer` has `qkv` or `gate_up`, that one tensor holds what others keep apart, in our order of rows.

    experts: gate, up and down of the experts; gate and up are one tensor where both have the same name.
    heads_interleaved: rows of queries and keys are stored pair by pair, as llama.cpp rotates them.
    """

    layer: Mapping[str, str]
    top: Mapping[str, str]
    router: str
    experts: tuple[str, str, str]
    heads_interleaved: bool = False


_TOP = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "unembedding.weight": "lm_head.weight",
}
_LAYER = {
    "q": "model.layers.{i}.self_attn.q_proj",
    "k": "model.layers.{i}.self_attn.k_proj",
    "v": "model.layers.{i}.self_attn.v_proj",
    "out": "model.layers.{i}.self_attn.o_proj.weight",
    "q_norm": "model.layers.{i}.self_attn.q_norm.weight",
    "k_norm": "model.layers.{i}.self_attn.k_norm.weight",
    "attention_norm": "model.layers.{i}.input_layernorm.weight",
    "mlp_norm": "model.layers.{i}.post_attention_layernorm.weight",
    "gate": "model.layers.{i}.mlp.gate_proj.weight",
    "up": "model.layers.{i}.mlp.up_proj.weight",
    "down": "model.layers.{i}.mlp.down_proj.weight",
    "shared.gate": "model.layers.{i}.mlp.shared_expert.gate_proj.weight",
    "shared.up": "model.layers.{i}.mlp.shared_expert.up_proj.weight",
    "shared.down": "model.layers.{i}.mlp.shared_expert.down_proj.weight",
    "shared_gate": "model.layers.{i}.mlp.shared_expert_gate.weight",
}
_MLP = "model.layers.{i}.mlp."
_BLOCK = "model.layers.{i}.block_sparse_moe."
_EXPERT = "experts.{e}."
_FUSED = _MLP + "experts.gate_up_proj"

LLAMA_NAMES = Names(
    _LAYER,
    _TOP,
    _MLP + "gate.weight",
    (_MLP + _EXPERT + "gate_proj.weight", _MLP + _EXPERT + "up_proj.weight", _MLP + _EXPERT + "down_proj.weight"),
)
# One tensor for queries, keys and values, and one for gate and up (Phi-3).
FUSED_NAMES = Names(
    _LAYER | {"qkv": "model.layers.{i}.self_attn.qkv_proj", "gate_up": "model.layers.{i}.mlp.gate_up_proj.weight"},
    _TOP,
    LLAMA_NAMES.router,
    LLAMA_NAMES.experts,
)
# Norms behind attention and feed-forward (OLMo 2).
NORMS_AFTER_NAMES = Names(
    _LAYER
    | {
        "attention_norm": "model.layers.{i}.post_attention_layernorm.weight",
        "mlp_norm": "model.layers.{i}.post_feedforward_layernorm.weight",
    },
    _TOP,
    LLAMA_NAMES.router,
    LLAMA_NAMES.experts,
)
MIXTRAL_NAMES = Names(
    _LAYER,
    _TOP,
    _BLOCK + "gate.weight",
    (_BLOCK + _EXPERT + "w1.weight", _BLOCK + _EXPERT + "w3.weight", _BLOCK + _EXPERT + "w2.weight"),
)
# As transformers 5 holds all experts in memory, and writes them when asked not to go back to the published names.
STACKED_NAMES = Names(_LAYER, _TOP, _MLP + "gate.weight", (_FUSED, _FUSED, _MLP + "experts.down_proj"))


def names_in(found: set[str], published: Names) -> Names:
    """The names that a file with these tensors uses: the published ones of its architecture, or the stacked ones."""
    stacked = any(name.endswith(".mlp.experts.down_proj") for name in found)
    return STACKED_NAMES if stacked else published


def pieces(cfg: ModelConfig, names: Names) -> Iterator[Piece]:
    """Every element of every weight of `Transformer(cfg)`, once."""
    c = cfg.per_head
    q, kv = cfg.num_heads * c, cfg.kv_heads * c
    yield Piece("embedding.weight", (), names.top["embedding.weight"])
    yield Piece("norm.weight", (), names.top["norm.weight"])
    if not cfg.tie_embeddings:
        yield Piece("unembedding.weight", (), names.top["unembedding.weight"])
    for i in range(cfg.num_layers):
        block = f"blocks.{i}."

        def theirs(name: str, i: int = i) -> str:
            return names.layer[name].format(i=i)

        parts = [("q", 0, q, cfg.num_heads), ("k", q, kv, cfg.kv_heads), ("v", q + kv, kv, 0)]
        if "qkv" in names.layer:
            parts = [("qkv", 0, q + 2 * kv, 0)]
        for part, start, rows, heads in parts:
            for kind in ("weight", "bias") if cfg.attention_bias else ("weight",):
                yield Piece(
                    f"{block}attention.qkv.{kind}",
                    (slice(start, start + rows),),
                    f"{theirs(part)}.{kind}",
                    heads if names.heads_interleaved else 0,
                )
        yield Piece(f"{block}attention.out.weight", (), theirs("out"))
        if cfg.qk_norm:
            yield Piece(f"{block}attention.q_norm", (), theirs("q_norm"))
            yield Piece(f"{block}attention.k_norm", (), theirs("k_norm"))
        yield Piece(f"{block}attention_norm.weight", (), theirs("attention_norm"))
        yield Piece(f"{block}mlp_norm.weight", (), theirs("mlp_norm"))
        if cfg.moe is None or i < cfg.moe.first_dense:
            if "gate_up" in names.layer:
                yield Piece(f"{block}mlp.gate_up.weight", (), theirs("gate_up"))
            else:
                yield Piece(f"{block}mlp.gate_up.weight", (slice(0, cfg.hidden),), theirs("gate"))
                yield Piece(f"{block}mlp.gate_up.weight", (slice(cfg.hidden, 2 * cfg.hidden),), theirs("up"))
            yield Piece(f"{block}mlp.down.weight", (), theirs("down"))
            continue
        moe = cfg.moe
        yield Piece(f"{block}mlp.router.weight", (), names.router.format(i=i))
        yield from _expert_pieces(block, i, moe.num_experts, moe.d_ff, names)
        if moe.shared_d_ff:
            yield Piece(f"{block}mlp.shared_gate_up.weight", (slice(0, moe.shared_d_ff),), theirs("shared.gate"))
            upper = slice(moe.shared_d_ff, 2 * moe.shared_d_ff)
            yield Piece(f"{block}mlp.shared_gate_up.weight", (upper,), theirs("shared.up"))
            yield Piece(f"{block}mlp.shared_down.weight", (), theirs("shared.down"))
        if moe.shared_gate:
            yield Piece(f"{block}mlp.shared_gate.weight", (), theirs("shared_gate"))


def _expert_pieces(block: str, i: int, num_experts: int, width: int, names: Names) -> Iterator[Piece]:
    gate, up, down = names.experts
    gate_rows, up_rows = slice(0, width), slice(width, 2 * width)
    if "{e}" in gate:
        for e in range(num_experts):
            yield Piece(f"{block}mlp.gate_up", (e, gate_rows), gate.format(i=i, e=e))
            yield Piece(f"{block}mlp.gate_up", (e, up_rows), up.format(i=i, e=e))
            yield Piece(f"{block}mlp.down", (e,), down.format(i=i, e=e))
    elif gate == up:
        yield Piece(f"{block}mlp.gate_up", (), gate.format(i=i))
        yield Piece(f"{block}mlp.down", (), down.format(i=i))
    else:
        every = slice(None)
        yield Piece(f"{block}mlp.gate_up", (every, gate_rows), gate.format(i=i))
        yield Piece(f"{block}mlp.gate_up", (every, up_rows), up.format(i=i))
        yield Piece(f"{block}mlp.down", (), down.format(i=i))
