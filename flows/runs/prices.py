"""Prices of a home: the catalogue's, and those that were imported into its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from components.cost.prices import ApiPrice, Price, price_catalogue
from storage.home import Home
from storage.queries import query

IMPORTED = "import-"  # how the parts of imported files begin


def home_prices(home: Home) -> tuple[Price, ...]:
    """The catalogue's prices, and after them the imported ones."""
    return (*price_catalogue(), *(Price(**row) for row in _imported(home, "prices")))


def home_api_prices(home: Home) -> tuple[ApiPrice, ...]:
    """The imported prices of hosted models."""
    return tuple(ApiPrice(**row) for row in _imported(home, "api_prices"))


def keep_prices(home: Home, prices: Sequence[Price], api_prices: Sequence[ApiPrice]) -> None:
    """Write imported prices into the home's tables; the same prices again change nothing."""
    kinds: dict[str, Sequence[Price | ApiPrice]] = {"prices": prices, "api_prices": api_prices}
    for table, found in kinds.items():
        if rows := [one.to_row() for one in found]:
            digest = hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()
            home.tables.write(table, f"{IMPORTED}{digest[:32]}", rows)


def _imported(home: Home, table: str) -> list[dict[str, Any]]:
    files = home.tables.layout(table)
    if not (files.parts or files.merged):
        return []
    rows = query(home, f"SELECT DISTINCT * EXCLUDE (part) FROM {table} WHERE starts_with(part, '{IMPORTED}')")
    return list(rows.to_pylist())
