"""A public `config.json` as our configuration, and ours as a public one; what sets layouts apart is in
`components/model/hub/architectures.py`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

from components.model.config import ModelConfig, RopeKind, RopeScaling, config_from_dict
from components.model.hub import architectures
from components.model.hub.architectures import Architecture, architecture_in
from components.model.hub.errors import UnsupportedModel
from components.model.hub.fields import Fields
from components.model.hub.parts import experts_of

OURS = "lifespan"  # the key under which a config that we wrote carries our own settings
_NEEDED = {"linear": (), "llama3": ("factor", "low_freq_factor", "high_freq_factor"), "yarn": ("factor",)}
_EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


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
    fields = Fields(raw, where)
    arch = architecture_in(fields)
    neutral_values = {**architectures.NEUTRAL, **arch.neutral}
    for name in arch.own_fields:
        neutral_values.pop(name, None)
    for name, neutral in neutral_values.items():
        if name in raw and raw[name] not in neutral:
            takes = " or ".join(str(value) for value in neutral if value is not None) or "no value"
            raise fields.refuse(name, raw[name], f"the {arch.model_type} layout is read with {takes} alone")
    if not arch.attention_bias and raw.get("attention_bias"):
        raise fields.refuse(
            "attention_bias", raw["attention_bias"], "it also puts a bias on the output projection, which ours has not"
        )
    heads = fields.whole("num_attention_heads")
    d_model, layers = fields.whole("hidden_size"), fields.whole("num_hidden_layers")
    context = fields.whole("max_position_embeddings")
    theta, scaling = _rope(fields, arch, context)
    scales = arch.scales.read(fields, layers)
    # Null says the same in every layout, whatever its class takes for a field that is absent.
    kv_absent = heads if "num_key_value_heads" in raw else arch.num_kv_heads or heads
    if arch.experts is None:
        for name in _EXPERT_FIELDS:
            if raw.get(name) not in (None, 0, 1):
                raise fields.refuse(name, raw[name], f"the {arch.model_type} layout has no experts")
    biased = fields.flag(arch.attention_bias, True) if isinstance(arch.attention_bias, str) else arch.attention_bias
    try:
        return ModelConfig(
            vocab_size=fields.whole("vocab_size"),
            d_model=d_model,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=fields.whole("num_key_value_heads", kv_absent),
            head_dim=fields.whole("head_dim", arch.head_dim or max(1, d_model // heads)),
            d_ff=fields.whole("intermediate_size") if arch.dense_layers else 0,
            context_length=context,
            rope_theta=theta,
            rope_scaling=scaling,
            sliding_window=arch.window.read(fields, layers),
            qk_norm=arch.qk_norm,
            qk_norm_over=arch.qk_norm_over,
            norm_placement=arch.norm_placement,
            nope_layers=arch.bare_layers.read(fields, layers),
            attention_scale=scales.attention,
            embedding_scale=scales.embedding,
            residual_scale=scales.residual,
            logit_divisor=scales.logit_divisor,
            attention_bias=biased,
            tie_embeddings=fields.flag("tie_word_embeddings", arch.tie_embeddings),
            norm_eps=fields.real("rms_norm_eps", arch.norm_eps),
            moe=arch.experts.read(fields, layers) if arch.experts else None,
        )
    except UnsupportedModel:
        raise
    except ValueError as error:
        raise UnsupportedModel(f"{where}: {error}") from None


def _rope(fields: Fields, arch: Architecture, context: int) -> tuple[float, RopeScaling | None]:
    """Base and stretching of the rotary positions, from `rope_parameters` or the older rope_theta and rope_scaling."""
    raw = fields.raw
    name = "rope_scaling" if raw.get("rope_scaling") else "rope_parameters"
    given = raw.get(name) or {}
    if not isinstance(given, Mapping) or any(isinstance(value, Mapping) for value in given.values()):
        raise fields.refuse(name, given, "takes one set of rotary settings for all layers")
    theta = fields.real("rope_theta", fields.real("rope_theta", arch.rope_theta), given)
    if given.get("partial_rotary_factor") not in (None, 1, 1.0):
        found = given["partial_rotary_factor"]
        raise fields.refuse(f"{name}.partial_rotary_factor", found, "a head is rotated as a whole or not read")
    kind = given.get("rope_type", given.get("type", "default"))
    if kind in (None, "default"):
        return theta, None
    takes = arch.rope_kinds or ("default", *get_args(RopeKind))
    if kind not in takes:
        raise fields.refuse(f"{name}.rope_type", kind, f"the {arch.model_type} layout is read with {', '.join(takes)}")
    inner = Fields(given, f"{fields.where}: {name}")
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


def _yarn(fields: Fields, factor: float, original: int) -> RopeScaling:
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


# -- ours as a public one ---------------------------------------------------------------------------------------------


def architecture_for(cfg: ModelConfig, tokenizer_patterns: frozenset[str] | None = None) -> Architecture:
    """The public layout of a model of ours: the first of ARCHITECTURES that holds all of it.

    tokenizer_patterns: what the model's tokenizer cuts text by, None for no tokenizer. Raises UnsupportedModel naming
    the settings that the nearest layouts do not hold.
    """
    near: list[tuple[dict[str, Any], str]] = []
    unreadable: UnsupportedModel | None = None
    for arch in architectures.ARCHITECTURES:
        if arch.heads_divide_width and cfg.d_model % cfg.num_heads:
            continue
        if (
            arch.tokenizer_pattern
            and tokenizer_patterns is not None
            and arch.tokenizer_pattern not in tokenizer_patterns
        ):
            continue
        try:
            lost = lost_settings(cfg, _read(_written(cfg, arch), "config.json"))
        except UnsupportedModel as error:
            unreadable = unreadable or error
            continue
        if not lost:
            return arch
        near.append((lost, arch.model_type))
    if unreadable is not None and not near:
        raise unreadable
    near.sort(key=lambda layout: ("model.moe" in layout[0], len(layout[0])))
    nearest, rest = near[0], [layout for layout in near if not near[0][0].keys() <= layout[0].keys()]
    listed = "; ".join(
        f"{', '.join(f'{setting} is {value!r}' for setting, value in lost.items())}, which {name} does not hold"
        for lost, name in (nearest, *rest[:1])
    )
    raise UnsupportedModel(f"{listed}: no public layout holds this model, so it cannot be exported")


def write_config(cfg: ModelConfig, arch: Architecture | None = None) -> dict[str, Any]:
    """The public `config.json` of a model of ours, for transformers 5 and with the older names beside.

    arch: from `architecture_for`, which is also the default. Our own settings go along under `lifespan`, which others
    ignore. Raises UnsupportedModel as `architecture_for` does.
    """
    return _written(cfg, arch or architecture_for(cfg)) | {OURS: dataclasses.asdict(cfg)}


def _written(cfg: ModelConfig, arch: Architecture) -> dict[str, Any]:
    rope = _written_rope(cfg.rope_scaling)
    raw: dict[str, Any] = {
        "architectures": [arch.class_name],
        "model_type": arch.model_type,
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
    raw |= arch.window.write(cfg) | arch.bare_layers.write(cfg) | arch.scales.write(cfg)
    raw |= arch.also_written
    if arch.experts is not None:
        raw |= arch.experts.write(cfg)
    if isinstance(arch.attention_bias, str):
        raw[arch.attention_bias] = cfg.attention_bias
    return raw


def _written_rope(scaling: RopeScaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    rope: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context_length,
        }
    if scaling.kind == "yarn":
        rope |= {
            "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
            "original_max_position_embeddings": scaling.original_context_length,
        }
        if scaling.attention_factor:
            rope["attention_factor"] = scaling.attention_factor
    return rope


_UNSCALED = dataclasses.asdict(RopeScaling())
_BANDS, _RAMP = ("low_freq_factor", "high_freq_factor"), ("beta_fast", "beta_slow", "attention_factor")
_UNREAD = {"linear": (*_BANDS, *_RAMP, "original_context_length"), "llama3": _RAMP, "yarn": _BANDS}


def essence(cfg: ModelConfig) -> ModelConfig:
    """What makes the model: defaults spelled out, and settings that no logit depends on set aside."""
    moe = experts_of(cfg)
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
        qk_norm_over=cfg.qk_norm_over if cfg.qk_norm else "head",
        attention_scale=cfg.attention_scale or cfg.per_head**-0.5,
    )


def lost_settings(cfg: ModelConfig, read_back: ModelConfig) -> dict[str, Any]:
    """Settings of ours that a file did not keep, by name: whatever a new one means, it is not left out in
    silence."""
    mine, theirs = essence(cfg), essence(read_back)
    lost = {f"model.{name}": value for name, value in _differing(mine, theirs).items() if name != "moe"}
    if mine.moe is not None and theirs.moe is not None:
        return lost | {f"model.moe.{name}": value for name, value in _differing(mine.moe, theirs.moe).items()}
    return lost | ({} if mine.moe == theirs.moe else {"model.moe": mine.moe})


def _differing(mine: Any, theirs: Any) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(mine))
    return {name: getattr(mine, name) for name in names if getattr(mine, name) != getattr(theirs, name)}
