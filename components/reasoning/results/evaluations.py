"""What reading a user's evaluation sets returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationsResult:
    """num_items: by set."""

    num_items: Mapping[str, int]
    num_quarantined: int
