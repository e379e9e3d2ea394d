"""What serving costs: dollars per million tokens, from measured rates or from those that the serving model
estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from components.cost.hardware import Hardware
from components.cost.serving_model import (
    Replica,
    decode_tokens_per_second,
    fitting_replica,
    largest_batch,
    prefill_tokens_per_second,
    usual_shape,
)
from components.statistics import Interval


@dataclass(frozen=True)
class TokenPrices:
    """What a million prompt tokens and a million generated tokens cost to serve, in US dollars."""

    input: float
    output: float

    def request(self, input_tokens: float, output_tokens: float) -> float:
        """Dollars of one request."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


def usd_per_million_tokens(tokens_per_second: float, usd_per_hour: float) -> float:
    """Dollars per million tokens at a steady rate of devices that cost `usd_per_hour` together."""
    if not tokens_per_second > 0:
        raise ValueError(f"tokens_per_second must be positive, got {tokens_per_second}")
    return usd_per_hour / 3600.0 / tokens_per_second * 1e6


def measured_prices(
    input_tokens_per_second: float, output_tokens_per_second: float, usd_per_hour: float
) -> TokenPrices:
    """Prices from measured rates: prefill alone gives the first, decode alone the second."""
    return TokenPrices(
        usd_per_million_tokens(input_tokens_per_second, usd_per_hour),
        usd_per_million_tokens(output_tokens_per_second, usd_per_hour),
    )


@dataclass(frozen=True)
class ServingEstimate:
    """How a model would be served: one copy on `on`, `batch` requests at a time; tokens per second of the copy, read
    and generated, with the ranges of the serving model."""

    on: Replica
    batch: int
    prefill: Interval
    decode: Interval

    def prices(self, usd_per_hour: float) -> TokenPrices:
        """Dollars per million tokens at the price of one device, with every copy busy."""
        return measured_prices(self.prefill.value, self.decode.value, usd_per_hour * self.on.num_devices)

    def to_json(self) -> dict[str, Any]:
        return {
            "hardware": self.on.hardware.name,
            "num_devices": self.on.num_devices,
            "batch": self.batch,
            "prefill_tokens_per_second": vars(self.prefill),
            "decode_tokens_per_second": vars(self.decode),
        }


def estimate_serving(
    num_params: float, hardware: Hardware, input_tokens: float, output_tokens: float, batch: int = 32
) -> ServingEstimate:
    """A model of that many parameters, with usual proportions (`usual_shape`), on the fewest devices that hold it and
    one request, in 16 bits (32 on a CPU); `batch` requests at a time, or as many as fit.

    Decoding is taken at its mean context, the prompt and half of the answer, and prompts are read apart from it.
    """
    model = usual_shape(num_params)
    if hardware.kind == "cpu":
        model = replace(model, weight_bytes=4.0, kv_bytes=4.0)
    longest = max(1.0, input_tokens + output_tokens)
    on = fitting_replica(model, hardware, longest)
    fits = max(1, min(batch, largest_batch(model, on, longest)))
    return ServingEstimate(
        on,
        fits,
        prefill_tokens_per_second(model, on, max(1.0, input_tokens)),
        decode_tokens_per_second(model, on, fits, input_tokens + output_tokens / 2),
    )
