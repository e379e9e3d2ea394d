"""The ledger of a home's forecasts: by hand, each once, rivals beside."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flows.runs.forecast_ledger import ledger
from storage.home import Home

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


def row(key: str, method: str, predicted: float, observed: float | None, width: float | None) -> dict[str, Any]:
    ends = {} if width is None else {"low": predicted - width / 2, "high": predicted + width / 2}
    return {
        "run_id": "r", "key": key, "sweep": "ladder", "target": f"loss of {key}", "method": method, "num_params": 1000,
        "tokens": 20_000, "extrapolation": 2.0, "predicted": predicted, "observed": observed, "made_at": BEGAN,
        "scored_at": None if observed is None else BEGAN + timedelta(hours=1), **ends,
    }  # fmt: skip


def test_scores_are_those_by_hand(tmp_path: Path) -> None:
    home = Home(tmp_path)
    rows = [
        row("a", "law", 2.0, 2.02, 0.1),  # held
        row("b", "law", 1.5, 1.6, 0.1),  # missed by .05
        row("a", "as the largest run", 2.2, 2.02, None),
        row("c", "law", 1.0, None, 0.1),  # not scored yet
    ]
    home.tables.write("forecasts", "one", rows)
    home.tables.write("forecasts", "two", rows[:1])  # a further run that found it cached says it again
    found = ledger(home)
    law, rival = found.lines
    assert (law.method, law.n, rival.method, rival.n) == ("law", 2, "as the largest run", 1)
    assert law.coverage == 0.5 and [one["inside"] for one in found.forecasts] == [True, False]
    assert law.error == pytest.approx((0.01 + 0.1 / 1.5) / 2) and law.bias == pytest.approx(law.error)
    assert law.interval_score == pytest.approx((0.1 + 0.1 + 40 * 0.05) / 2)
    claimed = 0.1 / 3.92
    assert law.spread == pytest.approx(math.sqrt(((0.02 / claimed) ** 2 + (0.1 / claimed) ** 2) / 2))
    assert math.isnan(rival.coverage) and rival.bias == pytest.approx(2.02 / 2.2 - 1)
    assert "50%" in law.words and ledger(home, "other").lines == ()
