"""All scored forecasts of a home: how often their intervals held, how far they were off, how well calibrated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.statistics import wilson
from storage.home import Home
from storage.queries import query

BY_LAW = "law"


@dataclass(frozen=True)
class LedgerLine:
    """One method of forecasting over `n` forecasts. `coverage`: share whose 95% interval held, with Wilson's `low` and
    `high`; `error`: mean |observed/predicted - 1|; `bias`: its mean with sign; `interval_score`: mean, in nats, lower
    is better; `spread`: root mean square of errors in the standard deviations that intervals claim, 1 where calibrated.
    nan where the method gives no intervals."""

    method: str
    n: int
    error: float
    bias: float
    coverage: float = math.nan
    low: float = math.nan
    high: float = math.nan
    interval_score: float = math.nan
    spread: float = math.nan

    @property
    def words(self) -> str:
        """As a sentence."""
        text = f"{self.method}: {self.n} forecasts, off by {self.error:.2%} on average (bias {self.bias:+.2%})"
        if math.isnan(self.coverage):
            return text
        how = "in keeping with 95%" if self.low <= 0.95 <= self.high else "too few: they are too narrow"
        if self.low > 0.95:
            how = "more than they promise: they are too wide"
        return (
            f"{text}; {self.coverage:.0%} [{self.low:.0%}, {self.high:.0%}] of the 95% intervals held, {how}; "
            f"errors are {self.spread:.2f} of the standard deviations that they claim; interval score "
            f"{self.interval_score:.4f}"
        )


@dataclass(frozen=True)
class Ledger:
    """`lines`: the law first, then rivals; `forecasts`: those by the law, rows of the view `forecast_scores`."""

    lines: tuple[LedgerLine, ...]
    forecasts: tuple[dict[str, Any], ...]


def ledger(home: Home, sweep: str | None = None) -> Ledger:
    """Of all runs of the home, or of sweeps called `sweep`."""
    rows = query(home, "SELECT * FROM forecast_scores ORDER BY scored_at, target, method").to_pylist()
    rows = [row for row in rows if sweep is None or row["sweep"] == sweep]
    methods = sorted({row["method"] for row in rows}, key=lambda method: (method != BY_LAW, method))
    return Ledger(
        tuple(_line(method, [row for row in rows if row["method"] == method]) for method in methods),
        tuple(row for row in rows if row["method"] == BY_LAW and row["inside"] is not None),
    )


def _line(method: str, rows: Sequence[dict[str, Any]]) -> LedgerLine:
    relative = [row["relative_error"] for row in rows]
    error, bias = math.fsum(map(abs, relative)) / len(rows), math.fsum(relative) / len(rows)
    with_ends = [row for row in rows if row["inside"] is not None]
    if not with_ends:
        return LedgerLine(method, len(rows), error, bias)
    n = len(with_ends)
    held = wilson(sum(row["inside"] for row in with_ends), n)
    score = math.fsum(row["interval_score"] for row in with_ends) / n
    spread = math.sqrt(math.fsum(row["standardised_error"] ** 2 for row in with_ends) / n)
    return LedgerLine(method, len(rows), error, bias, held.value, held.low, held.high, score, spread)
