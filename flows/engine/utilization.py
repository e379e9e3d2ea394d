"""How well a training step uses the machine: share of its peak, and memory. Measured, and no part of any result."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from functools import cache
from pathlib import Path

from flows.settings import ComputeConfig

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@cache
def peak_flops(execution: ComputeConfig) -> float:
    """FLOP/s that an MFU is measured against.

    On a CPU: the best fp32 matrix product that this process reaches with its threads, measured once (0.2 s). On an
    accelerator: the dense bf16 peak that `compute.hardware` states in the `hardware` table.
    """
    if execution.device == "cpu":
        return measured_cpu_peak()
    from components.cost.hardware import find_hardware

    return find_hardware(execution.hardware).peak_flops


def measured_cpu_peak(size: int = 512, seconds: float = 0.15) -> float:
    """FLOP/s of the fastest of repeated fp32 products of two (size, size) matrices."""
    import torch

    left, right, product = torch.ones(size, size), torch.ones(size, size), torch.empty(size, size)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        torch.mm(left, right, out=product)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def peak_memory_bytes(device: str) -> int:
    """The most memory that this process held since `forget_peak_memory`: allocated on the accelerator, or resident on a
    CPU (there, without Linux, since the process began)."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(resident if sys.platform == "darwin" else resident * 1024)


def forget_peak_memory(device: str) -> None:
    """A worker executes one stage after another: the next one's peak is its own."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # Linux, `man 5 proc`: 5 resets the peak of the resident set
        _CLEAR.write_text("5", encoding="ascii")
