"""Values as plain JSON, and the rules for numbers that JSON cannot hold (NaN and the infinities).

What happens to such a number depends on what the JSON is for:

- Facts, `*_json` columns, results of queries: it becomes null, because a diverged loss must not cost a stage its
  artifact (here: `plain_json` and `finite`).
- Identities, from which keys are made: it raises, because NaN is not equal to itself
  (`storage.fingerprint.canonical_json`).
- Settings on their way to a worker: it is kept as NaN or Infinity, which Python's JSON reads back
  (`flows.engine.wire`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any


def plain_json(value: Any, where: str) -> Any:
    """`value` as None, bool, int, float, str, list or dict, all the way down.

    Numbers of other libraries (numpy scalars) become Python's; numbers that are not finite become None.

    Args:
        value: what to convert.
        where: its name for error messages.

    Raises:
        TypeError: naming the place of what is not JSON.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where}: the name {name!r} is of type {type(name).__name__}; names must be strings")
        return {name: plain_json(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return finite(float(value))
    if type(value).__name__ in ("bool", "bool_"):  # numpy's bool is neither a number nor a bool
        return bool(value)
    raise TypeError(
        f"{where}: got a {type(value).__name__}; takes JSON values (number, string, bool, list, dict, None)"
    )


def finite(value: float) -> float | None:
    """`value`, or None for NaN and the infinities."""
    return value if math.isfinite(value) else None
