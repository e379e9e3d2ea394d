"""Dollars and seconds that cannot be mistaken for each other: mypy refuses a bare number, and so does `check_units`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any


class Usd(float):
    """US dollars."""


class Seconds(float):
    """Seconds."""


_UNITS = {"Usd": Usd, "Seconds": Seconds}


def check_units(owner: Any) -> None:
    """Call from `__post_init__` of a dataclass: each field annotated `Usd` or `Seconds` holds one, finite and at least
    0. Raises TypeError for another unit or a bare number, ValueError for a value that cannot be."""
    for field in dataclasses.fields(owner):
        name, _, optional = str(field.type).partition(" | ")
        value = getattr(owner, field.name)
        if name not in _UNITS or (optional and value is None):
            continue
        if not isinstance(value, _UNITS[name]):
            given = type(value).__name__
            raise TypeError(f"{type(owner).__name__}.{field.name} takes {name}, got {given}: write {name}({value!r})")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{type(owner).__name__}.{field.name} must be finite and at least 0, got {value}")
