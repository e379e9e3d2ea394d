"""A public `config.json` as our configuration, and ours as a public one.

Field names and defaults are those of transformers 5 (`configuration_<type>.py`), which also reads older files. What is
absent means what it means there; what transformers ignores for an architecture is ignored here; a value that would
make another model is refused.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from components.model.config import ModelConfig, MoEConfig, RopeScaling, config_from_dict
from components.model.hub.errors import UnsupportedModel

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
OURS = "lifespan"  # the key under which a config that we wrote carries our own settings
_KEY_VALUE_HEADS = {"mistral": 8, "mixtral": 8, "qwen2": 32, "qwen3": 32, "qwen2_moe": 16, "qwen3_moe": 4}
_SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe")
_WINDOW_BY_LAYER = ("qwen2", "qwen3", "qwen2_moe")
_SILU = ("silu", "swish")
# Fields that some model of the family has, with the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
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
_NEEDED = {"linear": (), "llama3": ("factor", "low_freq_factor", "high_freq_factor"), "yarn": ("factor",)}
_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


class _Fields:
    """The fields of one `config.json`, read with the message that a wrong one deserves."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where

    def refuse(self, name: str, found: Any, takes: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.where}: {name} is {found!r}: {takes}")

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; `default` where it is absent or null, and an error without one."""
        value = self.raw.get(name)
        if value is None:
            if default is None:
                raise UnsupportedModel(f"{self.where}: {name} is missing: give a whole number")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refuse(name, value, f"takes a whole number of at least {least}")
        return value

    def real(self, name: str, default: float, within: Mapping[str, Any] | None = None) -> float:
        value = (self.raw if within is None else within).get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refuse(name, value, "takes a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(name, value, "takes true or false")
        return value

    def listed(self, name: str, kind: type) -> list[Any]:
        """A list of such values; empty where it is absent or null."""
        value = self.raw.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(one) is kind for one in value):
            raise self.refuse(name, value, f"takes a list of {'texts' if kind is str else 'whole numbers'}")
        return value


def read_config(raw: Mapping[str, Any], where: str = "config.json") -> ModelConfig:
    """Our configuration of a public `config.json`.

    Where we wrote the file ourselves, settings that make no difference to the model (a head_dim left to its default,
    the weights of the routers' losses) come back as they were.

    Raises UnsupportedModel naming the field, its value and what is taken.
    """
    cfg = _read(raw, where)
    own = raw.get(OURS)
    if isinstance(own, Mapping):
        try:
            ours = config_from_dict(own)
            # Else the public fields were edited since, and they count. (A damaged number of layers may be any.)
            if ours.num_layers == cfg.num_layers and _read(write_config(ours), where) == cfg:
                return ours
        except (TypeError, ValueError):
            pass
    return cfg


def _read(raw: Mapping[str, Any], where: str) -> ModelConfig:
    fields = _Fields(raw, where)
    kind = _model_type(fields)
    for name, neutral in _NEUTRAL.items():
        if name in raw and raw[name] not in neutral:
            takes = " or ".join(str(value) for value in neutral if value is not None) or "no value"
            raise fields.refuse(name, raw[name], f"the {kind} layout is read with {takes} alone")
    if kind not in ("qwen2", "qwen2_moe") and raw.get("attention_bias"):
        raise fields.refuse(
            "attention_bias", raw["attention_bias"], "it also puts a bias on the output projection, which ours has not"
        )
    heads = fields.whole("num_attention_heads")
    d_model, layers = fields.whole("hidden_size"), fields.whole("num_hidden_layers")
    context = fields.whole("max_position_embeddings")
    theta, scaling = _rope(fields, 1e6 if kind == "mixtral" else 1e4, context)
    moe = _experts(fields, kind, layers) if kind in _SPARSE else None
    if kind not in _SPARSE:
        for name in _EXPERT_FIELDS:
            if raw.get(name) not in (None, 0, 1):
                raise fields.refuse(name, raw[name], f"the {kind} layout has no experts")
    try:
        return ModelConfig(
            vocab_size=fields.whole("vocab_size"),
            d_model=d_model,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=fields.whole("num_key_value_heads", _KEY_VALUE_HEADS.get(kind, heads)),
            head_dim=fields.whole("head_dim", 128 if kind == "qwen3" else max(1, d_model // heads)),
            d_ff=fields.whole("intermediate_size") if kind != "mixtral" else 0,
            context_length=context,
            rope_theta=theta,
            rope_scaling=scaling,
            sliding_window=_window(fields, kind, layers),
            qk_norm=kind in ("qwen3", "qwen3_moe"),
            attention_bias=kind == "qwen2" or (kind == "qwen2_moe" and fields.flag("qkv_bias", True)),
            tie_embeddings=fields.flag("tie_word_embeddings", False),
            norm_eps=fields.real("rms_norm_eps", 1e-5 if kind == "mixtral" else 1e-6),
            moe=moe,
        )
    except UnsupportedModel:
        raise
    except ValueError as error:
        raise UnsupportedModel(f"{where}: {error}") from None


def model_type_in(raw: Mapping[str, Any], where: str = "config.json") -> str:
    """The architecture of a `config.json`, one of CLASSES."""
    return _model_type(_Fields(raw, where))


def _model_type(fields: _Fields) -> str:
    kind, names = fields.raw.get("model_type"), fields.listed("architectures", str)
    if kind is None:
        kind = next((kind for kind, name in CLASSES.items() if name in names), None)
    if not isinstance(kind, str) or kind not in CLASSES:
        found = fields.raw.get("model_type", names)
        raise fields.refuse("model_type", found, f"the layouts that are read are {', '.join(CLASSES)}")
    if names and not any(name.endswith(("ForCausalLM", "Model")) for name in names):
        raise fields.refuse("architectures", names, f"takes a language model such as {CLASSES[kind]}")
    return kind


def _rope(fields: _Fields, default_theta: float, context: int) -> tuple[float, RopeScaling | None]:
    """Base and stretching of the rotary positions, from `rope_parameters` or the older rope_theta and rope_scaling."""
    raw = fields.raw
    name = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    given = raw.get(name) or {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise fields.refuse(name, given, "takes one set of rotary settings for all layers")
    theta = fields.real("rope_theta", fields.real("rope_theta", default_theta), given)
    if given.get("partial_rotary_factor") not in (None, 1, 1.0):
        found = given["partial_rotary_factor"]
        raise fields.refuse(f"{name}.partial_rotary_factor", found, "a head is rotated as a whole or not read")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in (None, "default"):
        return theta, None
    if kind not in ("linear", "llama3", "yarn"):
        raise fields.refuse(f"{name}.rope_type", kind, "takes default, linear, llama3 or yarn")
    inner = _Fields(given, f"{fields.where}: {name}")
    for needed in _NEEDED[kind]:
        if given.get(needed) is None:
            raise UnsupportedModel(f"{fields.where}: {name}.{needed} is missing, which {kind} needs")
    factor = inner.real("factor", 1.0)
    try:
        if kind == "linear":
            return theta, RopeScaling("linear", factor)
        # What stands beside the other rotary settings comes first in transformers, too.
        original = (fields if raw.get("original_max_position_embeddings") else inner).whole(
            "original_max_position_embeddings", context
        )
        if kind == "llama3":
            low, high = inner.real("low_freq_factor", 1.0), inner.real("high_freq_factor", 4.0)
            return theta, RopeScaling("llama3", factor, low, high, original)
        return theta, _yarn(inner, factor, original)
    except UnsupportedModel:
        raise
    except ValueError as error:
        raise UnsupportedModel(f"{fields.where}: {error}") from None


def _yarn(fields: _Fields, factor: float, original: int) -> RopeScaling:
    """YaRN's settings, 0 meaning the default as in transformers."""
    if not fields.flag("truncate", True):
        raise fields.refuse("truncate", False, "the ramp of yarn is read with whole pairs at its ends alone")
    attention = fields.real("attention_factor", 0.0)
    above, below = fields.real("mscale", 0.0), fields.real("mscale_all_dim", 0.0)
    if not attention and above and below:
        attention = (0.1 * above * math.log(factor) + 1) / (0.1 * below * math.log(factor) + 1)
    fast, slow = fields.real("beta_fast", 0.0) or 32.0, fields.real("beta_slow", 0.0) or 1.0
    return RopeScaling(
        "yarn", factor, original_context_length=original, beta_fast=fast, beta_slow=slow, attention_factor=attention
    )


def _window(fields: _Fields, kind: str, layers: int) -> int:
    """The sliding window of all layers; 0 for none. A model that mixes both is refused."""
    raw = fields.raw
    types = fields.listed("layer_types", str)
    if types and len(types) != layers:
        raise fields.refuse("layer_types", types, f"takes one for each of the {layers} layers")
    if kind in ("llama", "mistral", "mixtral", "qwen3_moe"):
        if kind == "llama":
            window = 0
        elif kind == "qwen3_moe":
            window = fields.whole("sliding_window", 4096) if fields.flag("use_sliding_window", False) else 0
        else:
            absent = 4096 if kind == "mistral" and "sliding_window" not in raw else 0
            window = fields.whole("sliding_window", absent, least=0)
        if types and set(types) != {"sliding_attention" if window else "full_attention"}:
            raise fields.refuse("layer_types", types, "every layer must attend in the same way")
        return window
    if not fields.flag("use_sliding_window", False) or raw.get("sliding_window", 4096) is None:
        return 0
    found: Any
    name, found = "layer_types", types
    if not types:
        name, first = "max_window_layers", fields.whole("max_window_layers", 28, least=0)
        found = first
        sliding = [
            layer % 2 == 0 and layer < first if kind == "qwen2_moe" else layer >= first for layer in range(layers)
        ]
        types = ["sliding_attention" if one else "full_attention" for one in sliding]
    if set(types) == {"full_attention"}:
        return 0
    if set(types) != {"sliding_attention"}:
        raise fields.refuse(name, found, f"every one of the {layers} layers must attend in the same way")
    return fields.whole("sliding_window", 4096)


def _experts(fields: _Fields, kind: str, layers: int) -> MoEConfig | None:
    raw = fields.raw
    default = {"mixtral": (8, 2, 0), "qwen2_moe": (60, 4, 1408), "qwen3_moe": (128, 8, 768)}[kind]
    num_experts = fields.whole("num_experts", fields.whole("num_local_experts", default[0], 0), 0)
    top_k = fields.whole("num_experts_per_tok", default[1])
    coef = fields.real("router_aux_loss_coef", 0.001)
    shared: dict[str, Any] = {}
    first_dense = 0
    if kind == "mixtral":
        # Softmax over all, the chosen ones normalised: the same numbers as softmax over the chosen alone.
        width, normalize = fields.whole("intermediate_size"), True
    else:
        width, normalize = fields.whole("moe_intermediate_size", default[2]), fields.flag("norm_topk_prob", False)
        first_dense = _first_dense(fields, layers)
        if kind == "qwen2_moe":
            shared = {"shared_d_ff": fields.whole("shared_expert_intermediate_size", 5632), "shared_gate": True}
        elif raw.get("shared_expert_intermediate_size"):
            found = raw["shared_expert_intermediate_size"]
            raise fields.refuse("shared_expert_intermediate_size", found, "the qwen3_moe layout has no shared expert")
    if num_experts == 0 or first_dense == layers:
        return None
    try:
        return MoEConfig(
            num_experts,
            top_k,
            width,
            first_dense=first_dense,
            normalize_top_k=normalize,
            load_balance_coef=coef,
            router_z_coef=0.0,
            **shared,
        )
    except ValueError:
        raise fields.refuse("num_experts_per_tok", top_k, f"takes 1 to {num_experts}, the number of experts") from None


def _first_dense(fields: _Fields, layers: int) -> int:
    """How many first layers are dense; a pattern that is not "the first ones" is refused."""
    step = fields.whole("decoder_sparse_step", 1)
    only = fields.listed("mlp_only_layers", int)
    dense = {layer for layer in range(layers) if layer in set(only) or (layer + 1) % step}
    if dense != set(range(len(dense))):
        name, found = ("decoder_sparse_step", step) if step != 1 else ("mlp_only_layers", only)
        raise fields.refuse(name, found, "dense layers must be the first ones, with experts in all that follow")
    return len(dense)


def _experts_of(cfg: ModelConfig) -> MoEConfig | None:
    """The experts of a model that has a layer of them: where all layers are the dense first ones, there are none."""
    return cfg.moe if cfg.moe is not None and cfg.moe.first_dense < cfg.num_layers else None


def model_type_of(cfg: ModelConfig) -> str:
    """The public layout that holds a model of ours.

    Raises UnsupportedModel naming the setting that no layout has.
    """

    def refuse(name: str, why: str) -> UnsupportedModel:
        value = getattr(cfg.moe, name[4:]) if name.startswith("moe.") else getattr(cfg, name)
        return UnsupportedModel(f"model.{name} is {value!r}: {why}, so this model cannot be exported")

    for name in ("attention_softcap", "logit_softcap"):
        if getattr(cfg, name):
            raise refuse(name, "none of the layouts that are written caps logits")
    if cfg.attention_bias and cfg.qk_norm:
        raise refuse("attention_bias", "no layout has a bias on queries, keys and values together with qk_norm")
    moe = _experts_of(cfg)
    if moe is None:
        if cfg.qk_norm:
            return "qwen3"
        if cfg.attention_bias:
            return "qwen2"
        # Llama's own check wants heads that divide the width; Mistral without a window is the same model.
        return "mistral" if cfg.sliding_window or cfg.d_model % cfg.num_heads else "llama"
    if moe.balance_bias_rate:
        raise refuse("moe.balance_bias_rate", "no layout that is written keeps a bias that balances the experts")
    if moe.shared_d_ff and (cfg.qk_norm or not moe.shared_gate):
        raise refuse("moe.shared_d_ff", "a layout has a shared expert only with shared_gate and without qk_norm")
    if moe.shared_d_ff:
        return "qwen2_moe"
    if cfg.qk_norm:
        return "qwen3_moe"
    if cfg.attention_bias:
        raise refuse("attention_bias", "a layout with experts has it only beside a shared expert")
    if moe.first_dense:
        raise refuse("moe.first_dense", "without qk_norm a layout has experts in every layer")
    if not (moe.normalize_top_k or moe.softmax_after_top_k):
        raise refuse("moe.normalize_top_k", "without qk_norm a layout has gate weights that sum to one")
    return "mixtral"


def write_config(cfg: ModelConfig, kind: str = "") -> dict[str, Any]:
    """The public `config.json` of a model of ours, for transformers 5 and with the older names beside.

    kind: the layout, by default the one of `model_type_of`; a dense `qwen2` may also be a `qwen2_moe` without experts.
    Our own settings go along under `lifespan`, which others ignore. Raises UnsupportedModel as `model_type_of` does.
    """
    kind = kind or model_type_of(cfg)
    rope: dict[str, Any] = {"rope_type": "default"}
    if cfg.rope_scaling is not None:
        rope = {"rope_type": cfg.rope_scaling.kind, "factor": cfg.rope_scaling.factor}
        if cfg.rope_scaling.kind == "llama3":
            rope |= {
                "low_freq_factor": cfg.rope_scaling.low_freq_factor,
                "high_freq_factor": cfg.rope_scaling.high_freq_factor,
                "original_max_position_embeddings": cfg.rope_scaling.original_context_length,
            }
        if cfg.rope_scaling.kind == "yarn":
            rope |= {
                "beta_fast": cfg.rope_scaling.beta_fast,
                "beta_slow": cfg.rope_scaling.beta_slow,
                "original_max_position_embeddings": cfg.rope_scaling.original_context_length,
            }
            if cfg.rope_scaling.attention_factor:
                rope["attention_factor"] = cfg.rope_scaling.attention_factor
    raw: dict[str, Any] = {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "intermediate_size": cfg.hidden,
        "num_hidden_layers": cfg.num_layers,
        "num_attention_heads": cfg.num_heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.per_head,
        "hidden_act": "silu",
        "max_position_embeddings": cfg.context_length,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tie_embeddings,
        "rope_parameters": {**rope, "rope_theta": cfg.rope_theta},
        "rope_theta": cfg.rope_theta,
        "rope_scaling": None if cfg.rope_scaling is None else rope,
        "use_cache": True,
    }
    window = cfg.sliding_window or None
    if kind in ("mistral", "mixtral"):
        raw["sliding_window"] = window
    elif kind != "llama":
        raw |= {"use_sliding_window": bool(window), "sliding_window": window}
    if kind in _WINDOW_BY_LAYER:
        layer = "sliding_attention" if window else "full_attention"
        raw |= {"max_window_layers": 0 if window else cfg.num_layers, "layer_types": [layer] * cfg.num_layers}
    if kind in ("llama", "qwen3", "qwen3_moe"):
        raw["attention_bias"] = False
    if (moe := _experts_of(cfg)) is not None:
        raw |= _written_experts(cfg, moe, kind)
    elif kind == "qwen2_moe":
        raw |= {"num_experts": 0, "mlp_only_layers": list(range(cfg.num_layers)), "qkv_bias": cfg.attention_bias}
    _refuse_lost(cfg, essence(_read(raw, "config.json")))
    return raw | {OURS: dataclasses.asdict(cfg)}


_UNSCALED = dataclasses.asdict(RopeScaling())
_BANDS, _RAMP = ("low_freq_factor", "high_freq_factor"), ("beta_fast", "beta_slow", "attention_factor")
_UNREAD = {"linear": (*_BANDS, *_RAMP, "original_context_length"), "llama3": _RAMP, "yarn": _BANDS}


def essence(cfg: ModelConfig) -> ModelConfig:
    """What makes the model: defaults spelled out, and settings that no logit depends on set aside."""
    moe = _experts_of(cfg)
    has_dense = moe is None or moe.first_dense > 0
    if moe is not None:
        normalize = moe.normalize_top_k or moe.softmax_after_top_k
        moe = dataclasses.replace(
            moe, normalize_top_k=normalize, softmax_after_top_k=False, load_balance_coef=0.0, router_z_coef=0.0
        )
    scaling = cfg.rope_scaling
    if scaling is not None:  # without what its kind does not read
        scaling = dataclasses.replace(scaling, **{name: _UNSCALED[name] for name in _UNREAD[scaling.kind]})
    return dataclasses.replace(
        cfg,
        head_dim=cfg.per_head,
        num_kv_heads=cfg.kv_heads,
        d_ff=cfg.hidden if has_dense else 0,
        rope_scaling=scaling,
        moe=moe,
    )


def _refuse_lost(cfg: ModelConfig, written: ModelConfig) -> None:
    """Whatever a setting means that this module does not know: it is not left out in silence."""
    meant = essence(cfg)
    for part, mine, theirs in (("model", meant, written), ("model.moe", meant.moe, written.moe)):
        for field in dataclasses.fields(mine) if mine is not None and theirs is not None else ():
            value = getattr(mine, field.name)
            if field.name != "moe" and value != getattr(theirs, field.name):
                raise UnsupportedModel(
                    f"{part}.{field.name} is {value!r}: no public layout holds it, so this model cannot be exported"
                )


def _written_experts(cfg: ModelConfig, moe: MoEConfig, kind: str) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "num_experts_per_tok": moe.top_k_experts,
        "router_aux_loss_coef": moe.load_balance_coef,
        "output_router_logits": False,
    }
    if kind == "mixtral":
        return raw | {"num_local_experts": moe.num_experts, "intermediate_size": moe.d_ff}
    raw |= {
        "num_experts": moe.num_experts,
        "moe_intermediate_size": moe.d_ff,
        "norm_topk_prob": moe.normalize_top_k or moe.softmax_after_top_k,
        "decoder_sparse_step": 1,
        "mlp_only_layers": list(range(moe.first_dense)),
    }
    if kind == "qwen2_moe":
        raw |= {"shared_expert_intermediate_size": moe.shared_d_ff, "qkv_bias": cfg.attention_bias}
    return raw
