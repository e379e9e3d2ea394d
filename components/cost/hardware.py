"""Devices: what they compute, move, hold and draw, from `catalogue/hardware.toml`, with source and date of each figure.

Peaks are dense with fp32 accumulation: data sheets often print the twice as high figure for 2:4 sparsity (H100:
989 dense, 1,979 sparse TFLOP/s in bf16), and an MFU against that one is half as large.
"""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from components.cost.entries import CatalogueError, Entry, checked_date, toml_entries

Kind = Literal["cpu", "gpu", "tpu"]
Precision = Literal["bf16", "fp8", "fp4"]
CATALOGUE = Path(__file__).parent / "catalogue/hardware.toml"
_FIELDS = ("name", "kind", "peak_tflops", "bandwidth_gb_per_s", "memory_gb", "memory_type", "interconnect",
           "interconnect_gb_per_s", "power_watts", "source", "date", "other_sources")  # fmt: skip
_FIGURES = ("peak_tflops", "bandwidth_gb_per_s", "memory_gb", "memory_type", "interconnect", "interconnect_gb_per_s",
            "power_watts")  # fmt: skip


@dataclass(frozen=True)
class Hardware:
    """One device. `peak_flops`: FLOP/s, dense bf16 (fp32 on a CPU); `fp8_flops`, `fp4_flops`: None where it has no such
    units. `memory_bandwidth`: bytes/s; `memory_bytes`. `power_watts`: rated maximum, or a core's share of its socket's;
    None where it is not published. `interconnect_bandwidth`: bytes/s in both directions together; None: of no use here.
    `source`: in words, of which figures where there are several; `date`: of the oldest."""

    name: str
    kind: Kind
    peak_flops: float
    memory_bandwidth: float
    memory_bytes: float
    power_watts: float | None
    source: str
    date: str
    fp8_flops: float | None = None
    fp4_flops: float | None = None
    memory_type: str = ""
    interconnect: str = ""
    interconnect_bandwidth: float | None = None

    def __post_init__(self) -> None:
        for field in ("peak_flops", "memory_bandwidth", "memory_bytes"):
            if not getattr(self, field) > 0:
                raise ValueError(f"hardware {self.name!r}: {field} must be positive, got {getattr(self, field)}")
        for field in ("power_watts", "fp8_flops", "fp4_flops", "interconnect_bandwidth"):
            if (value := getattr(self, field)) is not None and not value > 0:
                raise ValueError(f"hardware {self.name!r}: {field} must be positive or absent, got {value}")

    @property
    def flops_per_byte(self) -> float:
        """The roofline's ridge: work with fewer FLOPs per byte read is bound by memory."""
        return self.peak_flops / self.memory_bandwidth

    def peak(self, precision: Precision) -> float:
        """Dense FLOP/s at a precision; a device without units for it computes at the next wider one."""
        fp8 = self.fp8_flops or self.peak_flops
        return {"bf16": self.peak_flops, "fp8": fp8, "fp4": self.fp4_flops or fp8}[precision]

    def energy_joules(self, seconds: float, pue: float) -> float:
        """Energy at the rated power with a data centre's overhead; nan where the power is not published."""
        return math.nan if self.power_watts is None else self.power_watts * seconds * pue

    def to_row(self) -> dict[str, Any]:
        """A row of the `hardware` table."""
        return dict(vars(self))


@cache
def hardware_catalogue(file: Path = CATALOGUE) -> tuple[Hardware, ...]:
    """The devices of a catalogue file. Raises CatalogueError naming file, entry and field."""
    found: dict[str, Hardware] = {}
    for entry in toml_entries(file, "hardware"):
        device = _device(entry)
        if device.name in found:
            raise CatalogueError(f"{entry.where}, name: {device.name!r} is there twice")
        found[device.name] = device
    return tuple(found.values())


def _device(entry: Entry) -> Hardware:
    entry.check_names(_FIELDS)
    kind = entry.text("kind")
    if kind not in get_args(Kind):
        raise CatalogueError(f"{entry.where}, kind: takes {', '.join(get_args(Kind))}, got {kind!r}")
    peaks = entry.values.get("peak_tflops")
    known = ("fp32",) if kind == "cpu" else get_args(Precision)
    if not isinstance(peaks, Mapping) or known[0] not in peaks or set(peaks) - set(known):
        takes = f"a table with {known[0]}" + (f", and {' and '.join(known[1:])} where it has them" if known[1:] else "")
        raise CatalogueError(f"{entry.where}, peak_tflops: takes {takes}, got {peaks!r}")
    tflops = Entry(f"{entry.where}, peak_tflops", peaks)
    source, date = _sources(entry)
    link = entry.optional_number("interconnect_gb_per_s")

    def narrow(precision: str) -> float | None:
        found = tflops.optional_number(precision)
        return None if found is None else 1e12 * found

    return Hardware(
        name=entry.text("name"),
        kind=cast(Kind, kind),
        peak_flops=1e12 * tflops.number(known[0]),
        memory_bandwidth=1e9 * entry.number("bandwidth_gb_per_s"),
        memory_bytes=1e9 * entry.number("memory_gb"),
        power_watts=entry.optional_number("power_watts"),
        source=source,
        date=date,
        fp8_flops=narrow("fp8"),
        fp4_flops=narrow("fp4"),
        memory_type=entry.text("memory_type", ""),
        interconnect=entry.text("interconnect", ""),
        interconnect_bandwidth=None if link is None else 1e9 * link,
    )


def _sources(entry: Entry) -> tuple[str, str]:
    """Where the figures are from, in words, and the date of the oldest source."""
    sources, dates = [entry.text("source")], [entry.date()]
    others = entry.values.get("other_sources", {})
    if not isinstance(others, Mapping):
        raise CatalogueError(f"{entry.where}, other_sources: takes a table by figure, got {others!r}")
    for figure, values in others.items():
        where = f"{entry.where}, other_sources.{figure}"
        if figure not in _FIGURES or figure not in entry.values or not isinstance(values, Mapping):
            raise CatalogueError(f"{where}: takes a figure of this entry with its source and date")
        other = Entry(where, values)
        other.check_names(("source", "date"))
        sources.append(f"{figure}: {other.text('source')}")
        dates.append(checked_date(values.get("date"), f"{where}, date"))
    return "; ".join(sources), min(dates)


def find_hardware(name: str, table: Sequence[Hardware] | None = None) -> Hardware:
    """The device of that name, in the catalogue by default. Raises ValueError naming the nearest one."""
    devices = hardware_catalogue() if table is None else table
    for device in devices:
        if device.name == name:
            return device
    raise ValueError(unknown_name("hardware", name, [device.name for device in devices]))


def unknown_name(what: str, name: str, known: Sequence[str]) -> str:
    """A message about a name that is none of `known`, with the nearest of them."""
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
