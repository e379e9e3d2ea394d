"""Settings and facts in the form that MLflow accepts: flat, with names and values of the length that it allows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from storage.fingerprint import digest

_LONGEST_VALUE = 500
_LONGEST_NAME = 250


def flatten(settings: str | Mapping[str, Any] | None, prefix: str = "") -> dict[str, str]:
    """Nested settings (or their JSON text) as dotted names with text values; a list of plain values stays one value."""
    flat: dict[str, str] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping) and value:
            for name, item in value.items():
                walk(item, f"{path}.{name}" if path else str(name))
        elif isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value):
            for index, item in enumerate(value):
                walk(item, f"{path}.{index}")
        elif path:
            flat[path] = value if isinstance(value, str) else json.dumps(value)

    tree = parsed(settings)
    if tree:
        walk(tree, prefix)
    return flat


def parsed(text: str | Mapping[str, Any] | None) -> Any:
    """A tree from its JSON text; an empty one for None."""
    return json.loads(text) if isinstance(text, str) else (text or {})


def numbers(tree: Any, prefix: str) -> dict[str, float]:
    """The numbers in a tree of facts, by dotted name; lists (curves, lists of points) have tables of their own."""
    found: dict[str, float] = {}
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        if isinstance(value, Mapping):
            found.update(numbers(value, f"{prefix}.{name}"))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[f"{prefix}.{name}"] = float(value)
    return found


def allowed_name(name: str) -> str:
    """`name` in the characters that MLflow accepts."""
    clean = re.sub(r"[^\w\-. :/]", "_", name).strip("/. ") or "_"
    return clean if len(clean) <= _LONGEST_NAME else f"{clean[: _LONGEST_NAME - 9]}_{digest(name)[:8]}"


def cut(value: str) -> str:
    """`value` as it is, or its beginning and its length where it is too long."""
    if len(value) <= _LONGEST_VALUE:
        return value
    more = f"… ({len(value)} characters in all)"
    return value[: _LONGEST_VALUE - len(more)] + more
