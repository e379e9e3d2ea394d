"""How numbers read: one way for tables, terminal, page and figures."""

from __future__ import annotations

import math

from components.statistics import Interval

MISSING = "–"


def percent(value: float | None, digits: int = 1) -> str:
    return MISSING if value is None else f"{100 * value:.{digits}f}%"


def percent_interval(x: Interval | None) -> str:
    """ "80.3% [75.4, 84.4]"."""
    if x is not None and not (math.isfinite(x.low) and math.isfinite(x.high)):
        return f"{100 * x.value:.1f}% [no interval from n={x.n}]"
    return MISSING if x is None else f"{100 * x.value:.1f}% [{100 * x.low:.1f}, {100 * x.high:.1f}]"


def decimal(value: float | None, digits: int = 3) -> str:
    if value is None:
        return MISSING
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "∞"


def signed(value: float | None, digits: int = 2) -> str:
    return MISSING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def decimal_interval(x: Interval | None, digits: int = 3, plus: bool = False) -> str:
    """ "0.717 [0.402, 1.031]", with a sign on every number where `plus`."""
    if x is None:
        return MISSING
    show = signed if plus else decimal
    if not (math.isfinite(x.low) and math.isfinite(x.high)):
        return f"{show(x.value, digits)} [no interval from n={x.n}]"
    return f"{show(x.value, digits)} [{show(x.low, digits)}, {show(x.high, digits)}]"


def count(value: float | None) -> str:
    """ "3.28M", "80.4k"; whole numbers below ten thousand in full, "1,024"."""
    if value is not None and abs(value) < 10_000 and value == round(value):
        return f"{value:,.0f}"
    return short(value)


def short(value: float | None) -> str:
    """As `count`, but "5k": for axes."""
    if value is None:
        return MISSING
    if not math.isfinite(value):
        return "never"
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}" if value != round(value) else f"{value:.0f}"


def size(value: float | None) -> str:
    """Bytes: "12.4 MB"."""
    if value is None:
        return MISSING
    for scale, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= scale:
            return f"{value / scale:.3g} {name}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """ "0.4 s", "58 s", "11 min 04 s", "2 h 05 min"."""
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def dollars(value: float | None, significant: int = 2) -> str:
    """ "$0.0021", "$12.40", "$1.2M": `significant` digits below a dollar."""
    if value is None:
        return MISSING
    if value == 0:
        return "$0"
    if abs(value) >= 10_000:
        return f"${count(value)}"
    digits = 2 if abs(value) >= 1 else min(significant - 1 - math.floor(math.log10(abs(value))), 10)
    return f"${value:.{digits}f}"


def dollar_interval(x: Interval | None) -> str:
    """ "$0.000313 [$0.000304, $0.000322]"."""
    return MISSING if x is None else " ".join((dollars(x.value, 3), f"[{dollars(x.low, 3)}, {dollars(x.high, 3)}]"))


def count_interval(x: Interval | None) -> str:
    """ "8.11M [7.9M, 8.32M]"."""
    return MISSING if x is None else f"{count(x.value)} [{count(x.low)}, {count(x.high)}]"


def energy(joules: float | None) -> str:
    """ "12.4 Wh"."""
    if joules is None:
        return MISSING
    hours = joules / 3600
    return f"{hours / 1000:.3g} kWh" if hours >= 1000 else f"{hours:.3g} Wh"
