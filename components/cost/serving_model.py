"""How fast a model is served on hardware that nobody measured it on: a structural model of decoding and of prefill.

One step takes max(m, c) + overlap·min(m, c) + what layers, sequences and communication cost. m are the seconds in
which the weights that the step touches and the cache are read, c those in which it computes; both at the device's
peaks, over the shares of them that are reached. A roofline is the special case with all shares 1 and all else 0. The
constants are fitted to public measurements by `components.cost.calibration` and lie in `catalogue/serving.toml` with
the errors on points that the fit had not seen.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from components.cost.entries import CatalogueError, Entry
from components.cost.hardware import Hardware, Precision
from components.statistics import Interval

Number: TypeAlias = float | NDArray[np.float64]
# server: a process that batches requests as they come and samples each by itself (vLLM). loop: one compiled loop over a
# fixed batch (gpt-fast). framework: a framework's own attention over a cache that it copies (transformers, plain JAX).
Engine = Literal["server", "loop", "framework"]
CONSTANTS = Path(__file__).parent / "catalogue/serving.toml"


@dataclass(frozen=True)
class ServedModel:
    """What the time of a token depends on. `total_params` lie in memory, `active_params` compute for each token; of the
    total, `expert_params` belong to `num_experts` routed experts, `top_k_experts` of which a token uses in each layer
    (a dense model has none). `weight_bytes`, `kv_bytes`: bytes per weight and per cached number; below 2, weights are
    quantised. `precision`: that matrix products are computed in."""

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
    precision: Precision = "bf16"

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


def usual_shape(num_params: float) -> ServedModel:
    """A dense decoder of `num_params` parameters (non-embedding) in 16 bits, with the proportions of Llama models.

    12·L·d² parameters at a width of about 100 per layer (Llama 2: 128 at 7B, 102 at 70B), heads of 128 (narrower
    in narrow models), and up to 8 heads of keys and values. Raises ValueError unless 0 < num_params < inf.
    """
    if not 0 < num_params < math.inf:
        raise ValueError(f"num_params must be positive and finite, got {num_params}")
    layers = max(1, round((num_params / 1.2e5) ** (1 / 3)))
    width = max(8, round(math.sqrt(num_params / (12 * layers))))
    head_dim = 128 if width >= 1024 else min(64, width)
    heads = max(1, round(width / head_dim))
    return ServedModel(num_params, num_params, layers, heads, min(8, heads), head_dim)


@dataclass(frozen=True)
class Replica:
    """Devices that hold one copy of a model, each layer split over all of them (tensor parallel)."""

    hardware: Hardware
    num_devices: int = 1

    def __post_init__(self) -> None:
        if self.num_devices < 1:
            raise ValueError(f"num_devices must be at least 1, got {self.num_devices}")
        if self.num_devices > 1 and self.hardware.interconnect_bandwidth is None:
            raise ValueError(f"{self.hardware.name}: the catalogue knows no interconnect, so a copy takes one device")

    def ring_seconds(self, num_bytes: float) -> float:
        """Seconds at the link's peak to sum `num_bytes` over all devices in a ring, 2(n-1)/n of them each way."""
        if self.num_devices == 1 or self.hardware.interconnect_bandwidth is None:
            return 0.0
        each_way = self.hardware.interconnect_bandwidth / 2
        return 2.0 * (self.num_devices - 1) / self.num_devices * num_bytes / each_way


@dataclass(frozen=True)
class ServingConstants:
    """What steps cost beyond the peaks.

    `weights`, `cache`: shares of the bandwidth that are reached; `compute`, `prefill_compute`, `framework_prefill`: of
    the FLOP/s, in decoding, in a server's or loop's prefill, and in a framework's. `moe`, `quantised`: times longer to
    read weights that are experts' or quantised. `overlap`: share of the shorter of reading and computing that is not
    hidden. `*_seconds`: per layer, per sequence (a server's), and per layer of synchronising several devices.
    `framework_cache`: times longer a framework reads its cache. `decode_low` to `decode_high`: measured over modelled
    seconds of a decode step, 5% and 95% of the points that the fit had not seen; `prefill_low` to `prefill_high`: of
    whole requests.
    """

    weights: float
    cache: float
    compute: float
    moe: float
    quantised: float
    overlap: float
    layer_seconds: float
    sequence_seconds: float
    hop_seconds: float
    framework_cache: float
    prefill_compute: float
    framework_prefill: float
    decode_low: float
    decode_high: float
    decode_points: int
    prefill_low: float
    prefill_high: float
    prefill_points: int


@cache
def serving_constants(file: Path = CONSTANTS) -> ServingConstants:
    """The calibrated constants. Raises CatalogueError naming the field of a file that is not what calibration
    writes."""
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogueError(f"{file}: cannot be read as TOML: {error}") from None
    entry = Entry(f"{file}, [constants]", content.get("constants", {}))
    names = [field.name for field in fields(ServingConstants)]
    entry.check_names(names)
    found: dict[str, Any] = {name: entry.number(name) for name in names}
    return ServingConstants(**{**found, **{name: int(found[name]) for name in names if name.endswith("_points")}})


@dataclass(frozen=True)
class TrainingShare:
    """Share of the dense peak that public runs reach, by 6N: the middle one of `n`, with 5% and 95%."""

    n: int
    low: float
    middle: float
    high: float


@cache
def training_share(hardware: str, file: Path = CONSTANTS) -> TrainingShare:
    """Of runs on that device, or on all devices together where too few are public."""
    shares = tomllib.loads(file.read_text(encoding="utf-8"))["training"]
    return TrainingShare(**shares.get(hardware, shares["all"]))


@cache
def expected_error(file: Path = CONSTANTS) -> float:
    """Mean error of a decode step of a model that the fit had not seen, as a share."""
    return float(tomllib.loads(file.read_text(encoding="utf-8"))["errors"]["model_left_out"]["mean"])


@dataclass(frozen=True)
class StepWork:
    """One step, or arrays of steps: seconds at the device's peaks to read weights and cache, to compute, and to sum
    over devices; layers, sequences, and 0 or 1 for each kind."""

    weights: Number
    cache: Number
    compute: Number
    ring: Number
    layers: Number
    sequences: Number
    is_moe: Number
    is_quantised: Number
    is_split: Number
    is_server: Number
    is_framework: Number


def decode_work(
    model: ServedModel,
    on: Replica,
    batch: float,
    context: float,
    engine: Engine = "server",
    prompt_per_token: float = 0.0,
) -> StepWork:
    """The work of one token for each of `batch` sequences with `context` tokens in the cache. `prompt_per_token`:
    prompt tokens of arriving requests that are read in the same step, for each token generated (0: none, prompts are
    read elsewhere or apart)."""
    device, n = on.hardware, on.num_devices
    width = model.num_heads * model.head_dim
    attention = 4.0 * model.num_layers * width * context * batch
    rows = batch * (1.0 + prompt_per_token)
    return StepWork(
        weights=model.touched_bytes(rows) / (n * device.memory_bandwidth),
        cache=batch * model.cache_bytes(context) / (n * device.memory_bandwidth),
        compute=(2.0 * model.active_params * rows + attention) / (n * device.peak(model.precision)),
        ring=2.0 * model.num_layers * on.ring_seconds(2.0 * width * rows),
        layers=model.num_layers,
        sequences=batch,
        is_moe=float(model.num_experts > 1),
        is_quantised=float(model.weight_bytes < 2),
        is_split=float(n > 1),
        is_server=float(engine == "server"),
        is_framework=float(engine == "framework"),
    )


def step_seconds(work: StepWork, k: ServingConstants) -> Number:
    """Seconds of a decode step, as at the top of this module."""
    # k^flag: k for those that are of the kind, 1 for all others.
    reading = work.weights / k.weights * k.moe**work.is_moe * k.quantised**work.is_quantised
    reading = reading + work.cache / k.cache * k.framework_cache**work.is_framework
    computing = work.compute / k.compute
    core = np.maximum(reading, computing) + k.overlap * np.minimum(reading, computing)
    apart = k.layer_seconds * work.layers + k.sequence_seconds * work.sequences * work.is_server
    return core + apart + work.ring + k.hop_seconds * work.layers * work.is_split


def decode_tokens_per_second(
    model: ServedModel,
    on: Replica,
    batch: float,
    context: float,
    engine: Engine = "server",
    prompt_per_token: float = 0.0,
    constants: ServingConstants | None = None,
) -> Interval:
    """Output tokens per second of all sequences together, with the range that held 90% of the points that the fit had
    not seen (`n` of them)."""
    k = constants or serving_constants()
    seconds = float(step_seconds(decode_work(model, on, batch, context, engine, prompt_per_token), k))
    return Interval(
        batch / seconds, batch / (seconds * k.decode_high), batch / (seconds * k.decode_low), k.decode_points
    )


def prefill_work(
    model: ServedModel, on: Replica, prompt_tokens: float, batch: float = 1, engine: Engine = "server"
) -> StepWork:
    """The work of reading `batch` prompts of `prompt_tokens` tokens: 2·N_active a token and causal attention's
    2·L·H·d_h·T² a prompt, with one pass over the touched weights."""
    device, n = on.hardware, on.num_devices
    width = model.num_heads * model.head_dim
    flops = batch * (2.0 * model.active_params * prompt_tokens + 2.0 * model.num_layers * width * prompt_tokens**2)
    return StepWork(
        weights=model.touched_bytes(batch * prompt_tokens) / (n * device.memory_bandwidth),
        cache=0.0,
        compute=flops / (n * device.peak(model.precision)),
        ring=2.0 * model.num_layers * on.ring_seconds(2.0 * width * batch * prompt_tokens),
        layers=model.num_layers,
        sequences=batch,
        is_moe=float(model.num_experts > 1),
        is_quantised=float(model.weight_bytes < 2),
        is_split=float(n > 1),
        is_server=0.0,
        is_framework=float(engine == "framework"),
    )


def prefill_step_seconds(work: StepWork, k: ServingConstants) -> Number:
    """Seconds of prefill: a step whose matrix products are large and reach another share of the peak."""
    reading = work.weights / k.weights * k.moe**work.is_moe * k.quantised**work.is_quantised
    computing = work.compute / (k.prefill_compute ** (1 - work.is_framework) * k.framework_prefill**work.is_framework)
    core = np.maximum(reading, computing) + k.overlap * np.minimum(reading, computing)
    return core + k.layer_seconds * work.layers + work.ring + k.hop_seconds * work.layers * work.is_split


def prefill_tokens_per_second(
    model: ServedModel, on: Replica, prompt_tokens: float, batch: float = 1, constants: ServingConstants | None = None
) -> Interval:
    """Prompt tokens per second, with the range as of `decode_tokens_per_second`."""
    k = constants or serving_constants()
    seconds = float(prefill_step_seconds(prefill_work(model, on, prompt_tokens, batch), k))
    rate = batch * prompt_tokens / seconds
    return Interval(rate, rate / k.prefill_high, rate / k.prefill_low, k.prefill_points)


def largest_batch(model: ServedModel, on: Replica, context: float, reserve: float = 0.1) -> int:
    """How many sequences of `context` tokens fit beside the weights, `reserve` of the memory left free.

    Raises ValueError when the weights alone do not fit.
    """
    room = on.hardware.memory_bytes * on.num_devices * (1.0 - reserve)
    weights = model.weight_bytes * model.total_params
    if weights > room:
        needed = math.ceil(weights / (on.hardware.memory_bytes * (1.0 - reserve)))
        raise ValueError(
            f"the weights take {weights / 1e9:.1f} GB and {on.num_devices} x {on.hardware.name} hold "
            f"{room / 1e9:.1f}: use {needed} devices or fewer bytes per weight"
        )
    return int((room - weights) // model.cache_bytes(context))


def fitting_replica(model: ServedModel, hardware: Hardware, context: float, batch: int = 1) -> Replica:
    """The fewest devices, a power of two, that hold the weights and `batch` sequences of `context` tokens.

    Raises ValueError where several are needed and the catalogue knows no interconnect.
    """
    needed = model.weight_bytes * model.total_params + batch * model.cache_bytes(context)
    devices = max(1, math.ceil(needed / (0.9 * hardware.memory_bytes)))
    return Replica(hardware, 2 ** math.ceil(math.log2(devices)))
