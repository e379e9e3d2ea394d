"""The machine's own meters of energy, RAPL for CPUs and NVML for NVIDIA's accelerators, through the library zeus.

An unreadable meter is said in the ledger, and never stands as a number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

Joules = Callable[[], float]  # of the device since some fixed moment
_STAT = Path("/proc/stat")


@cache
def meter(device: str) -> tuple[Joules | None, str]:
    """The counter of the device that torch names `device` and what it is; or None and why there is none."""
    try:
        from zeus import device as zeus
    except ImportError:
        return None, "no meter: zeus is not installed (pip install 'lifespan[energy]')"
    kind, _, number = device.partition(":")
    try:
        if kind == "cuda":
            gpus = zeus.get_gpus(ensure_homogeneous=False)
            index = int(number or 0)
            gpus.get_total_energy_consumption(index)  # cards without an energy counter refuse here
            return lambda: gpus.get_total_energy_consumption(index) / 1000.0, f"NVML, device {index}"
        if kind == "cpu":
            cpus = zeus.get_cpus()
            sockets = range(len(cpus))

            def joules() -> float:
                return sum(cpus.get_total_energy_consumption(index).cpu_mj for index in sockets) / 1000.0

            joules()
            return joules, "RAPL, by the share of busy processor time"
    except Exception as error:  # zeus has a kind of error for each vendor and driver
        return None, f"no meter: {' '.join(str(error).split()) or type(error).__name__}"
    return None, f"no meter for {kind}"


def busy_cpu_seconds(file: Path = _STAT, ticks: float = 100.0) -> float:
    """Processor time of the whole machine that was not idle, since it started (Linux; `man 5 proc`)."""
    fields = [float(text) for text in file.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / ticks  # without idle and iowait


class EnergySpan:
    """Energy since its making: of an accelerator all of it, of a CPU the share of a process in the machine's busy time.

    `joules` and `busy`: counters that rise, None where there is no meter.
    """

    def __init__(self, device: str, joules: Joules | None = None, busy: Callable[[], float] = busy_cpu_seconds) -> None:
        self._shared = device.partition(":")[0] == "cpu"
        self._joules, self._busy = joules, busy
        self._from = (joules() if joules else 0.0, busy() if joules and self._shared else 0.0)

    def joules(self, cpu_seconds: float) -> float | None:
        """Joules so far, of a process that took `cpu_seconds` meanwhile; None without a meter."""
        if self._joules is None:
            return None
        used = self._joules() - self._from[0]
        if not self._shared:
            return used
        busy = self._busy() - self._from[1]
        return used * min(1.0, cpu_seconds / busy) if busy > 0 else 0.0
