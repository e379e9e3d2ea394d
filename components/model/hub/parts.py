"""The parts of a model that public layouts put differently: windows, layers without positions, factors, experts.

Each is a `Part`, from the fields of a `config.json` and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from components.model.config import ModelConfig, MoEConfig
from components.model.hub.fields import Fields

T = TypeVar("T")


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of a model that layouts put differently.

    read: its value, given the fields and the number of layers; raises UnsupportedModel. write: its fields, given ours.
    """

    read: Callable[[Fields, int], T]
    write: Callable[[ModelConfig], dict[str, Any]]


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


def plain_window(absent: int) -> Part[int]:
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


GRANITE_FIELDS = ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling")


def _read_granite_scales(fields: Fields, layers: int) -> Scales:
    return Scales(*(fields.real(name, 1.0) for name in GRANITE_FIELDS))


def _write_granite_scales(cfg: ModelConfig) -> dict[str, Any]:
    scores = cfg.attention_scale or cfg.per_head**-0.5
    return dict(zip(GRANITE_FIELDS, (scores, cfg.embedding_scale, cfg.residual_scale, cfg.logit_divisor), strict=True))


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


def qwen_experts(num_experts: int, top_k: int, width: int, shared_width: int = 0) -> Part[MoEConfig | None]:
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


MIXTRAL_EXPERTS: Part[MoEConfig | None] = Part(_read_mixtral_experts, _write_mixtral_experts)
