"""Training on many devices, on paper: what a layout holds on each device, sends in each step, and keeps of the peak.

A layout splits n = data x tensor x pipeline devices. `data` replicas work on different sequences, and their weights,
gradients and optimizer states are whole ("ddp") or sharded ("fsdp", ZeRO-3: Rajbhandari et al. 2020); `tensor` devices
share each matrix and, with sequence parallelism, each activation (Korthikanti et al. 2022); `pipeline` stages hold
layers in a row and work one forward, one backward (Narayanan et al. 2021); `expert` spreads the experts of a mixture
over devices of the data group. Activations are those of plain torch in bf16 (`components.training.memory_estimate`), a
tensor group sharing them. What is left out: variations between devices, networks shared with others, stragglers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Literal

from components.cost.failures import CHECKPOINT_BYTES
from components.cost.hardware import Hardware
from components.cost.public_models import expert_params
from components.cost.training_shares import training_share
from components.model.config import ModelConfig, count_params, training_flops_per_token
from components.training.memory_estimate import layer_activations

Sharding = Literal["ddp", "fsdp"]
HALF = 2.0  # bytes of bf16
LOGIT_BYTES = 8.0  # a logit in fp32 and its gradient
LOSS_CHUNK = 2048  # tokens whose logits exist at once


@dataclass(frozen=True)
class Layout:
    """How devices share one training. `micro_batch`: sequences that a replica passes at once; `recompute`: only the
    inputs of layers are kept for the backward pass, which computes the rest again."""

    data: int
    tensor: int = 1
    pipeline: int = 1
    expert: int = 1
    sharding: Sharding = "fsdp"
    micro_batch: int = 1
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline", "expert", "micro_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: takes at least 1")
        if self.data % self.expert:
            raise ValueError(f"expert is {self.expert}: takes a divisor of data, which is {self.data}")

    @property
    def num_devices(self) -> int:
        """Of the whole training."""
        return self.data * self.tensor * self.pipeline


@dataclass(frozen=True)
class Training:
    """One training. `batch_tokens`: of a step, all devices together; `context`: tokens of a sequence."""

    model: ModelConfig
    hardware: Hardware
    batch_tokens: float
    context: int
    devices_per_node: int = 8
    network_bytes_per_second: float = 50e9  # a device's, one way: a 400 Gbit/s adapter each
    link_share: float = 0.8  # of what links are rated at

    def micro_batches(self, layout: Layout) -> int:
        """Micro-batches of a replica in a step. Raises ValueError where the batch does not divide."""
        sequences = self.batch_tokens / (self.context * layout.data * layout.micro_batch)
        if sequences < 1 or abs(sequences - round(sequences)) > 1e-6 * sequences:
            raise ValueError(
                f"{self.batch_tokens:g} tokens are {self.batch_tokens / self.context:g} sequences, which {layout.data} "
                f"replicas with {layout.micro_batch} at once do not share evenly"
            )
        return round(sequences)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the fullest device."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All together."""
        return float(sum(getattr(self, one.name) for one in fields(self)))


@dataclass(frozen=True)
class Step:
    """Seconds of one optimizer step. `bubble`: idle in the pipeline; `exposed_data`: what of the data group's traffic
    the arithmetic does not hide; `tokens_per_second`: of a device; `mfu`: by exact causal FLOPs, no recomputation."""

    compute: float
    bubble: float
    tensor: float
    expert: float
    pipeline: float
    data: float
    exposed_data: float
    tokens_per_second: float
    mfu: float

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.compute + self.bubble + self.tensor + self.expert + self.pipeline + self.exposed_data

    @property
    def communication(self) -> float:
        """Share of the step in which a device waits for others."""
        return 1.0 - self.compute / self.seconds


def params_on_device(cfg: ModelConfig, layout: Layout) -> tuple[float, float]:
    """Parameters that a device computes with, before sharding over the data group: dense ones, those of experts."""
    experts = expert_params(cfg)
    split = layout.tensor * layout.pipeline
    return (count_params(cfg).total - experts) / split, experts / (split * layout.expert)


def device_memory(training: Training, layout: Layout) -> DeviceMemory:
    """What the fullest device holds, layers divided evenly among the stages of the pipeline: 16 bytes a parameter
    (bf16 weights and gradients, fp32 weights and moments) over the data group when sharded, plus two gathered layers;
    activations of the micro-batches under way, of which the first stage has as many as there are stages."""
    cfg = training.model
    dense, experts = params_on_device(cfg, layout)
    sharded = layout.sharding == "fsdp"
    kept = dense / (layout.data if sharded else 1) + experts / (layout.data / layout.expert if sharded else 1)
    layers = math.ceil(cfg.num_layers / layout.pipeline)
    gathered = 2.0 * HALF * (dense + experts) / layers if sharded and layout.data > 1 else 0.0
    tokens = layout.micro_batch * training.context
    under_way = min(layout.pipeline, training.micro_batches(layout))
    kept_numbers = layer_activations(cfg, training.context, fused=False, adapted=False)
    layer = HALF * kept_numbers * tokens / layout.tensor
    if layout.recompute:
        activations = HALF * cfg.d_model * tokens / layout.tensor * layers * under_way + layer
    else:
        activations = layer * layers * under_way
    logits = LOGIT_BYTES * min(tokens, LOSS_CHUNK) * cfg.vocab_size / layout.tensor
    return DeviceMemory(HALF * kept, HALF * kept, CHECKPOINT_BYTES * kept, gathered, activations, logits)


def step_time(training: Training, layout: Layout, share: float | None = None) -> Step:
    """Seconds of a step, and the rate.

    Args:
        share: of the device's dense bf16 peak that arithmetic alone reaches; by default the 95% quantile of what public
            trainings on this hardware reach by causal FLOPs, whose best hide nearly all communication.
    """
    cfg, device, m = training.model, training.hardware, training.micro_batches(layout)
    share = training_share(device.name, "bf16", "causal").high if share is None else share
    flops = training_flops_per_token(cfg, training.context) * training.batch_tokens / layout.num_devices
    compute = flops * (4 / 3 if layout.recompute else 1.0) / (device.peak_flops * share)
    rated = device.interconnect_bandwidth
    inside = rated / 2 * training.link_share if rated else training.network_bytes_per_second * training.link_share
    outside = training.network_bytes_per_second * training.link_share

    def seconds(sent: float, devices: int) -> float:
        return sent / (inside if devices <= training.devices_per_node else outside) if devices > 1 else 0.0

    t, p, d, e = layout.tensor, layout.pipeline, layout.data, layout.expert
    layers, tokens = cfg.num_layers / p, layout.micro_batch * training.context
    activation = HALF * tokens * cfg.d_model
    # Each all-reduce sends its operand twice but for the own share; two forward, two backward, two recomputed.
    reduces = 6 if layout.recompute else 4
    tensor = seconds(reduces * 2 * (t - 1) / t * activation * layers * m, t)
    expert = 0.0
    if cfg.moe:
        routed = (cfg.num_layers - cfg.moe.first_dense) / p
        sent = reduces * cfg.moe.top_k_experts * activation / t * (e - 1) / e
        expert = seconds(sent * routed * m, e * t)
    pipeline = seconds(2 * activation / t * m, p * t * d) if p > 1 else 0.0
    dense, experts = params_on_device(cfg, layout)
    rounds = 3.0 * m if layout.sharding == "fsdp" else 2.0  # two gathers and a scatter a micro-batch; one all-reduce
    sent = HALF * (dense * (d - 1) / d + experts * (d // e - 1) / (d // e)) * rounds
    data = seconds(sent, d * t)
    hidden = compute if layout.sharding == "fsdp" else compute * 2 / 3  # the backward pass
    bubble = compute * (p - 1) / m
    step = Step(compute, bubble, tensor, expert, pipeline, data, max(0.0, data - hidden), 0.0, 0.0)
    rate = training.batch_tokens / (step.seconds * layout.num_devices)
    model_flops = training_flops_per_token(cfg, training.context)
    return replace(step, tokens_per_second=rate, mfu=rate * model_flops / device.peak_flops)


def layouts(training: Training, num_devices: int) -> Iterator[Layout]:
    """Every layout of that number of devices that divides the model, the node and the batch."""
    cfg = training.model
    for tensor in (1, 2, 4, 8, 16):
        if tensor > training.devices_per_node or cfg.num_heads % tensor or num_devices % tensor:
            continue
        for pipeline in (1, 2, 4, 8, 16, 32):
            if cfg.num_layers < pipeline or num_devices % (tensor * pipeline):
                continue
            data = num_devices // (tensor * pipeline)
            for expert in (1, 2, 4, 8, 16, 32, 64) if cfg.moe else (1,):
                if data % expert or (cfg.moe and cfg.moe.num_experts % expert):
                    continue
                for sharding in ("ddp", "fsdp"):
                    for micro_batch in (1, 2, 4, 8):
                        for recompute in (False, True):
                            one = Layout(data, tensor, pipeline, expert, sharding, micro_batch, recompute)
                            try:
                                training.micro_batches(one)
                            except ValueError:
                                continue
                            yield one


def best_layouts(
    training: Training, num_devices: int, reserve: float = 0.1
) -> tuple[tuple[Layout, DeviceMemory, Step], ...]:
    """Layouts that leave `reserve` of each device's memory free, the fastest first, one for each way to split devices.

    Raises ValueError: none fits; it says how much memory the leanest takes, or that the batch does not divide.
    """
    found = [(one, device_memory(training, one)) for one in layouts(training, num_devices)]
    if not found:
        raise ValueError(
            f"{num_devices} devices cannot share steps of {training.batch_tokens:g} tokens at a context of "
            f"{training.context}: give a batch that is a multiple of {training.context} times a divisor of the devices"
        )
    room = (1.0 - reserve) * training.hardware.memory_bytes
    fitting = [(one, memory, step_time(training, one)) for one, memory in found if memory.total <= room]
    if not fitting:
        _, leanest = min(found, key=lambda pair: pair[1].total)
        raise ValueError(
            f"no layout of {num_devices} devices fits: the leanest takes {leanest.total / 1e9:.3g} GB a device, of "
            f"{room / 1e9:.3g} GB that {training.hardware.name} has but for the reserve; give more devices"
        )
    fitting.sort(key=lambda made: (made[2].seconds, made[1].total))
    kept: dict[tuple[object, ...], tuple[Layout, DeviceMemory, Step]] = {}
    for made in fitting:
        one = made[0]
        kept.setdefault((one.data, one.tensor, one.pipeline, one.expert, one.sharding), made)
    return tuple(kept.values())
