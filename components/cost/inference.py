"""What serving costs: a roofline of prefill and decode, and dollars per million tokens, modelled or measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.cost.hardware import Hardware


@dataclass(frozen=True)
class ServedModel:
    """What the time of a token depends on. `total_params` lie in memory, `active_params` compute for each token; of the
    total, `expert_params` belong to `num_experts` routed experts, `top_k_experts` of which a token uses in each layer
    (a dense model has none). `weight_bytes`, `kv_bytes`: bytes per weight and per cached number."""

    total_params: float
    active_params: float
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    expert_params: float = 0.0
    num_experts: int = 1
    top_k_experts: int = 1
    weight_bytes: float = 2.0
    kv_bytes: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.active_params <= self.total_params:
            raise ValueError(
                f"active_params must lie in (0, total_params], got {self.active_params}, {self.total_params}"
            )
        if not 0 <= self.expert_params <= self.total_params:
            raise ValueError(f"expert_params must lie in [0, total_params], got {self.expert_params}")
        if not 1 <= self.top_k_experts <= self.num_experts:
            raise ValueError(f"top_k_experts must lie in 1..num_experts, got {self.top_k_experts}, {self.num_experts}")

    def touched_bytes(self, tokens: float) -> float:
        """Bytes of weights that a step over `tokens` tokens reads: all that is shared, and each expert with the
        probability that some token is routed to it, 1 - (1 - k/E)^tokens (uniform routing)."""
        share = 1.0 - (1.0 - self.top_k_experts / self.num_experts) ** tokens
        return self.weight_bytes * (self.total_params - self.expert_params * (1.0 - share))

    def cache_bytes(self, context: float) -> float:
        """Bytes of keys and values of one sequence of `context` tokens: 2·L·n_kv·d_h·context·bytes."""
        return 2.0 * self.num_layers * self.num_kv_heads * self.head_dim * context * self.kv_bytes


@dataclass(frozen=True)
class Serving:
    """Devices that serve one copy, and the shares of their peak FLOP/s and bandwidth that are reached in practice.

    Several devices are taken to add up (tensor parallel without its communication): an upper bound of speed.
    """

    hardware: Hardware
    num_devices: int = 1
    compute_efficiency: float = 0.5
    bandwidth_efficiency: float = 0.7

    def __post_init__(self) -> None:
        if self.num_devices < 1:
            raise ValueError(f"num_devices must be at least 1, got {self.num_devices}")
        for name in ("compute_efficiency", "bandwidth_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")

    @property
    def flops(self) -> float:
        """FLOP/s reached."""
        return self.hardware.peak_flops * self.num_devices * self.compute_efficiency

    @property
    def bandwidth(self) -> float:
        """Bytes/s reached."""
        return self.hardware.memory_bandwidth * self.num_devices * self.bandwidth_efficiency


def decode_step_seconds(model: ServedModel, serving: Serving, batch: float, context: float) -> float:
    """Seconds of one decode step: a token for each of `batch` sequences with `context` tokens in the cache.

    The larger of computing, 2·N_active·b plus attention's 4·L·H·d_h·context·b, and reading the touched weights and
    every sequence's cache.
    """
    attention = 4.0 * model.num_layers * model.num_heads * model.head_dim * context * batch
    compute = (2.0 * model.active_params * batch + attention) / serving.flops
    memory = (model.touched_bytes(batch) + batch * model.cache_bytes(context)) / serving.bandwidth
    return max(compute, memory)


def decode_tokens_per_second(model: ServedModel, serving: Serving, batch: float, context: float) -> float:
    """Output tokens per second over the whole batch."""
    return batch / decode_step_seconds(model, serving, batch, context)


def prefill_seconds(model: ServedModel, serving: Serving, prompt_tokens: float, batch: float = 1) -> float:
    """Seconds to read `batch` prompts of `prompt_tokens` tokens: 2·N_active per token and causal attention's
    2·L·H·d_h·T² per prompt, or reading the touched weights once where that is slower."""
    attention = 2.0 * model.num_layers * model.num_heads * model.head_dim * prompt_tokens**2
    compute = batch * (2.0 * model.active_params * prompt_tokens + attention) / serving.flops
    return max(compute, model.touched_bytes(batch * prompt_tokens) / serving.bandwidth)


def largest_batch(model: ServedModel, serving: Serving, context: float, reserve: float = 0.1) -> int:
    """How many sequences of `context` tokens fit beside the weights, `reserve` of the memory left free.

    Raises ValueError when the weights alone do not fit.
    """
    room = serving.hardware.memory_bytes * serving.num_devices * (1.0 - reserve)
    weights = model.weight_bytes * model.total_params
    if weights > room:
        needed = math.ceil(weights / (serving.hardware.memory_bytes * (1.0 - reserve)))
        raise ValueError(
            f"the weights take {weights / 1e9:.1f} GB and {serving.num_devices} x {serving.hardware.name} hold "
            f"{room / 1e9:.1f}: use {needed} devices or fewer bytes per weight"
        )
    return int((room - weights) // model.cache_bytes(context))


@dataclass(frozen=True)
class TokenPrices:
    """What a million prompt tokens and a million generated tokens cost to serve, in US dollars."""

    input: float
    output: float

    def request(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars of one request."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


def usd_per_million_tokens(tokens_per_second: float, usd_per_hour: float) -> float:
    """Dollars per million tokens at a steady rate of devices that cost `usd_per_hour` together."""
    if not tokens_per_second > 0:
        raise ValueError(f"tokens_per_second must be positive, got {tokens_per_second}")
    return usd_per_hour / 3600.0 / tokens_per_second * 1e6


def measured_prices(
    input_tokens_per_second: float, output_tokens_per_second: float, usd_per_hour: float
) -> TokenPrices:
    """Prices from measured rates: prefill alone gives the first, decode alone the second."""
    return TokenPrices(
        usd_per_million_tokens(input_tokens_per_second, usd_per_hour),
        usd_per_million_tokens(output_tokens_per_second, usd_per_hour),
    )


def modelled_prices(
    model: ServedModel, serving: Serving, usd_per_hour: float, batch: int, input_tokens: float, output_tokens: float
) -> TokenPrices:
    """Prices by the roofline for requests of `input_tokens` and `output_tokens`, `batch` at a time.

    `usd_per_hour` is the price of one device. Decode is taken at its mean context, input plus half of the output.
    """
    rent = usd_per_hour * serving.num_devices
    prefill = batch * input_tokens / prefill_seconds(model, serving, input_tokens, batch)
    decode = decode_tokens_per_second(model, serving, batch, input_tokens + output_tokens / 2)
    return measured_prices(prefill, decode, rent)
