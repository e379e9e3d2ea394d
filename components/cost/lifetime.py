"""Training against a lifetime of answers: totals, and where one way of serving overtakes another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from components.cost.inference import TokenPrices


@dataclass(frozen=True)
class Traffic:
    """A lifetime's demand: `requests`, and the mean tokens of one, read and generated."""

    requests: float
    input_tokens: float
    output_tokens: float

    def __post_init__(self) -> None:
        for name in ("requests", "input_tokens", "output_tokens"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Traffic.{name} must be finite and at least 0, got {value}")

    @property
    def total_input(self) -> float:
        """Prompt tokens over the lifetime."""
        return self.requests * self.input_tokens

    @property
    def total_output(self) -> float:
        """Generated tokens over the lifetime."""
        return self.requests * self.output_tokens


@dataclass(frozen=True)
class LifetimeCost:
    """US dollars to train once and to serve a lifetime of traffic."""

    training: float
    serving: float

    @property
    def total(self) -> float:
        """Dollars in all."""
        return self.training + self.serving

    @property
    def serving_share(self) -> float:
        """Share of the total that is serving, 0 to 1; nan when the total is 0."""
        return self.serving / self.total if self.total else math.nan


def lifetime_cost(training_usd: float, prices: TokenPrices, traffic: Traffic) -> LifetimeCost:
    """Dollars of a model's life."""
    return LifetimeCost(training_usd, traffic.requests * prices.request(traffic.input_tokens, traffic.output_tokens))


@dataclass(frozen=True)
class Option:
    """One way to serve at some quality: `fixed` dollars before the first unit (training), `per_unit` dollars for each
    (a token, a request), and `name` for people."""

    name: str
    fixed: float
    per_unit: float

    def __post_init__(self) -> None:
        for field in ("fixed", "per_unit"):
            value = getattr(self, field)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"option {self.name!r}: {field} must be finite and at least 0, got {value}")

    def cost(self, units: float) -> float:
        """Dollars after `units`."""
        return self.fixed + self.per_unit * units


@dataclass(frozen=True)
class BreakEven:
    """From `units` on, `then` is the cheaper option; before, `first` is. 0: `then` is never more expensive;
    inf: it never becomes cheaper. Two options of equal cost throughout give inf with `first` as it came."""

    units: float
    first: str
    then: str


def break_even(a: Option, b: Option) -> BreakEven:
    """Where the lines a.fixed + a.per_unit·x and b.fixed + b.per_unit·x cross, at equal quality.

    `then` is the option that is cheaper per unit: (fixed_then - fixed_first)/(per_unit_first - per_unit_then) units,
    0 where its fixed cost is not higher either. Where both cost the same per unit, the cheaper start stays ahead: inf.
    """
    if a.per_unit == b.per_unit:
        first, then = (a, b) if a.fixed <= b.fixed else (b, a)
        return BreakEven(math.inf, first.name, then.name)
    first, then = (a, b) if b.per_unit < a.per_unit else (b, a)
    return BreakEven(max(then.fixed - first.fixed, 0.0) / (first.per_unit - then.per_unit), first.name, then.name)


def thinking_option(
    name: str, training_usd: float, prices: TokenPrices, input_tokens: float, answer_tokens: float, samples: int = 1
) -> Option:
    """An option per request for a model that thinks: `samples` answers of `answer_tokens` tokens each, reasoning
    included; the prompt is read once and shared."""
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    return Option(name, training_usd, prices.request(input_tokens, answer_tokens * samples))


def affordable_tokens(
    thinker_training: float, thinker: TokenPrices, rival: Option, input_tokens: float, requests: float
) -> float:
    """Output tokens per request with which a model's life costs as much as that of `rival` (an option per request).

    0 where it is more expensive before it generates a token; inf where its output is free.
    """
    if not requests > 0:
        raise ValueError(f"requests must be positive, got {requests}")
    budget = rival.cost(requests) - thinker_training - requests * thinker.request(input_tokens, 0.0)
    if budget <= 0:
        return 0.0
    return budget / requests / thinker.output * 1e6 if thinker.output else math.inf


def cheaper(a: Option, b: Option, units: float) -> str | None:
    """Name of the option that is cheaper after `units`; None when they cost the same."""
    difference = a.cost(units) - b.cost(units)
    if difference == 0:
        return None
    return b.name if difference > 0 else a.name
