"""What a decoder is made of, how many parameters that gives, and what a token costs.

Counts follow the arithmetic of the modules in `transformer.py` exactly; the tests hold them against the built
model and against the totals that public models state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args


@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts in place of the dense feed-forward layers.

    num_experts: experts a layer. top_k_experts: experts a token. d_ff: hidden width of one expert.
    shared_d_ff: hidden width of the shared expert that every token passes (0: none).
    shared_gate: scale the shared expert by a learned sigmoid gate.
    first_dense: this many first layers keep the dense feed-forward.
    normalize_top_k: gate weights of the chosen experts sum to one.
    softmax_after_top_k: softmax over the chosen logits alone (Jiang et al. 2024, §2.1) in place of the softmax over all
    experts before choosing (Fedus et al. 2021, eq. 1).
    load_balance_coef: weight of the load-balancing loss (Fedus et al. 2021, eq. 4).
    balance_bias_rate: step of the bias that evens out the load without a loss (Wang et al. 2024, algorithm 1; 0: none).
    router_z_coef: weight of the router z-loss (Zoph et al. 2022, eq. 5).
    """

    num_experts: int = 8
    top_k_experts: int = 1
    d_ff: int = 128
    shared_d_ff: int = 0
    shared_gate: bool = False
    first_dense: int = 0
    normalize_top_k: bool = False
    softmax_after_top_k: bool = False
    load_balance_coef: float = 0.01
    balance_bias_rate: float = 0.0
    router_z_coef: float = 0.001

    def __post_init__(self) -> None:
        if not 1 <= self.top_k_experts <= self.num_experts:
            raise ValueError(
                f"moe.top_k_experts is {self.top_k_experts}: give a number from 1 to num_experts ({self.num_experts})"
            )
        for name, least in (("d_ff", 1), ("shared_d_ff", 0), ("first_dense", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"moe.{name} is {getattr(self, name)}: give a number of at least {least}")
        if self.shared_gate and not self.shared_d_ff:
            raise ValueError("moe.shared_gate is true: there is no shared expert to gate, give moe.shared_d_ff as well")
        if self.balance_bias_rate < 0:
            raise ValueError(
                f"moe.balance_bias_rate is {self.balance_bias_rate}: give a number of at least 0 (0: no bias)"
            )


RopeKind = Literal["linear", "llama3", "yarn"]
NormPlacement = Literal["before", "after"]
QKNormOver = Literal["head", "all_heads"]


@dataclass(frozen=True)
class RopeScaling:
    """Rotary frequencies stretched for a context longer than the one trained on.

    linear: every frequency divided by `factor` (Chen et al. 2023). llama3: only wavelengths above
    original_context_length / low_freq_factor, none below original_context_length / high_freq_factor, blended between
    (Llama Team 2024, as Llama 3.1 publishes it). yarn (Peng et al. 2023, §3.2): pairs that turn fewer than `beta_slow`
    times over the original context divided by `factor`, those that turn more than `beta_fast` times kept, blended by
    their number between; and queries and keys lengthened by `attention_factor` each (§3.3; 0: 0.1 · ln(factor) + 1).
    """

    kind: RopeKind = "linear"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context_length: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in (kinds := get_args(RopeKind)):
            raise ValueError(f"rope_scaling.kind is {self.kind!r}: it takes one of {', '.join(kinds)}")
        if not 1 <= self.factor < math.inf:
            raise ValueError(f"rope_scaling.factor is {self.factor}: give a number of at least 1")
        if self.original_context_length < 1:
            raise ValueError(
                f"rope_scaling.original_context_length is {self.original_context_length}: give a number of at least 1"
            )
        if not 0 < self.beta_slow <= self.beta_fast < math.inf:
            raise ValueError(
                f"rope_scaling.beta_slow is {self.beta_slow}: it must be above 0 and at most beta_fast "
                f"({self.beta_fast})"
            )
        if not 0 <= self.attention_factor < math.inf:
            raise ValueError(f"rope_scaling.attention_factor is {self.attention_factor}: give a number of at least 0")
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                f"rope_scaling.low_freq_factor is {self.low_freq_factor}: it must be above 0 and below "
                f"high_freq_factor ({self.high_freq_factor})"
            )


@dataclass(frozen=True)
class ModelConfig:
    """A decoder transformer (RMSNorm, RoPE, grouped-query attention, SwiGLU).

    head_dim 0 means d_model / num_heads; num_kv_heads 0 means num_heads; d_ff 0 means 8/3 of d_model,
    rounded up to a multiple of 16. qk_norm: RMSNorm over queries and keys; qk_norm_over: over each head, or over all
    heads at once. norm_placement: normalise what attention and feed-forward read, or what they return (OLMo Team 2024,
    §3.2). nope_layers: layers without rotary positions (Yang et al. 2025), counted from 0. sliding_window: positions
    that a query sees, itself included (0: all before it). attention_softcap, logit_softcap: scores and logits x become
    cap · tanh(x / cap) (Gemma Team 2024, §2; 0: none). attention_scale: factor of the scores (0: 1 / √head_dim).
    embedding_scale, residual_scale: factors of the embeddings and of what each attention and feed-forward adds to the
    residual stream; logit_divisor: what the logits are divided by (Granite Team 2024).
    """

    vocab_size: int = 512
    d_model: int = 64
    num_layers: int = 4
    num_heads: int = 2
    num_kv_heads: int = 0
    head_dim: int = 0
    d_ff: int = 0
    context_length: int = 128
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    sliding_window: int = 0
    attention_softcap: float = 0.0
    logit_softcap: float = 0.0
    qk_norm: bool = True
    qk_norm_over: QKNormOver = "head"
    norm_placement: NormPlacement = "before"
    nope_layers: tuple[int, ...] = ()
    attention_scale: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_divisor: float = 1.0
    attention_bias: bool = False
    tie_embeddings: bool = True
    norm_eps: float = 1e-6
    moe: MoEConfig | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "context_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} is {getattr(self, name)}: give a number of at least 1")
        for name in ("sliding_window", "attention_softcap", "logit_softcap", "head_dim", "d_ff", "attention_scale"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"model.{name} is {getattr(self, name)}: give a number of at least 0")
        for name in ("embedding_scale", "residual_scale", "logit_divisor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"model.{name} is {getattr(self, name)}: give a number above 0")
        for name, kinds in (("norm_placement", get_args(NormPlacement)), ("qk_norm_over", get_args(QKNormOver))):
            if getattr(self, name) not in kinds:
                raise ValueError(f"model.{name} is {getattr(self, name)!r}: it takes one of {', '.join(kinds)}")
        if list(self.nope_layers) != sorted({i for i in self.nope_layers if 0 <= i < self.num_layers}):
            raise ValueError(
                f"model.nope_layers is {list(self.nope_layers)}: give ascending numbers from 0 to {self.num_layers - 1}"
            )
        if not 1 < self.rope_theta < math.inf:
            raise ValueError(f"model.rope_theta is {self.rope_theta}: give a number above 1")
        if not 0 <= self.norm_eps < math.inf:
            raise ValueError(f"model.norm_eps is {self.norm_eps}: give a number of at least 0")
        if self.head_dim == 0 and self.d_model % self.num_heads:
            raise ValueError(
                f"model.d_model is {self.d_model}, which model.num_heads = {self.num_heads} does not divide: "
                "change one, or set model.head_dim"
            )
        if self.kv_heads < 1 or self.num_heads % self.kv_heads:
            raise ValueError(f"model.num_kv_heads is {self.num_kv_heads}: it must divide num_heads ({self.num_heads})")
        if self.per_head % 2:
            raise ValueError(f"model.head_dim is {self.per_head}: rotary positions need an even number")

    @property
    def per_head(self) -> int:
        """Dimensions a head."""
        return self.head_dim or self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        """Key and value heads."""
        return self.num_kv_heads or self.num_heads

    @property
    def hidden(self) -> int:
        """Hidden width of a dense feed-forward layer."""
        return self.d_ff or -(-8 * self.d_model // 48) * 16


@dataclass(frozen=True)
class LSTMConfig:
    """A recurrent language model: residual blocks of norm, LSTM of width `hidden`, and a projection back to d_model."""

    vocab_size: int = 512
    d_model: int = 64
    num_layers: int = 2
    hidden: int = 128
    context_length: int = 128
    tie_embeddings: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "hidden", "context_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"lstm.{name} is {getattr(self, name)}: give a number of at least 1")

    @property
    def layer_params(self) -> int:
        """Parameters of a block: four gates from input and state with two biases each (as `torch.nn.LSTM` has them),
        the projection, the norm."""
        gates = 4 * self.hidden * (self.d_model + self.hidden + 2)
        return gates + self.hidden * self.d_model + self.d_model


def equal_lstm(cfg: ModelConfig, num_layers: int) -> LSTMConfig:
    """The recurrent model of the same embeddings whose parameter count is nearest to that of `cfg`.

    Raises ValueError when the nearest is more than 2% off: a block of the smallest hidden width is then too large, or
    one step of the width too coarse.
    """
    target = count_params(cfg).total
    found = min(
        (
            LSTMConfig(cfg.vocab_size, cfg.d_model, num_layers, hidden, cfg.context_length, cfg.tie_embeddings)
            for hidden in range(1, 16 * cfg.d_model * max(1, -(-cfg.num_layers // num_layers)))
        ),
        key=lambda lstm: abs(count_params(lstm).total - target),
    )
    if abs((nearest := count_params(found).total) - target) > 0.02 * target:
        raise ValueError(
            f"no LSTM of {num_layers} layers has about {target:,} parameters (the nearest {nearest:,}): "
            "change the number of layers"
        )
    return found


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """The inverse of `dataclasses.asdict`. Raises TypeError or ValueError for what is no configuration."""
    parts = {"moe": MoEConfig, "rope_scaling": RopeScaling}
    nested = {name: _of_its_types(kind, values[name]) for name, kind in parts.items() if values.get(name) is not None}
    layers = values.get("nope_layers", ())
    if not isinstance(layers, (list, tuple)) or not all(type(layer) is int for layer in layers):
        raise TypeError(f"nope_layers is {layers!r}: takes a list of whole numbers")
    config: ModelConfig = _of_its_types(ModelConfig, {**values, **nested, "nope_layers": tuple(layers)})
    return config


def _of_its_types(kind: Any, values: Any) -> Any:
    """A configuration from a file, where a number may be a text and a whole one not whole."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{values!r} stands where settings by name are taken")
    for field in fields(kind):
        value, taken = values.get(field.name, field.default), type(field.default)
        if taken in (bool, int, float, str) and type(value) not in ((int, float) if taken is float else (taken,)):
            raise TypeError(f"{field.name} is {value!r}: takes a value like {field.default!r}")
    return kind(**values)


def linear_maps(cfg: ModelConfig) -> tuple[str, ...]:
    """Names of the linear maps of `Transformer(cfg)`, those of the layers without the number of the layer; experts are
    none."""
    dense, moe = ("mlp.gate_up", "mlp.down"), cfg.moe
    names = ["attention.qkv", "attention.out"]
    if moe is None or moe.first_dense:
        names += dense
    if moe is not None and moe.first_dense < cfg.num_layers:
        shared = ("mlp.shared_gate_up", "mlp.shared_down") if moe.shared_d_ff else ()
        names += ["mlp.router", *shared, *(["mlp.shared_gate"] if moe.shared_gate else [])]
    return (*(f"blocks.{name}" for name in names), *([] if cfg.tie_embeddings else ["unembedding"]))


ParamConvention = Literal["total", "active", "non_embedding"]


@dataclass(frozen=True)
class ParamCount:
    """Parameters by convention. `total` is every weight once (tied weights once); `active` is what one token uses
    (the chosen experts only); `non_embedding` is the total without the embedding and the output matrix."""

    total: int
    active: int
    non_embedding: int
    embedding: int


def count_params(cfg: ModelConfig | LSTMConfig) -> ParamCount:
    """Exact parameter counts of `Transformer(cfg)` or `RecurrentModel(cfg)`."""
    if isinstance(cfg, LSTMConfig):
        inner = cfg.num_layers * cfg.layer_params + cfg.d_model  # the last norm
        embedding = cfg.vocab_size * cfg.d_model * (1 if cfg.tie_embeddings else 2)
        return ParamCount(inner + embedding, inner + embedding, inner, embedding)
    d, c = cfg.d_model, cfg.per_head
    q, kv = cfg.num_heads * c, cfg.kv_heads * c
    attention = d * q + 2 * d * kv + q * d
    if cfg.attention_bias:
        attention += q + 2 * kv
    if cfg.qk_norm:
        attention += q + kv if cfg.qk_norm_over == "all_heads" else 2 * c
    layer = attention + 2 * d  # two norms
    dense = 3 * d * cfg.hidden
    total = active = 0
    for index in range(cfg.num_layers):
        total += layer
        active += layer
        if cfg.moe is None or index < cfg.moe.first_dense:
            total += dense
            active += dense
            continue
        moe = cfg.moe
        shared = 3 * d * moe.shared_d_ff + (d if moe.shared_gate else 0)
        router = d * moe.num_experts
        total += router + shared + moe.num_experts * 3 * d * moe.d_ff
        active += router + shared + moe.top_k_experts * 3 * d * moe.d_ff
    total += d  # the last norm
    active += d
    embedding = cfg.vocab_size * d * (1 if cfg.tie_embeddings else 2)
    return ParamCount(total + embedding, active + embedding, total, embedding)


def forward_flops_per_token(cfg: ModelConfig | LSTMConfig, context: int, *, causal: bool = True) -> float:
    """Forward FLOPs of one token (a multiply-add counts two), at a mean over the positions of a window.

    context: window length in tokens. With `causal`, a position attends to (context + 1) / 2 keys on average (fewer in
    a sliding window), the work that is needed; without, to all, the work that a full attention matrix does.
    Counted: every matrix product and the two attention products; not norms, activations, or the look-up. A token
    of an LSTM costs the same at every position.
    """
    if isinstance(cfg, LSTMConfig):
        layer = 4 * cfg.hidden * (cfg.d_model + cfg.hidden) + cfg.hidden * cfg.d_model
        return 2.0 * (cfg.num_layers * layer + cfg.d_model * cfg.vocab_size)
    d, c = cfg.d_model, cfg.per_head
    q, kv = cfg.num_heads * c, cfg.kv_heads * c
    keys = float(context)
    if causal:  # position t sees min(t, window) keys, counting from 1
        keys = float(min(context, cfg.sliding_window or context))
        keys = keys * (context - (keys - 1) / 2) / context
    attention = 2 * (d * q + 2 * d * kv + q * d) + 2 * 2 * q * keys
    flops = 0.0
    for index in range(cfg.num_layers):
        flops += attention
        if cfg.moe is None or index < cfg.moe.first_dense:
            flops += 2 * 3 * d * cfg.hidden
        else:
            moe = cfg.moe
            flops += 2 * d * moe.num_experts + 2 * 3 * d * (moe.top_k_experts * moe.d_ff + moe.shared_d_ff)
            flops += 2 * d * moe.shared_gate
    return flops + 2 * d * cfg.vocab_size


def training_flops_per_token(cfg: ModelConfig | LSTMConfig, context: int) -> float:
    """Forward plus backward: three times the forward pass (the backward makes two products for each of its one)."""
    return 3 * forward_flops_per_token(cfg, context)


def products_in_a_row(cfg: ModelConfig | LSTMConfig, context: int) -> int:
    """Matrix products of a forward pass over a window that have to wait for one another, whatever the machine.

    A decoder layer has six (queries with keys and values, scores, mixed values, output, up, down; a router makes it
    seven), and all positions share them. A recurrence adds one for every position but the first, while its layers can
    run side by side, one position apart. The logits are one more.
    """
    if isinstance(cfg, LSTMConfig):
        return context - 1 + 2 * cfg.num_layers + 1
    routed = 0 if cfg.moe is None else max(0, cfg.num_layers - cfg.moe.first_dense)
    return 6 * cfg.num_layers + routed + 1
