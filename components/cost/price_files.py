"""Prices from files: a CSV of your own, SkyPilot's catalogue (`vms.csv` of a cloud), and litellm's prices of hosted
models.

What a file holds is seen from its content. A row that cannot be relied on is refused with its number and the reason,
and the others are read on. Neither SkyPilot's nor litellm's files say when they were made: their date has to be given.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.cost.entries import CatalogueError, Entry, checked_date
from components.cost.prices import COLUMNS, ApiPrice, Commitment, Price, price_entry

# SkyPilot's name of an accelerator: the device, or its variants by a word in the name of the instance.
SKYPILOT_NAMES: dict[str, str | dict[str, str]] = {
    "A100-80GB": {"sxm": "a100-sxm-80gb", "pcie": "a100-pcie-80gb"},
    "A100-80GB-SXM": "a100-sxm-80gb",
    "H100": {"sxm": "h100-sxm", "pcie": "h100-pcie"},
    "H100-SXM": "h100-sxm",
    "H200": {"sxm": "h200-sxm"},
    "H200-SXM": "h200-sxm",
    "B200": {"sxm": "b200-sxm"},
    "B200-SXM": "b200-sxm",
    "L4": "l4",
    "L40S": "l40s",
    "RTX4090": "rtx-4090",
    "MI300X": "mi300x",
    "MI325X": "mi325x",
    "MI355X": "mi355x",
}
# Instances whose form their provider documents and the name does not say: AWS P4de, P5, P5e, P5en, P6; Azure ND, NC.
KNOWN_FORMS = {
    r"p(4de|5|5e|5en|6-b200)\.": "sxm",
    r"standard_nd\w*_(a100|h100|h200)_v\d": "sxm",
    r"standard_nc\d+ads_a100_v4": "pcie",
}
# Below this share of the middle price of the same device a price is a floor to bid from, or a mistake.
LEAST_SHARE: dict[Commitment, float] = {"on demand": 0.5, "reserved": 0.4, "spot": 0.15}
_SKYPILOT = ("InstanceType", "AcceleratorName", "AcceleratorCount", "Price", "Region")
_PER_MILLION = 1e6


@dataclass(frozen=True)
class Refusal:
    """A row or model that was not taken, and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class PriceFile:
    """What a file gave. `left_out`: rows that are no price of a known device or of a text model, by what they are."""

    layout: str
    prices: tuple[Price, ...] = ()
    api_prices: tuple[ApiPrice, ...] = ()
    refused: tuple[Refusal, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)


def read_prices(file: Path, known: Sequence[Price], date: str = "", provider: str = "") -> PriceFile:
    """Prices of a file. `known`: prices to hold its rows against; `date`: of those that have none of their own;
    `provider`: whose prices a SkyPilot catalogue has (by default the name of its folder).

    Raises CatalogueError for a file that cannot be read, is of no known layout, or has no date.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{file}: cannot be read as text: {error}") from None
    if date:
        date = checked_date(date, "--date")
    if text.lstrip().startswith("{"):
        return _litellm(file, text, date)
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise CatalogueError(f"{file}: cannot be read as CSV: {error}") from None
    names = [str(name) for name in rows[0]] if rows else []
    if all(name in names for name in _SKYPILOT):
        return _skypilot(file, rows, known, date, provider)
    if all(name in names for name in ("hardware", "usd_per_hour", "provider")):
        return _own(file, rows, date)
    raise CatalogueError(
        f"{file}: takes a CSV with the columns {', '.join(COLUMNS)} (the first three, and date, are needed), a "
        f"SkyPilot catalogue with {', '.join(_SKYPILOT)}, or litellm's JSON of models; got "
        + (f"the columns {', '.join(names)}" if names else "no rows")
    )


def _own(file: Path, rows: Iterable[Mapping[str, Any]], date: str) -> PriceFile:
    prices, refused = [], []
    for number, row in enumerate(rows, 2):
        where = f"{file}, row {number}"
        values: dict[str, Any] = {str(name): value for name, value in row.items() if value not in (None, "")}
        try:
            for name in ("usd_per_hour", "usd_low", "usd_high"):
                if name in values:
                    values[name] = _number(values[name], f"{where}, {name}")
            prices.append(price_entry(Entry(where, {**({"date": date} if date else {}), **values})))
        except CatalogueError as error:
            refused.append(Refusal(f"row {number}", str(error).removeprefix(f"{where}, ").removeprefix(f"{where}: ")))
    return PriceFile("own CSV", tuple(prices), refused=tuple(refused))


def _number(text: object, where: str) -> float:
    try:
        return float(str(text))
    except ValueError:
        raise CatalogueError(f"{where}: takes a number, got {text!r}") from None


def _skypilot(
    file: Path, rows: Iterable[Mapping[str, str]], known: Sequence[Price], date: str, provider: str
) -> PriceFile:
    if not date:
        raise CatalogueError(f"{file}: a SkyPilot catalogue has no date: give its commit's, as --date 2026-03-21")
    provider = provider or (file.resolve().parent.name if file.name == "vms.csv" else "")
    if not provider:
        raise CatalogueError(f"{file}: does not say whose prices these are: give --provider")
    found: list[tuple[int, Price]] = []
    refused: list[Refusal] = []
    left_out: dict[str, int] = {}
    for number, row in enumerate(rows, 2):
        if not row["AcceleratorName"]:
            left_out["instances without an accelerator"] = left_out.get("instances without an accelerator", 0) + 1
            continue
        if row["AcceleratorName"] not in SKYPILOT_NAMES:
            other = f"{row['AcceleratorName']}, which the catalogue does not have"
            left_out[other] = left_out.get(other, 0) + 1
            continue
        try:
            found += ((number, price) for price in _skypilot_row(row, date, provider, file.name))
        except CatalogueError as error:
            refused.append(Refusal(f"row {number}", str(error)))
    kept: dict[tuple[object, ...], Price] = {}  # instances of one size after the other ask the same for a device
    others = [*known, *(price for _, price in found)]
    for number, price in found:
        if reason := _floor(price, others):
            refused.append(Refusal(f"row {number}", reason))
        else:
            kept.setdefault((price.hardware, price.usd_per_hour, price.commitment, price.region), price)
    refused.sort(key=lambda one: int(one.where.removeprefix("row ")))
    return PriceFile("SkyPilot catalogue", tuple(kept.values()), refused=tuple(refused), left_out=left_out)


def _skypilot_row(row: Mapping[str, str], date: str, provider: str, file: str) -> list[Price]:
    """On-demand and spot price of one device of an instance. Raises CatalogueError with the reason to refuse it."""
    name, instance = row["AcceleratorName"], row["InstanceType"] or ""
    if not instance:
        raise CatalogueError(f"{name} is priced apart from its host, which has a row of its own")
    device = SKYPILOT_NAMES[name]
    if not isinstance(device, str):
        words = f"{instance} {row.get('GpuInfo') or ''}".casefold()
        said = sorted(set(re.findall(r"sxm|pcie|nvl(?!ink)", words)))
        said = said or [form for pattern, form in KNOWN_FORMS.items() if re.match(pattern, instance.casefold())]
        if len(said) != 1 or said[0] not in device:
            what = f"it is {' and '.join(form.upper() for form in said)}" if said else "PCIe or SXM is not said"
            raise CatalogueError(f"{name} as {instance!r}: {what}, and prices differ: take it into a CSV of your own")
        device = device[said[0]]
    count = _number(row["AcceleratorCount"], "AcceleratorCount")
    if not (0 < count < math.inf and count == int(count)):
        raise CatalogueError(f"AcceleratorCount is {row['AcceleratorCount']}: a part of a device, or none")
    prices = []
    kinds: tuple[tuple[str, Commitment], ...] = (("Price", "on demand"), ("SpotPrice", "spot"))
    for column, commitment in kinds:
        if not row.get(column):
            continue
        usd = _number(row[column], column)
        if not 0 < usd < math.inf:
            raise CatalogueError(f"{column} is ${usd:g}: not for sale at that price")
        source = f"SkyPilot catalogue, {file}, {instance}"
        prices.append(Price(device, usd / count, provider, date, source, commitment, row["Region"]))
    if not prices:
        raise CatalogueError("has no price")
    if len(prices) == 2 and prices[0].usd_per_hour == prices[1].usd_per_hour:
        raise CatalogueError(f"list and spot price are the same ${prices[0].usd_per_hour:g}: a floor to bid from")
    return prices


def _floor(price: Price, others: Sequence[Price]) -> str:
    """Why a price is too low to be one, or ""."""
    usual = [
        other.usd_per_hour
        for other in others
        if other.hardware == price.hardware and other.commitment == "on demand" and other is not price
    ]
    least = LEAST_SHARE[price.commitment]
    if not usual or price.usd_per_hour >= least * statistics.median(usual):
        return ""
    return (
        f"{price.hardware} at ${price.usd_per_hour:g} {price.commitment} is below {least:.0%} of the middle of its "
        f"other {len(usual)} prices on demand, ${statistics.median(usual):g}: a floor price or a mistake"
    )


def _litellm(file: Path, text: str, date: str) -> PriceFile:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise CatalogueError(f"{file}: cannot be read as JSON: {error}") from None
    models = {name: values for name, values in content.items() if name != "sample_spec"}
    if not any(isinstance(values, dict) and "litellm_provider" in values for values in models.values()):
        raise CatalogueError(
            f"{file}: takes litellm's JSON: an object of models with litellm_provider and costs per token"
        )
    if not date:
        raise CatalogueError(f"{file}: litellm's file has no date: give the day of its release, as --date 2026-03-21")
    prices: list[ApiPrice] = []
    refused: list[Refusal] = []
    left_out: dict[str, int] = {}
    for name, values in models.items():
        kind = values.get("mode", "without a mode") if isinstance(values, dict) else "no object"
        if kind not in ("chat", "completion", "responses"):
            left_out[f"models of kind {kind}"] = left_out.get(f"models of kind {kind}", 0) + 1
            continue
        try:
            prices.append(_api_price(name, values, date, file.name))
        except CatalogueError as error:
            refused.append(Refusal(name, str(error)))
    return PriceFile("litellm's prices", api_prices=tuple(prices), refused=tuple(refused), left_out=left_out)


def _api_price(name: str, values: Mapping[str, Any], date: str, file: str) -> ApiPrice:
    def cost(field_name: str) -> float | None:
        value = values.get(field_name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise CatalogueError(f"{field_name} is {value!r}: takes dollars per token")
        return float(value)

    reading, writing = cost("input_cost_per_token"), cost("output_cost_per_token")
    cached, thinking = cost("cache_read_input_token_cost"), cost("output_cost_per_reasoning_token")
    if reading is None or writing is None:
        raise CatalogueError("is not priced by tokens read and generated")
    if reading == 0 or writing == 0:
        raise CatalogueError("is $0 per token: free for some use, or unknown")
    if thinking is not None and thinking != writing:
        raise CatalogueError(f"prices reasoning tokens apart, at ${thinking * _PER_MILLION:g} a million")
    if cached is not None and cached > reading:
        raise CatalogueError("asks more for a token from the cache than for one that is read")
    return ApiPrice(
        name,
        str(values.get("litellm_provider", "")),
        reading * _PER_MILLION,
        writing * _PER_MILLION,
        date,
        f"litellm, {file}",
        None if cached is None else cached * _PER_MILLION,
    )
