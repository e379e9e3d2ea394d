"""What work has cost, or will cost: FLOPs and time to energy and dollars.

Everything that accounts goes through `spent`: the ledger of a run's stages (`stage_cost`), plans (`expected_training`),
and the price of serving (`components.cost.inference`), which divides the same rent by measured rates. A second of a CPU
is one in which a core was busy, so that a crowded machine makes nothing dearer; a second of an accelerator is one in
which it was held.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from components.cost.hardware import Hardware, find_hardware
from components.cost.prices import Price

# Average over data centres: Uptime Institute, Global Data Center Survey 2024.
AVERAGE_PUE = 1.56


@dataclass(frozen=True)
class Cost:
    """`tokens`; `flops`; `device_seconds`: summed over devices; `energy_joules`: with the data centre's overhead;
    `usd`: rent of the devices; `mfu`: share of the devices' peak that the FLOPs are, nan where no time was spent."""

    tokens: float
    flops: float
    device_seconds: float
    energy_joules: float
    usd: float
    mfu: float

    @property
    def energy_kwh(self) -> float:
        """Energy in kilowatt hours."""
        return self.energy_joules / 3.6e6

    @property
    def usd_per_million_tokens(self) -> float:
        """Dollars per million tokens; nan without tokens."""
        return self.usd / self.tokens * 1e6 if self.tokens else math.nan


def spent(
    tokens: float, flops: float, device_seconds: float, hardware: Hardware, price: Price, pue: float = AVERAGE_PUE
) -> Cost:
    """Cost of work that took `device_seconds` (seconds times devices; CPU seconds of busy cores on a CPU).

    Energy is the device's maximum power times time times `pue` (power usage effectiveness, at least 1): an upper
    estimate, since no device draws its maximum all the time; nan for a device whose power is not published.
    """
    _check_pue(pue)
    for name, value in (("tokens", tokens), ("flops", flops), ("device_seconds", device_seconds)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be finite and at least 0, got {value}")
    if price.hardware != hardware.name:
        raise ValueError(f"the price is for {price.hardware!r}, the hardware is {hardware.name!r}")
    return Cost(
        tokens=tokens,
        flops=flops,
        device_seconds=device_seconds,
        energy_joules=hardware.energy_joules(device_seconds, pue),
        usd=device_seconds / 3600.0 * price.usd_per_hour,
        mfu=flops / (hardware.peak_flops * device_seconds) if device_seconds else math.nan,
    )


def device_seconds(device: str, seconds: float, cpu_seconds: float) -> float:
    """Seconds that are paid for, of work that took `seconds` of wall-clock and `cpu_seconds` of busy cores.

    The latter on a CPU, the former on an accelerator, which is held all the time. `device`: as torch names it.
    """
    return cpu_seconds if device.partition(":")[0] == "cpu" else seconds


def stage_cost(usage: Mapping[str, float], device: str, hardware: str, usd_per_hour: float) -> Cost:
    """Cost of a stage from its usage: tokens, flops, seconds and cpu_seconds. `hardware`: its name in the table;
    `usd_per_hour`: rent of one device (a core, on a CPU). Raises ValueError for hardware that is not in the table."""
    return spent(
        usage["tokens"],
        usage["flops"],
        device_seconds(device, usage["seconds"], usage["cpu_seconds"]),
        find_hardware(hardware),
        Price(hardware, usd_per_hour, "the run", "", "compute.usd_per_core_hour"),
    )


def expected_training(
    num_params: float, tokens: float, hardware: Hardware, price: Price, mfu: float, pue: float = AVERAGE_PUE
) -> Cost:
    """Cost of training `num_params` active parameters on `tokens` tokens (6ND FLOPs) at `mfu` of the dense peak."""
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu must lie in (0, 1], got {mfu}")
    flops = 6.0 * num_params * tokens
    return spent(tokens, flops, flops / (hardware.peak_flops * mfu), hardware, price, pue)


Convention = Literal["6n", "palm", "causal"]


def training_flops_per_token(
    convention: Convention, num_params: float, num_layers: int, width: int, context_length: int
) -> float:
    """FLOPs of a training step, forward and backward, per token, by a named convention; an MFU says nothing without it.

    6n: 6N. palm: 6N + 12·L·H·Q·T (Chowdhery et al. 2022, appendix B), full attention. causal: 6N + 6·L·H·Q·T, the half
    of attention that a causal mask leaves. `num_params`: those that a token uses; `width`: H·Q, heads times their
    size. At long contexts they differ by much: an MPT-1B at 65,536 tokens has 26% by PaLM's and 4.8% by 6N.
    """
    if convention not in get_args(Convention):
        raise ValueError(f"no convention {convention!r}: takes {', '.join(get_args(Convention))}")
    attention = {"6n": 0.0, "palm": 12.0, "causal": 6.0}[convention]
    return 6.0 * num_params + attention * num_layers * width * context_length


def mfu(tokens_per_second: float, flops_per_token: float, hardware: Hardware, num_devices: int = 1) -> float:
    """Model FLOPs utilisation (Chowdhery et al. 2022, appendix B): FLOPs that the model needs over the dense peak.

    `flops_per_token` in training, forward and backward: `training_flops_per_token`, or the exact count.
    """
    if num_devices < 1:
        raise ValueError(f"num_devices must be at least 1, got {num_devices}")
    return tokens_per_second * flops_per_token / (hardware.peak_flops * num_devices)


def _check_pue(pue: float) -> None:
    if not pue >= 1:
        raise ValueError(f"pue (power usage effectiveness) is at least 1, got {pue}")
