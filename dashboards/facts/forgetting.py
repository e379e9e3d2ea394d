"""What every training stage did to what the model could do before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.statistics import Interval
from dashboards.facts.effects import Missing
from dashboards.rows import RunRows, number, whole


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one evaluation. change: against the first checkpoint, with its interval; None for that one.
    worse, better: the interval lies wholly on that side."""

    value: float
    unit: str
    change: Interval | None

    @property
    def gain(self) -> Interval | None:
        """The change, turned so that more is better."""
        x = self.change
        if x is None or self.unit != "bits_per_byte":
            return x
        return Interval(-x.value, -x.high, -x.low, x.n)

    @property
    def worse(self) -> bool:
        return self.gain is not None and self.gain.high < 0

    @property
    def better(self) -> bool:
        return self.gain is not None and self.gain.low > 0


@dataclass(frozen=True)
class ForgettingFacts:
    """The matrix. checkpoints: in the order of the life, the first is what all are compared with; evaluations: name to
    unit, those in bits a byte first."""

    checkpoints: tuple[str, ...]
    evaluations: Mapping[str, str]
    cells: Mapping[tuple[str, str], Cell]


def forgetting_facts(rows: RunRows) -> ForgettingFacts | Missing:
    found = sorted(rows.forgetting, key=lambda row: (row["position"], row["unit"] != "bits_per_byte"))
    if not found:
        return Missing(rows.why_missing("report", "The matrix of forgetting"))
    return ForgettingFacts(
        checkpoints=tuple(dict.fromkeys(str(row["checkpoint"]) for row in found)),
        evaluations={str(row["evaluation"]): str(row["unit"]) for row in found},
        cells={(str(row["checkpoint"]), str(row["evaluation"])): _cell(row) for row in found},
    )


def _cell(row: Mapping[str, Any]) -> Cell:
    change, low, high = (number(row, name) for name in ("change", "change_low", "change_high"))
    known = change is not None and low is not None and high is not None
    interval = Interval(change or 0.0, low or 0.0, high or 0.0, whole(row, "n") or 0) if known else None
    return Cell(float(row["value"]), str(row["unit"]), interval)
