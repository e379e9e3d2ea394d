from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest

from components.cost.entries import CatalogueError
from components.cost.hardware import hardware_catalogue
from components.cost.prices import Price, complaints, find_offer, find_price, price_catalogue

TABLE = (
    Price("h100-sxm", 3.0, "A", "2026-01-02", "s"),
    Price("h100-sxm", 9.0, "B", "2026-01-01", "s"),
    Price("h100-sxm", 1.2, "A", "2026-01-02", "s", "spot"),
    Price("h100-sxm", 2.0, "C", "2026-01-02", "s"),
    Price("h100-sxm", 4.0, "D", "2026-01-02", "s"),
)


def test_the_catalogue_has_dated_prices_of_known_devices() -> None:
    assert {price.hardware for price in price_catalogue()} <= {device.name for device in hardware_catalogue()}
    assert all(price.source and price.date for price in price_catalogue())
    assert find_price("h100-sxm").usd_per_hour == 2.69
    assert find_price("h100-sxm", wanted="reserved").usd_per_hour == 2.35


def test_the_middle_price_of_the_newest_day_is_taken_and_the_range_told() -> None:
    offer = find_offer("h100-sxm", TABLE)
    assert (offer.price.provider, offer.low, offer.high, offer.n) == ("A", 2.0, 4.0, 3)
    assert offer.basis == "3 $/h on demand (A, 2026-01-02; 3 from 2 to 4)"
    assert find_price("h100-sxm", TABLE, "b").usd_per_hour == 9.0
    assert find_price("h100-sxm", TABLE, "spot") == find_price("h100-sxm", TABLE, "a/Spot") == TABLE[2]
    with pytest.raises(ValueError, match="no price 'B/spot' of h100-sxm: there are A/on demand, A/spot"):
        find_price("h100-sxm", TABLE, "B/spot")
    with pytest.raises(ValueError, match=r"no price for 'abacus'.*known are .*b200-sxm"):
        find_price("abacus")


def test_a_range_is_told_and_must_hold_the_price() -> None:
    ranged = replace(TABLE[0], usd_low=2.5, usd_high=3.5)
    assert find_offer("h100-sxm", [ranged]).basis == "3 $/h on demand (A, 2026-01-02; asked 2.5 to 3.5)"
    with pytest.raises(ValueError, match="must lie in"):
        replace(ranged, usd_high=2.9)


def test_old_and_unsourced_prices_are_named() -> None:
    found = complaints([*TABLE[:2], replace(TABLE[0], source="")], datetime.date(2026, 1, 12), days=10)
    assert [(price.provider, why) for price, why in found] == [("B", "is 11 days old"), ("A", "has no source")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "without a date"),
        ('date = "2026-01-01"\ncommitment = "lease"', "commitment: takes on demand, reserved, spot, got 'lease'"),
        ('date = "2026-01-01"\nusd_low = 1', "must lie in usd_low"),
    ],
)
def test_a_faulty_price_is_refused(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(f'[[prices]]\nhardware = "l4"\nusd_per_hour = 2\nprovider = "me"\nsource = "bill"\n{line}\n')
    with pytest.raises(CatalogueError, match=message):
        price_catalogue(file)
