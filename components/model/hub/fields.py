"""The fields of a public `config.json`, read with the message that a wrong one deserves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from components.model.hub.errors import UnsupportedModel


class Fields:
    """The fields of one file. where: the file, for messages."""

    def __init__(self, raw: Mapping[str, Any], where: str) -> None:
        self.raw, self.where = raw, where

    def refuse(self, name: str, found: Any, takes: str) -> UnsupportedModel:
        return UnsupportedModel(f"{self.where}: {name} is {found!r}: {takes}")

    def whole(self, name: str, default: int | None = None, least: int = 1) -> int:
        """A whole number; `default` where it is absent or null, and an error without one."""
        value = self.raw.get(name)
        if value is None:
            if default is None:
                raise UnsupportedModel(f"{self.where}: {name} is missing: give a whole number")
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.refuse(name, value, f"takes a whole number of at least {least}")
        return value

    def real(self, name: str, default: float, within: Mapping[str, Any] | None = None) -> float:
        value = (self.raw if within is None else within).get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refuse(name, value, "takes a number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.refuse(name, value, "takes true or false")
        return value

    def listed(self, name: str, kind: type) -> list[Any]:
        """A list of such values; empty where it is absent or null."""
        value = self.raw.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(one) is kind for one in value):
            raise self.refuse(name, value, f"takes a list of {'texts' if kind is str else 'whole numbers'}")
        return value
