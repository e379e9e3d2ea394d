"""Train further and answer once, or think longer with the model that is there: which costs less, and from when on."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.cost.inference import TokenPrices, usd_per_million_tokens
from components.cost.results import Decision, ServingResult, TrainOrThink
from components.reasoning.results.strategies import StrategyResult
from components.statistics import Interval


@dataclass(frozen=True)
class PriceInterval:
    """Dollars per million tokens, read and generated, with the intervals that the measured rates give them."""

    input: Interval
    output: Interval

    @property
    def value(self) -> TokenPrices:
        """The prices themselves."""
        return TokenPrices(self.input.value, self.output.value)

    @property
    def corners(self) -> tuple[TokenPrices, ...]:
        """Every pair of ends of the two intervals."""
        ends = itertools.product((self.input.low, self.input.high), (self.output.low, self.output.high))
        return tuple(TokenPrices(*pair) for pair in ends)


def measured_price(serving: ServingResult, usd_per_hour: float) -> PriceInterval:
    """Prices at the measured rates of a device that costs `usd_per_hour`."""

    def price(rate: Interval) -> Interval:
        value, low, high = (usd_per_million_tokens(x, usd_per_hour) for x in (rate.value, rate.high, rate.low))
        return Interval(value, low, high, rate.n)

    return PriceInterval(price(serving.prefill_tokens_per_second), price(serving.decode_tokens_per_second))


def per_item(row: StrategyResult, prices: TokenPrices) -> float:
    """Dollars of an answer by this strategy: what it read and what it generated."""
    return prices.request(row.prompt_tokens, row.completion_tokens)


def strongest_thinking(
    rows: Iterable[StrategyResult], accuracy: float, prices: TokenPrices
) -> tuple[StrategyResult, bool] | None:
    """The cheapest strategy whose 95% interval reaches `accuracy`, and True; where none does, the most accurate one
    (the cheapest of equals), and False. None without strategies. Those that need a verifier are no way to answer."""
    usable = [row for row in rows if not row.needs_verifier]
    if reaching := [row for row in usable if row.high >= accuracy]:
        return min(reaching, key=lambda row: (per_item(row, prices), -row.accuracy)), True
    best = min(usable, key=lambda row: (-row.accuracy, per_item(row, prices)), default=None)
    return None if best is None else (best, False)


def decisive_suite(rows: Iterable[StrategyResult]) -> str | None:
    """Of several evaluation sets the one that decisions rest on, the first to which answers were written: ranking given
    ones is no way to answer. None for our chains."""
    return next((row.suite for row in rows if row.suite and row.completion_tokens), None)


def sides(rows: Sequence[StrategyResult]) -> tuple[StrategyResult | None, list[StrategyResult]]:
    """The model that was trained further, answering once, and every strategy of the model before it, which is the base
    where none was fine-tuned; both on the set that decisions rest on."""
    suite = decisive_suite(rows)
    asked = [row for row in rows if row.suite == suite]
    before = "sft" if any(row.model == "sft" for row in asked) else "base"
    trained = next((row for row in asked if row.model == "grpo" and row.strategy in ("cot", "greedy")), None)
    return trained, [row for row in asked if row.model == before]


def train_or_think(
    trained: StrategyResult | None, thinking: Sequence[StrategyResult], extra_usd: float, prices: PriceInterval
) -> Decision:
    """`trained`: the model that was trained further, for `extra_usd`, answering once. `thinking`: all strategies of the
    model before it."""
    found = strongest_thinking(thinking, trained.accuracy, prices.value) if trained else None
    if trained is None or found is None:
        return Decision("no strategy of both models was measured")
    think, as_accurate = found

    def questions(at: TokenPrices) -> float | None:
        saved = per_item(think, at) - per_item(trained, at)
        return extra_usd / saved if saved > 0 else None

    even = questions(prices.value)
    corners = [questions(corner) for corner in prices.corners]
    finite = [x for x in corners if x is not None]
    longer, further = (f"{row.model} {row.strategy}" for row in (think, trained))
    verdict = (
        f"{longer} costs less in all however many are asked"
        if even is None
        else f"{further} costs less in all from {even:,.0f} questions on"
    )
    if not as_accurate:
        verdict += f", but no strategy of {think.model} is as accurate"
    return Decision(
        verdict,
        TrainOrThink(
            think_longer=longer,
            train_further=further,
            thinking_usd_per_thousand=1000 * per_item(think, prices.value),
            trained_usd_per_thousand=1000 * per_item(trained, prices.value),
            break_even_questions=even,
            break_even_low=min(finite, default=None),
            break_even_high=None if None in corners else max(finite),
            as_accurate=as_accurate,
            trained_accuracy=trained.interval,
            thinking_accuracy=think.interval,
        ),
    )
