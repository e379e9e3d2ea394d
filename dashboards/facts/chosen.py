"""The settings that a profile says were chosen so that effects show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ChosenSetting:
    """setting: dotted path; value: as JSON."""

    setting: str
    value: str
    reason: str


def chosen_settings(config: Mapping[str, Any]) -> tuple[ChosenSetting, ...]:
    """Those that the run's settings declare in `chosen`, in their order, with the values that the run had."""
    return tuple(
        ChosenSetting(path, json.dumps(_at(config, path), ensure_ascii=False), str(why))
        for path, why in (config.get("chosen") or {}).items()
    )


def _at(config: Any, path: str) -> Any:
    for part in path.split("."):
        config = config.get(part) if isinstance(config, Mapping) else None
    return config
