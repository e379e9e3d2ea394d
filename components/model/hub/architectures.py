"""The public layouts that are read and written: one record each, the only place that tells them apart.

Field names and defaults are those of transformers 5 (`configuration_<type>.py`), which also reads older files. What is
absent means what it means there; what transformers ignores for an architecture is ignored here; a value that would
make another model is refused.

To add one, append its record to ARCHITECTURES. What of a model it holds is not declared but tried: a model is written
in the first layout whose `config.json` reads back as the same model (`components/model/hub/config_file.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.model.config import MoEConfig, NormPlacement, QKNormOver
from components.model.hub.fields import Fields
from components.model.hub.gguf_tokenizer import QWEN_PATTERN
from components.model.hub.layout import FUSED_NAMES, LLAMA_NAMES, MIXTRAL_NAMES, NORMS_AFTER_NAMES, Names
from components.model.hub.parts import (
    BARE_LAYERS,
    BARE_LAYERS_WINDOW,
    EVEN_LAYERS_WINDOW,
    GRANITE_FIELDS,
    GRANITE_SCALES,
    LAST_LAYERS_WINDOW,
    MIXTRAL_EXPERTS,
    NO_BARE_LAYERS,
    NO_SCALES,
    NO_WINDOW,
    SWITCHED_WINDOW,
    Part,
    Scales,
    plain_window,
    qwen_experts,
)

_SILU = ("silu", "swish")
# Fields of models of this family and its neighbours, with the values that change nothing; others are refused.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "hidden_act": (None, *_SILU),
    "hidden_activation": (None, *_SILU),
    "mlp_bias": (None, False),
    "attention_out_bias": (None, False),
    "partial_rotary_factor": (None, 1, 1.0),
    "rope_interleaved": (None, False),
    "no_rope_layers": (None, []),
    "quantization_config": (None,),
    "attn_logit_softcapping": (None, 0),
    "final_logit_softcapping": (None, 0),
    "attention_multiplier": (None,),
    "embedding_multiplier": (None, 1, 1.0),
    "residual_multiplier": (None, 1, 1.0),
    "logits_scaling": (None, 1, 1.0),
    "query_pre_attn_scalar": (None,),
    "clip_qkv": (None,),
    "alibi": (None, False),
    "use_parallel_residual": (None, False),
    "parallel_attn": (None, False),
    "use_qk_norm": (None, False),
    "qk_layernorm": (None, False),
    "attention_chunk_size": (None,),
    "attn_output_gate": (None, False),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "n_shared_experts": (None, 0),
    "num_shared_experts": (None, 0),
    "routed_scaling_factor": (None, 1, 1.0),
    "scoring_func": (None, "softmax"),
    "n_group": (None, 0, 1),
}


@dataclass(frozen=True)
class GGUFNames:
    """An architecture in GGUF files.

    name: `general.architecture`. heads_interleaved: rows of queries and keys are stored pair by pair, as llama.cpp
    rotates them. expert_width: the field that holds the hidden width of an expert. layer: names of tensors that differ
    from those of llama's. nope_every: layer n, 2n, … has no rotary positions, which no field says (0: all have them).
    has_scales, has_experts: whether it has the fields of `Scales`, and experts. heads_divide_width, is_untied:
    llama.cpp reads no other head_dim for it, and no tied embeddings.
    """

    name: str
    heads_interleaved: bool = False
    expert_width: str = "expert_feed_forward_length"
    layer: Mapping[str, str] = field(default_factory=dict)
    nope_every: int = 0
    has_scales: bool = False
    has_experts: bool = False
    heads_divide_width: bool = False
    is_untied: bool = False


# -- the records ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Architecture:
    """A public layout. Numbers are what transformers takes where `config.json` leaves the field out.

    model_type, class_name: as `config.json` has them. names: of the weights in published files. num_kv_heads: 0 for as
    many as num_heads (null always means that). head_dim: 0 for hidden_size by heads. heads_divide_width: transformers
    insists on that. qk_norm, qk_norm_over, norm_placement: its norms. tie_embeddings: where the file does not say.
    bare_layers: those without rotary positions. scales: its factors. rope_kinds: the stretchings that transformers
    reads for it (empty: all that we read). attention_bias: whether queries, keys and values have a bias, or the name of
    the field that says so (absent: true). dense_layers: whether it has feed-forward layers beside experts. neutral:
    more fields of its own as in NEUTRAL. own_fields: those of NEUTRAL that it reads. also_written: fields that are
    always the same. tokenizer_pattern: transformers cuts text by this whatever the folder's tokenizer says, so that a
    model with another tokenizer takes the next layout that holds it (empty: it reads the folder's). gguf: None where it
    has no name there or shares another record's.
    """

    model_type: str
    class_name: str
    names: Names = LLAMA_NAMES
    num_kv_heads: int = 0
    head_dim: int = 0
    heads_divide_width: bool = False
    rope_theta: float = 1e4
    norm_eps: float = 1e-6
    qk_norm: bool = False
    qk_norm_over: QKNormOver = "head"
    norm_placement: NormPlacement = "before"
    tie_embeddings: bool = False
    bare_layers: Part[tuple[int, ...]] = NO_BARE_LAYERS
    scales: Part[Scales] = NO_SCALES
    rope_kinds: tuple[str, ...] = ()
    attention_bias: bool | str = False
    window: Part[int] = NO_WINDOW
    dense_layers: bool = True
    experts: Part[MoEConfig | None] | None = None
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    own_fields: tuple[str, ...] = ()
    also_written: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_pattern: str = ""
    gguf: GGUFNames | None = None


_NO_BIAS = {"attention_bias": False}
LLAMA = Architecture(
    "llama",
    "LlamaForCausalLM",
    heads_divide_width=True,
    also_written=_NO_BIAS,
    # Mistral and Mixtral call themselves llama there, too.
    gguf=GGUFNames("llama", heads_interleaved=True, expert_width="feed_forward_length", has_experts=True),
)
# In the order of preference for a model that several hold: Mistral without a window is Llama.
ARCHITECTURES = (
    LLAMA,
    Architecture("mistral", "MistralForCausalLM", num_kv_heads=8, window=plain_window(absent=4096)),
    Architecture(
        "qwen2",
        "Qwen2ForCausalLM",
        num_kv_heads=32,
        attention_bias=True,
        window=LAST_LAYERS_WINDOW,
        tokenizer_pattern=QWEN_PATTERN,  # transformers 5.23
        gguf=GGUFNames("qwen2", heads_divide_width=True),
    ),
    Architecture(
        "qwen3",
        "Qwen3ForCausalLM",
        num_kv_heads=32,
        head_dim=128,
        qk_norm=True,
        window=LAST_LAYERS_WINDOW,
        also_written=_NO_BIAS,
        gguf=GGUFNames("qwen3"),
    ),
    Architecture(
        "mixtral",
        "MixtralForCausalLM",
        names=MIXTRAL_NAMES,
        num_kv_heads=8,
        rope_theta=1e6,
        norm_eps=1e-5,
        window=plain_window(absent=0),
        dense_layers=False,
        experts=MIXTRAL_EXPERTS,
    ),
    Architecture(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        num_kv_heads=16,
        attention_bias="qkv_bias",
        window=EVEN_LAYERS_WINDOW,
        experts=qwen_experts(60, 4, 1408, shared_width=5632),
    ),
    Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_kv_heads=4,
        qk_norm=True,
        window=SWITCHED_WINDOW,
        experts=qwen_experts(128, 8, 768),
        also_written=_NO_BIAS,
        gguf=GGUFNames("qwen3moe", has_experts=True),
    ),
    Architecture(
        "olmo2",
        "Olmo2ForCausalLM",
        names=NORMS_AFTER_NAMES,
        norm_eps=1e-5,
        qk_norm=True,
        qk_norm_over="all_heads",
        norm_placement="after",
        also_written=_NO_BIAS,
        gguf=GGUFNames(
            "olmo2",
            layer={
                "attention_norm": "blk.{i}.post_attention_norm.weight",
                "mlp_norm": "blk.{i}.post_ffw_norm.weight",
            },
            heads_divide_width=True,
            is_untied=True,
        ),
    ),
    Architecture(
        "smollm3",
        "SmolLM3ForCausalLM",
        num_kv_heads=4,
        rope_theta=2e6,
        tie_embeddings=True,
        bare_layers=BARE_LAYERS,
        own_fields=("no_rope_layers",),
        window=BARE_LAYERS_WINDOW,
        # Absent, they are ids that a smaller vocabulary lacks.
        also_written={**_NO_BIAS, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None},
        gguf=GGUFNames("smollm3", heads_interleaved=True, nope_every=4),
    ),
    Architecture(
        "granite",
        "GraniteForCausalLM",
        scales=GRANITE_SCALES,
        own_fields=GRANITE_FIELDS,
        heads_divide_width=True,
        also_written=_NO_BIAS,
        gguf=GGUFNames("granite", heads_interleaved=True, has_scales=True),
    ),
    # Behind the others: the same model in their layout is more widely read.
    Architecture(
        "phi3",
        "Phi3ForCausalLM",
        names=FUSED_NAMES,
        norm_eps=1e-5,
        rope_kinds=("default",),
        window=plain_window(absent=0),
        gguf=GGUFNames("phi3", layer={"qkv": "blk.{i}.attn_qkv", "gate_up": "blk.{i}.ffn_up.weight"}),
    ),
)


def architecture_in(fields: Fields) -> Architecture:
    """The architecture that a `config.json` names. Raises UnsupportedModel for one that has no record."""
    wanted, names = fields.raw.get("model_type"), fields.listed("architectures", str)
    for arch in ARCHITECTURES:
        if arch.model_type == wanted or (wanted is None and arch.class_name in names):
            if names and not any(name.endswith(("ForCausalLM", "Model")) for name in names):
                raise fields.refuse("architectures", names, f"takes a language model such as {arch.class_name}")
            return arch
    known = ", ".join(arch.model_type for arch in ARCHITECTURES)
    raise fields.refuse("model_type", fields.raw.get("model_type", names), f"the layouts that are read are {known}")
