"""The public layouts that are read and written: one record each, the only place that tells them apart.

Field names and defaults are those of transformers 5 (`configuration_<type>.py`), which also reads older files. What is
absent means what it means there; what transformers ignores for an architecture is ignored here; a value that would
make another model is refused.

To add one, append its record to ARCHITECTURES. What of a model it holds is not declared but tried: a model is written
in the first layout whose `config.json` reads back as the same model (`components/model/hub/config_file.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from components.model.config import ModelConfig, MoEConfig, NormPlacement, QKNormOver
from components.model.hub.fields import Fields
from components.model.hub.gguf_tokenizer import QWEN_PATTERN
from components.model.hub.layout import FUSED_NAMES, LLAMA_NAMES, MIXTRAL_NAMES, NORMS_AFTER_NAMES, Names

T = TypeVar("T")
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
class Part(Generic[T]):
    """A part of a model that layouts put differently.

    read: its value, given the fields and the number of layers; raises UnsupportedModel. write: its fields, given ours.
    """

    read: Callable[[Fields, int], T]
    write: Callable[[ModelConfig], dict[str, Any]]


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


# -- sliding windows --------------------------------------------------------------------------------------------------


def _layer_types(fields: Fields, layers: int) -> list[str]:
    types = fields.listed("layer_types", str)
    if types and len(types) != layers:
        raise fields.refuse("layer_types", types, f"takes one for each of the {layers} layers")
    return types


def _same_for_all(read: Callable[[Fields], int], write: Callable[[ModelConfig], dict[str, Any]]) -> Part[int]:
    """A window that all layers share; `layer_types`, where given, must agree."""

    def checked(fields: Fields, layers: int) -> int:
        types, window = _layer_types(fields, layers), read(fields)
        if types and set(types) != {"sliding_attention" if window else "full_attention"}:
            raise fields.refuse("layer_types", types, "every layer must attend in the same way")
        return window

    return Part(checked, write)


def _plain_window(absent: int) -> Part[int]:
    """`sliding_window` alone, null for none; `absent`: what a file without the field means."""

    def read(fields: Fields) -> int:
        return fields.whole("sliding_window", 0 if "sliding_window" in fields.raw else absent, least=0)

    return _same_for_all(read, lambda cfg: {"sliding_window": cfg.sliding_window or None})


def _write_switched(cfg: ModelConfig) -> dict[str, Any]:
    return {"use_sliding_window": bool(cfg.sliding_window), "sliding_window": cfg.sliding_window or None}


def _read_switched(fields: Fields) -> int:
    absent = 0 if "sliding_window" in fields.raw else 4096
    return fields.whole("sliding_window", absent) if fields.flag("use_sliding_window", False) else 0


def _window_by_layer(slides: Callable[[int, int], bool]) -> Part[int]:
    """A window that each layer has or has not: by `layer_types`, else by `slides(layer, max_window_layers)`. A model
    that mixes both is refused."""

    def read(fields: Fields, layers: int) -> int:
        types = _layer_types(fields, layers)
        if not fields.flag("use_sliding_window", False) or fields.raw.get("sliding_window", 4096) is None:
            return 0
        found: Any
        name, found = "layer_types", types
        if not types:
            name, found = "max_window_layers", fields.whole("max_window_layers", 28, least=0)
            types = ["sliding_attention" if slides(layer, found) else "full_attention" for layer in range(layers)]
        if set(types) == {"full_attention"}:
            return 0
        if set(types) != {"sliding_attention"}:
            raise fields.refuse(name, found, f"every one of the {layers} layers must attend in the same way")
        return fields.whole("sliding_window", 4096)

    def write(cfg: ModelConfig) -> dict[str, Any]:
        window, layers = cfg.sliding_window, cfg.num_layers
        types = ["sliding_attention" if window else "full_attention"] * layers
        return _write_switched(cfg) | {"max_window_layers": 0 if window else layers, "layer_types": types}

    return Part(read, write)


NO_WINDOW: Part[int] = _same_for_all(lambda fields: 0, lambda cfg: {})
SWITCHED_WINDOW: Part[int] = _same_for_all(_read_switched, _write_switched)
LAST_LAYERS_WINDOW = _window_by_layer(lambda layer, first: layer >= first)
EVEN_LAYERS_WINDOW = _window_by_layer(lambda layer, first: layer % 2 == 0 and layer < first)


def _read_bare_layers_window(fields: Fields, layers: int) -> int:
    """SmolLM3: a window is for the layers without rotary positions, unless `layer_types` says otherwise."""
    types, window = _layer_types(fields, layers), _read_switched(fields) if "sliding_window" in fields.raw else 0
    if not window or (types and set(types) == {"full_attention"}):
        return 0
    if not types:
        bare = _bare_layers(fields, layers)
        types = ["sliding_attention" if layer in bare else "full_attention" for layer in range(layers)]
    if set(types) == {"full_attention"}:
        return 0
    if set(types) != {"sliding_attention"}:
        raise fields.refuse("sliding_window", window, f"every one of the {layers} layers must attend in the same way")
    return window


def _write_bare_layers_window(cfg: ModelConfig) -> dict[str, Any]:
    types = ["sliding_attention" if cfg.sliding_window else "full_attention"] * cfg.num_layers
    return _write_switched(cfg) | {"layer_types": types}


def _bare_layers(fields: Fields, layers: int) -> tuple[int, ...]:
    """Layers without rotary positions: those with a 0 in `no_rope_layers`, else every `no_rope_layer_interval`-th."""
    rotated = fields.listed("no_rope_layers", int)
    if fields.raw.get("no_rope_layers") is None:
        every = fields.whole("no_rope_layer_interval", 4)
        rotated = [int((layer + 1) % every != 0) for layer in range(layers)]
    if len(rotated) < layers:
        raise fields.refuse("no_rope_layers", rotated, f"takes one for each of the {layers} layers")
    return tuple(layer for layer in range(layers) if not rotated[layer])


BARE_LAYERS_WINDOW: Part[int] = Part(_read_bare_layers_window, _write_bare_layers_window)
NO_BARE_LAYERS: Part[tuple[int, ...]] = Part(lambda fields, layers: (), lambda cfg: {})
BARE_LAYERS: Part[tuple[int, ...]] = Part(
    _bare_layers, lambda cfg: {"no_rope_layers": [int(layer not in cfg.nope_layers) for layer in range(cfg.num_layers)]}
)


# -- factors ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scales:
    """Factors of scores, embeddings, residual additions, and the divisor of logits, as ModelConfig has them."""

    attention: float = 0.0
    embedding: float = 1.0
    residual: float = 1.0
    logit_divisor: float = 1.0


_GRANITE = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")


def _read_granite_scales(fields: Fields, layers: int) -> Scales:
    return Scales(*(fields.real(name, 1.0) for name in _GRANITE))


def _write_granite_scales(cfg: ModelConfig) -> dict[str, Any]:
    scores = cfg.attention_scale or cfg.per_head**-0.5
    return dict(zip(_GRANITE, (scores, cfg.embedding_scale, cfg.residual_scale, cfg.logit_divisor), strict=True))


NO_SCALES: Part[Scales] = Part(lambda fields, layers: Scales(), lambda cfg: {})
GRANITE_SCALES: Part[Scales] = Part(_read_granite_scales, _write_granite_scales)


# -- experts ----------------------------------------------------------------------------------------------------------


def experts_of(cfg: ModelConfig) -> MoEConfig | None:
    """The experts of a model that has a layer of them: where all layers are the dense first ones, there are none."""
    return cfg.moe if cfg.moe is not None and cfg.moe.first_dense < cfg.num_layers else None


def _routing(fields: Fields, num_experts: int, top_k: int) -> tuple[int, int, float]:
    """Number of experts, experts per token and the weight of the balancing loss, with these defaults."""
    num_experts = fields.whole("num_experts", fields.whole("num_local_experts", num_experts, 0), 0)
    top_k = fields.whole("num_experts_per_tok", top_k)
    coef = fields.real("router_aux_loss_coef", 0.001)
    if 0 < num_experts < top_k:
        raise fields.refuse("num_experts_per_tok", top_k, f"takes 1 to {num_experts}, the number of experts")
    return num_experts, top_k, coef


def _written_routing(moe: MoEConfig) -> dict[str, Any]:
    return {
        "num_experts_per_tok": moe.top_k_experts,
        "router_aux_loss_coef": moe.load_balance_coef,
        "output_router_logits": False,
    }


def _read_mixtral_experts(fields: Fields, layers: int) -> MoEConfig | None:
    num_experts, top_k, coef = _routing(fields, 8, 2)
    width = fields.whole("intermediate_size")
    if num_experts == 0:
        return None
    # Softmax over all, the chosen ones normalised: the same numbers as softmax over the chosen alone.
    return MoEConfig(num_experts, top_k, width, normalize_top_k=True, load_balance_coef=coef, router_z_coef=0.0)


def _write_mixtral_experts(cfg: ModelConfig) -> dict[str, Any]:
    moe = experts_of(cfg)
    if moe is None:
        return {"num_local_experts": 0}
    return _written_routing(moe) | {"num_local_experts": moe.num_experts, "intermediate_size": moe.d_ff}


def _first_dense(fields: Fields, layers: int) -> int:
    """How many first layers are dense; a pattern that is not "the first ones" is refused."""
    step = fields.whole("decoder_sparse_step", 1)
    only = fields.listed("mlp_only_layers", int)
    dense = {layer for layer in range(layers) if layer in set(only) or (layer + 1) % step}
    if dense != set(range(len(dense))):
        name, found = ("decoder_sparse_step", step) if step != 1 else ("mlp_only_layers", only)
        raise fields.refuse(name, found, "dense layers must be the first ones, with experts in all that follow")
    return len(dense)


def _qwen_experts(num_experts: int, top_k: int, width: int, shared_width: int = 0) -> Part[MoEConfig | None]:
    """Experts of Qwen with these defaults; shared_width: of the shared expert, 0 where the layout has none."""

    def read(fields: Fields, layers: int) -> MoEConfig | None:
        experts, chosen, coef = _routing(fields, num_experts, top_k)
        d_ff, normalize = fields.whole("moe_intermediate_size", width), fields.flag("norm_topk_prob", False)
        first_dense = _first_dense(fields, layers)
        name = "shared_expert_intermediate_size"
        if not shared_width and fields.raw.get(name):
            raise fields.refuse(name, fields.raw[name], "this layout has no shared expert")
        shared_d_ff = fields.whole(name, shared_width) if shared_width else 0
        if experts == 0 or first_dense == layers:
            return None
        return MoEConfig(
            experts,
            chosen,
            d_ff,
            shared_d_ff=shared_d_ff,
            shared_gate=bool(shared_d_ff),
            first_dense=first_dense,
            normalize_top_k=normalize,
            load_balance_coef=coef,
            router_z_coef=0.0,
        )

    def write(cfg: ModelConfig) -> dict[str, Any]:
        moe = experts_of(cfg)
        if moe is None:
            return {"num_experts": 0, "mlp_only_layers": list(range(cfg.num_layers))}
        raw = _written_routing(moe) | {
            "num_experts": moe.num_experts,
            "moe_intermediate_size": moe.d_ff,
            "norm_topk_prob": moe.normalize_top_k or moe.softmax_after_top_k,
            "decoder_sparse_step": 1,
            "mlp_only_layers": list(range(moe.first_dense)),
        }
        return raw | ({"shared_expert_intermediate_size": moe.shared_d_ff} if shared_width else {})

    return Part(read, write)


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
    Architecture("mistral", "MistralForCausalLM", num_kv_heads=8, window=_plain_window(absent=4096)),
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
        window=_plain_window(absent=0),
        dense_layers=False,
        experts=Part(_read_mixtral_experts, _write_mixtral_experts),
    ),
    Architecture(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        num_kv_heads=16,
        attention_bias="qkv_bias",
        window=EVEN_LAYERS_WINDOW,
        experts=_qwen_experts(60, 4, 1408, shared_width=5632),
    ),
    Architecture(
        "qwen3_moe",
        "Qwen3MoeForCausalLM",
        num_kv_heads=4,
        qk_norm=True,
        window=SWITCHED_WINDOW,
        experts=_qwen_experts(128, 8, 768),
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
        own_fields=_GRANITE,
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
        window=_plain_window(absent=0),
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
