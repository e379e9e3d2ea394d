"""Accelerators and what an hour of them costs, each figure with its source and date.

Peaks are dense bf16 with fp32 accumulation: data sheets often print the twice as high figure for 2:4 sparsity
(H100: 989 dense, 1,979 sparse TFLOP/s), and an MFU against that one is half as large.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["cpu", "gpu", "tpu"]


@dataclass(frozen=True)
class Hardware:
    """One device. `peak_flops`: FLOP/s, dense bf16 (fp32 on a CPU); `memory_bandwidth`: bytes/s; `memory_bytes`;
    `power_watts`: maximum board power, or a core's share of its socket's; `date`: of the source."""

    name: str
    kind: Kind
    peak_flops: float
    memory_bandwidth: float
    memory_bytes: float
    power_watts: float
    source: str
    date: str

    def __post_init__(self) -> None:
        for field in ("peak_flops", "memory_bandwidth", "memory_bytes", "power_watts"):
            if not getattr(self, field) > 0:
                raise ValueError(f"hardware {self.name!r}: {field} must be positive, got {getattr(self, field)}")

    @property
    def flops_per_byte(self) -> float:
        """The roofline's ridge: work with fewer FLOPs per byte read is bound by memory."""
        return self.peak_flops / self.memory_bandwidth

    def to_row(self) -> dict[str, Any]:
        """A row of the `hardware` table."""
        return {
            "name": self.name,
            "kind": self.kind,
            "peak_flops": self.peak_flops,
            "memory_bandwidth": self.memory_bandwidth,
            "power_watts": self.power_watts,
            "source": self.source,
            "date": self.date,
        }


@dataclass(frozen=True)
class Price:
    """Rent of one device in US dollars per hour, at a provider on a day (ISO 8601)."""

    hardware: str
    usd_per_hour: float
    provider: str
    date: str
    source: str

    def __post_init__(self) -> None:
        if not self.usd_per_hour >= 0:
            raise ValueError(f"the price of {self.hardware!r} must be at least 0, got {self.usd_per_hour}")

    def to_row(self) -> dict[str, Any]:
        """A row of the `prices` table."""
        return dict(vars(self))


_GB = 1e9
_RUNPOD = "RunPod list prices as reported in deploybase.ai/articles/best-gpu-for-llm-training"

HARDWARE: tuple[Hardware, ...] = (
    Hardware(
        "cpu-core",
        "cpu",
        peak_flops=90e9,
        memory_bandwidth=10 * _GB,
        memory_bytes=4 * _GB,
        power_watts=280 / 64,
        source="fp32 matrix product measured on one AMD EPYC (Zen 3) core, see measure_cpu_core; power: EPYC 7763, "
        "280 W over 64 cores; bandwidth and memory: a core's rough share",
        date="2026-01-01",
    ),
    Hardware(
        "rtx-4090", "gpu", 165.2e12, 1008 * _GB, 24 * _GB, 450, "NVIDIA Ada GPU architecture white paper", "2022-10-12"
    ),
    Hardware("a100-sxm-80gb", "gpu", 312e12, 2039 * _GB, 80 * _GB, 400, "NVIDIA A100 data sheet", "2021-06-01"),
    Hardware("h100-sxm", "gpu", 989.4e12, 3350 * _GB, 80 * _GB, 700, "NVIDIA H100 data sheet, dense", "2023-03-01"),
    Hardware("h200-sxm", "gpu", 989.4e12, 4800 * _GB, 141 * _GB, 700, "NVIDIA H200 data sheet, dense", "2024-11-01"),
    Hardware(
        "b200-sxm", "gpu", 2250e12, 8000 * _GB, 192 * _GB, 1000, "NVIDIA Blackwell data sheet, dense", "2024-03-18"
    ),
    Hardware(
        "tpu-v5e",
        "tpu",
        197e12,
        819 * _GB,
        16 * _GB,
        200,
        "Google Cloud TPU v5e documentation; power is not published, 200 W is an estimate",
        "2023-08-29",
    ),
)

PRICES: tuple[Price, ...] = (
    Price(
        "cpu-core",
        0.0816 / 2,
        "AWS m7g.large on demand, us-east-1, a core of two",
        "2026-06-17",
        "www.factualminds.com/blog/amazon-ec2-on-demand-pricing-instance-families-2026",
    ),
    Price("rtx-4090", 0.34, "RunPod", "2026-03-21", _RUNPOD),
    Price("a100-sxm-80gb", 1.39, "RunPod", "2026-03-21", _RUNPOD),
    Price("h100-sxm", 2.69, "RunPod", "2026-03-21", _RUNPOD),
    Price("h200-sxm", 3.59, "RunPod", "2026-03-21", _RUNPOD),
    Price("b200-sxm", 5.98, "RunPod", "2026-03-21", _RUNPOD),
    Price("tpu-v5e", 1.20, "Google Cloud on demand", "2023-08-29", "Google Cloud TPU price list at the launch of v5e"),
)


def find_hardware(name: str, table: Sequence[Hardware] = HARDWARE) -> Hardware:
    """The device of that name. Raises ValueError naming the nearest one."""
    for device in table:
        if device.name == name:
            return device
    raise ValueError(_unknown("hardware", name, [device.name for device in table]))


def find_price(hardware: str, table: Sequence[Price] = PRICES, provider: str | None = None) -> Price:
    """The newest price of a device, at `provider` where one is given. Raises ValueError naming the nearest device."""
    offers = [p for p in table if p.hardware == hardware and provider in (None, p.provider)]
    if not offers:
        raise ValueError(_unknown("price for", hardware, sorted({p.hardware for p in table})))
    return max(offers, key=lambda p: p.date)


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"no {what} {name!r}: {hint}known are {', '.join(known)}"


def measure_cpu_core(base: Hardware | None = None, size: int = 768, seconds: float = 0.3) -> Hardware:
    """`base` (default: the table's cpu-core) with the peak and bandwidth that one thread of this machine reaches.

    Peak: the best of repeated fp32 products of two (size, size) matrices. Bandwidth: the best of repeated copies of
    64 MB, counting the read and the write. Takes about twice `seconds`; the thread count is restored.
    """
    import torch  # here: settings are checked against the table, and reading a profile should take a second

    base = base or find_hardware("cpu-core")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        left, right = torch.ones(size, size), torch.ones(size, size)
        product = torch.empty(size, size)
        flops = 2.0 * size**3 / _fastest(lambda: torch.mm(left, right, out=product), seconds)
        origin, copy = torch.ones(16_000_000), torch.empty(16_000_000)
        bandwidth = 2.0 * origin.nbytes / _fastest(lambda: copy.copy_(origin), seconds)
    finally:
        torch.set_num_threads(threads)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    return Hardware(
        base.name, base.kind, flops, bandwidth, base.memory_bytes, base.power_watts, "measured on this machine", today
    )


def _fastest(work: Callable[[], object], seconds: float) -> float:
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best
