"""What the tokens of an evaluation cost: as given, as imported, or by the processor time of a model of ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from storage.home import Home

if TYPE_CHECKING:
    from components.reasoning.endpoints.recorded import Recorded
    from components.reasoning.tally import Tally


@dataclass(frozen=True)
class Prices:
    """US dollars of a million tokens, and where they are from; None where nobody knows."""

    prompt: float | None = None
    completion: float | None = None
    basis: str = ""


def known_prices(home: Home, identity: str, model: str) -> Prices:
    """Of a hosted model, by its name, the newest that was imported; of a model of ours none a token."""
    from flows.runs.prices import home_api_prices

    if identity.startswith("model "):
        return Prices()
    found = [one for one in home_api_prices(home) if one.model == model]
    if not found:
        return Prices(basis="no price is known: give --price-in and --price-out, or `lifespan prices import FILE`")
    one = max(found, key=lambda price: price.date)
    return Prices(one.usd_per_million_input, one.usd_per_million_output, f"{one.provider}, {one.date}")


def measured(prices: Prices, generate: Recorded, identity: str) -> Prices:
    """The same, or, of a model of ours without prices, the processor time of a token, as measured so far, at the price
    of a core."""
    if prices.prompt is not None or not identity.startswith("model "):
        return prices
    from components.cost.prices import find_offer

    if not generate.fresh_tokens:
        return Prices(basis="nothing was computed now: every sample was there")
    offer = find_offer("cpu-core")
    each = generate.cpu_seconds / generate.fresh_tokens * offer.price.usd_per_hour / 3600 * 1e6
    return Prices(
        each, each, f"{generate.cpu_seconds:.3g} s of processor for {generate.fresh_tokens} tokens at {offer.basis}"
    )


def dollars(tallies: Sequence[Tally], prices: Prices) -> list[float | None]:
    """Of each strategy, as if it had run alone: billed tokens at their price; None where that is not known."""
    if prices.prompt is None or prices.completion is None:
        return [None] * len(tallies)
    return [(one.prompt_tokens * prices.prompt + one.completion_tokens * prices.completion) / 1e6 for one in tallies]
