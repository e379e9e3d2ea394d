"""Prices of a home: the catalogue's, and those that were imported into its tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from components.cost.prices import ApiPrice, Price, price_catalogue
from storage.home import Home
from storage.queries import query


def home_prices(home: Home) -> tuple[Price, ...]:
    """The catalogue's prices, and after them the imported ones."""
    rows = query(
        home, "SELECT DISTINCT * EXCLUDE (origin) FROM prices WHERE origin = 'imported' ORDER BY ALL"
    ).to_pylist()
    return (*price_catalogue(), *(Price(**row) for row in rows))


def home_api_prices(home: Home) -> tuple[ApiPrice, ...]:
    """The imported prices of hosted models."""
    return tuple(ApiPrice(**row) for row in query(home, "SELECT DISTINCT * FROM api_prices ORDER BY ALL").to_pylist())


def keep_prices(home: Home, prices: Sequence[Price], api_prices: Sequence[ApiPrice]) -> None:
    """Write imported prices into the home's tables; the same prices again change nothing."""
    kinds: dict[str, list[dict[str, Any]]] = {
        "prices": [one.to_row("imported") for one in prices],
        "api_prices": [one.to_row() for one in api_prices],
    }
    for table, rows in kinds.items():
        if rows:
            digest = hashlib.sha256(repr(sorted(map(repr, rows))).encode()).hexdigest()
            home.tables.write(table, f"import-{digest[:32]}", rows)
