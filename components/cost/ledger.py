"""The ledger: what an attempt at a stage took, as a row of the tables `costs` (it made an artifact) and `waste` (it did
not). Everything that is booked goes through `entry`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.cost.accounting import AVERAGE_PUE, device_seconds, spent
from components.cost.hardware import Hardware, find_hardware
from components.cost.prices import Price

# World average of electricity in 2024: Ember, Global Electricity Review 2025 (that of 2026 has 471 for 2024, 458 for
# 2025). `compute.carbon_grams_per_kwh` is yours.
AVERAGE_CARBON_GRAMS_PER_KWH = 473.0
# Share of its rated power that a device draws while it works. A CPU second is one in which a core was busy, so all of
# its share; of accelerators the median of ML.ENERGY's H100 with vLLM (.49 to .99 of rated; B200 .45 to .98, median
# .83).
DRAWN = {"cpu": 1.0, "gpu": 0.75, "tpu": 0.75}
# What a stage counts. `flops`: exact, every matrix product and causal attention. `flops_6nd`: 6ND for training and 2ND
# for a forward pass, N the parameters that a token uses with embeddings.
COUNTED = ("tokens", "prompt_tokens", "generated_tokens", "flops", "flops_6nd")
TIMED = ("seconds", "cpu_seconds")


@dataclass(frozen=True)
class Rates:
    """What is paid for: `device` as torch names it, `hardware` by its name in the catalogue, `usd_per_hour` of one
    device (a busy core on a CPU), the data centre's overhead and the grid's carbon."""

    device: str
    hardware: str
    usd_per_hour: float
    pue: float = AVERAGE_PUE
    carbon_grams_per_kwh: float = AVERAGE_CARBON_GRAMS_PER_KWH


def entry(usage: Mapping[str, float], rates: Rates, meter: str = "", devices: int = 1) -> dict[str, Any]:
    """Columns of a ledger row from a stage's usage.

    Energy is `usage["energy_joules"]` where a meter gave it (times the data centre's overhead), else modelled from the
    rated power; `meter` says what measured, or why nothing did. `devices`: how many were held at a time. Raises
    ValueError for hardware that is not known.
    """
    device = find_hardware(rates.hardware)
    held = device_seconds(rates.device, usage["seconds"] * devices, usage["cpu_seconds"])
    price = Price(rates.hardware, rates.usd_per_hour, "the run", "", "compute.usd_per_core_hour")
    paid = spent(usage.get("tokens", 0.0), usage.get("flops", 0.0), held, device, price, rates.pue)
    joules, basis = _energy(usage.get("energy_joules"), held, device, rates.pue, meter)
    return {
        **{name: usage[name] for name in (*COUNTED, *TIMED) if name in usage},
        "device_seconds": held,
        "mfu": None if math.isnan(paid.mfu) else paid.mfu,
        "peak_memory_bytes": int(usage["peak_memory_bytes"]) if usage.get("peak_memory_bytes") else None,
        "energy_joules": joules,
        "energy_basis": basis,
        "carbon_grams": None if joules is None else joules / 3.6e6 * rates.carbon_grams_per_kwh,
        "usd": paid.usd,
        "hardware": rates.hardware,
    }


def _energy(measured: float | None, held: float, device: Hardware, pue: float, meter: str) -> tuple[float | None, str]:
    """Joules with the overhead, and in words where they come from."""
    if measured is not None:
        return measured * pue, f"measured: {meter} x PUE {pue:g}"
    why = f"; {meter}" if meter else ""
    if device.power_watts is None:
        return None, f"not known: the power of {device.name} is not published{why}"
    share = DRAWN[device.kind]
    rated = f"{device.power_watts:g} W rated x {share:g} drawn x PUE {pue:g}"
    return device.energy_joules(held, pue) * share, f"modelled: {rated}{why}"


def lost(used: Mapping[str, float], saved: Mapping[str, float]) -> dict[str, float]:
    """What an attempt did that no saved state holds: `used` counts from the stage's first attempt on, `saved` is what
    its newest state says."""
    return {name: max(0.0, value - saved.get(name, 0.0)) for name, value in used.items() if name != "peak_memory_bytes"}
