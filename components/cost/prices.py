"""What hardware rents for and what hosted models ask for a token: dated prices by provider and commitment.

The catalogue's own prices lie in `catalogue/prices.toml`; `components.cost.price_files` reads those of other files.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast, get_args

from components.cost.entries import CatalogueError, Entry, toml_entries
from components.cost.hardware import find_hardware, unknown_name

Commitment = Literal["on demand", "reserved", "spot"]
CATALOGUE = Path(__file__).parent / "catalogue/prices.toml"
COLUMNS = ("hardware", "usd_per_hour", "provider", "commitment", "date", "source", "region", "usd_low", "usd_high")
OLD_AFTER_DAYS = 180


@dataclass(frozen=True)
class Price:
    """Rent of one device in US dollars per hour, at a provider on a day (ISO 8601). `usd_low`, `usd_high`: the ends of
    what is asked, where the source gives a range."""

    hardware: str
    usd_per_hour: float
    provider: str
    date: str
    source: str
    commitment: Commitment = "on demand"
    region: str = ""
    usd_low: float | None = None
    usd_high: float | None = None

    def __post_init__(self) -> None:
        if not self.usd_per_hour >= 0:
            raise ValueError(f"the price of {self.hardware!r} must be at least 0, got {self.usd_per_hour}")
        low, high = self.usd_low, self.usd_high
        if (low is None) != (high is None) or (
            low is not None and high is not None and not low <= self.usd_per_hour <= high
        ):
            raise ValueError(f"the price of {self.hardware!r}, {self.usd_per_hour}, must lie in usd_low..usd_high")

    def to_row(self, origin: Literal["catalogue", "imported"]) -> dict[str, Any]:
        """A row of the `prices` table."""
        return {**vars(self), "origin": origin}

    def age_days(self, today: datetime.date) -> int:
        """Days from the price's date to `today`."""
        return (today - datetime.date.fromisoformat(self.date)).days


@dataclass(frozen=True)
class ApiPrice:
    """What a provider asks on a day for a million tokens of a hosted model, in US dollars: read, generated, and read
    from its cache (None: not offered)."""

    model: str
    provider: str
    usd_per_million_input: float
    usd_per_million_output: float
    date: str
    source: str
    usd_per_million_cached: float | None = None

    def to_row(self) -> dict[str, Any]:
        """A row of the `api_prices` table."""
        return dict(vars(self))


@cache
def price_catalogue(file: Path = CATALOGUE) -> tuple[Price, ...]:
    """The prices of a catalogue file. Raises CatalogueError naming file, entry and field."""
    return tuple(price_entry(entry) for entry in toml_entries(file, "prices"))


def price_entry(entry: Entry) -> Price:
    """A price from a file, checked: known hardware and commitment, a date, a source. Raises CatalogueError."""
    entry.check_names(COLUMNS)
    hardware, commitment = entry.text("hardware"), entry.text("commitment", "on demand")
    if commitment not in get_args(Commitment):
        raise CatalogueError(f"{entry.where}, commitment: takes {', '.join(get_args(Commitment))}, got {commitment!r}")
    try:
        find_hardware(hardware)
        return Price(
            hardware=hardware,
            usd_per_hour=entry.number("usd_per_hour"),
            provider=entry.text("provider"),
            date=entry.date(),
            source=entry.text("source", ""),
            commitment=cast(Commitment, commitment),
            region=entry.text("region", ""),
            usd_low=entry.optional_number("usd_low"),
            usd_high=entry.optional_number("usd_high"),
        )
    except CatalogueError:
        raise
    except ValueError as error:
        raise CatalogueError(f"{entry.where}, hardware: {error}") from None


@dataclass(frozen=True)
class Offer:
    """The price to reckon with, and the lowest and highest of the `n` prices of that day it was chosen among."""

    price: Price
    low: float
    high: float
    n: int

    @property
    def basis(self) -> str:
        """In words: dollars, commitment, provider, day, and the range."""
        one = self.price
        words = f"{one.usd_per_hour:g} $/h {one.commitment} ({one.provider}{', ' + one.region if one.region else ''}, "
        if self.n == 1 and one.usd_low is not None:
            return f"{words}{one.date}; asked {one.usd_low:g} to {one.usd_high:g})"
        among = "" if self.low == self.high else f"; {self.n} from {self.low:g} to {self.high:g}"
        return f"{words}{one.date}{among})"


def find_offer(hardware: str, table: Sequence[Price] | None = None, wanted: str = "") -> Offer:
    """The price of a device: of the newest day, and of several on that day the middle one.

    `wanted`: "" (on demand), a commitment, a provider, or `PROVIDER/COMMITMENT`; upper or lower case. Raises ValueError
    naming what there is.
    """
    prices = price_catalogue() if table is None else table
    of_device = [price for price in prices if price.hardware == hardware]
    if not of_device:
        raise ValueError(unknown_name("price for", hardware, sorted({price.hardware for price in prices})))
    provider, commitment = _wanted(wanted)
    fitting = [
        price for price in of_device if price.commitment == commitment and provider in ("", price.provider.casefold())
    ]
    if not fitting:
        there = sorted({f"{price.provider}/{price.commitment}" for price in of_device})
        raise ValueError(f"no price {wanted or commitment!r} of {hardware}: there are {', '.join(there)}")
    newest = max(price.date for price in fitting)
    offers = sorted((price for price in fitting if price.date == newest), key=lambda price: price.usd_per_hour)
    middle = offers[(len(offers) - 1) // 2]
    return Offer(middle, offers[0].usd_per_hour, offers[-1].usd_per_hour, len(offers))


def find_price(hardware: str, table: Sequence[Price] | None = None, wanted: str = "") -> Price:
    """The price of `find_offer`."""
    return find_offer(hardware, table, wanted).price


def _wanted(wanted: str) -> tuple[str, str]:
    """Provider ("" for any) and commitment."""
    head, slash, tail = wanted.strip().casefold().rpartition("/")
    if tail in get_args(Commitment):
        return head, tail
    return (f"{head}{slash}{tail}", "on demand")


def complaints(prices: Iterable[Price], today: datetime.date, days: int = OLD_AFTER_DAYS) -> list[tuple[Price, str]]:
    """Prices that should not be relied on, each with the reason: older than `days`, or without a source or date."""
    found = []
    for price in prices:
        if not price.date:
            found.append((price, "has no date"))
        elif price.age_days(today) > days:
            found.append((price, f"is {price.age_days(today)} days old"))
        if not price.source:
            found.append((price, "has no source"))
    return found
