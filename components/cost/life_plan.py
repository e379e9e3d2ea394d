"""What to build for a quality and a demand: size and shape, tokens, devices, days, dollars of training and the life.

With a published law no run of one's own is needed. Every model considered is one that can be built, and every copy of
it is a whole one: a life's dollars have steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from components.cost.accounting import training_flops_per_token
from components.cost.capacity import Latency, ServingPlan, plan_serving
from components.cost.demand import Scenario
from components.cost.hardware import Hardware
from components.cost.prices import Offer
from components.cost.public_models import buildable, served, training_memory_bytes
from components.cost.serving_model import serving_constants
from components.cost.training_shares import Share
from components.cost.uncertainty import Factor, Floats, Uncertain, propagate
from components.cost.units import Usd, check_units
from components.model.config import ModelConfig, count_params
from components.scaling.laws import ChinchillaLaw
from components.scaling.optimum import flop_costs, lifetime_optimum

SIZES_TRIED = 24
ROOM = 0.8  # share of a device's memory for weights and optimizer; the rest is for activations
DEMAND_RANGE = 2.0  # factor within which the asker is taken to know the demand, 90%


@dataclass(frozen=True)
class Market:
    """Where the life is lived: a device with its prices, and the share of its peak that training reaches by the
    convention `causal`. `reserved`: None where there is no such price."""

    hardware: Hardware
    on_demand: Offer
    reserved: Offer | None
    share: Share

    @property
    def rates(self) -> tuple[float, float | None]:
        """Dollars per device and hour, on demand and reserved."""
        return self.on_demand.price.usd_per_hour, self.reserved.price.usd_per_hour if self.reserved else None

    @property
    def training_rate(self) -> float:
        """Dollars per device and hour of training: on demand."""
        return self.on_demand.price.usd_per_hour


@dataclass(frozen=True)
class Design:
    """A model with its life. `tokens` to train on; `devices` for `days`; dollars."""

    name: str
    config: ModelConfig
    num_params: int
    tokens: float
    flops: float
    devices: int
    days: float
    training_usd: Usd
    serving: ServingPlan

    def __post_init__(self) -> None:
        check_units(self)

    @property
    def life_usd(self) -> Usd:
        """Training and serving."""
        return Usd(self.training_usd + self.serving.usd)


@dataclass(frozen=True)
class LifePlan:
    """`best`: the cheapest life at that loss; `compute_optimal`: the model of equal loss that is cheapest to train;
    `outside`: in words, how far beyond the law's runs; `uncertain`: of the best's life."""

    loss: float
    best: Design
    compute_optimal: Design
    outside: str
    uncertain: Uncertain
    notes: tuple[str, ...] = field(default=())

    @property
    def saving(self) -> float:
        """Share of the compute-optimal model's life that the best saves."""
        return 1.0 - self.best.life_usd / self.compute_optimal.life_usd


@dataclass(frozen=True)
class Wish:
    """What is asked of a plan beside the loss: demand, latency, the days that training may take, vocabulary and context
    of the model, and dollars (None: any)."""

    scenario: Scenario
    latency: Latency = field(default_factory=Latency)
    training_days: float = 30.0
    vocab_size: int = 32_000
    context_length: int = 4096
    budget: Usd | None = None

    def __post_init__(self) -> None:
        check_units(self)
        if self.budget is not None and not self.budget > 0:
            raise ValueError(f"--budget is {self.budget:g}: takes dollars above 0")
        if not 0 < self.training_days < 1e5:
            raise ValueError(f"--training-days is {self.training_days:g}: takes days above 0")
        if self.vocab_size < 1:
            raise ValueError(f"--vocabulary is {self.vocab_size}: takes a number of at least 1")


def design(name: str, num_params: float, loss: float, law: ChinchillaLaw, wish: Wish, market: Market) -> Design | None:
    """The model nearest to that size, trained to that loss; None where it cannot be built, trained or served so."""
    try:
        config = buildable(num_params, wish.vocab_size, wish.context_length)
        tokens = law.tokens_for_loss(count_params(config).total, loss)
        if not tokens < 1e18:
            return None
        serving = plan_serving(served(config), market.hardware, wish.scenario, *market.rates, wish.latency)
    except ValueError:
        return None
    return with_training(name, config, tokens, wish, market, serving)


def with_training(
    name: str, config: ModelConfig, tokens: float, wish: Wish, market: Market, serving: ServingPlan
) -> Design:
    """The design of a model trained on that number of tokens: devices to hold it and end in time, days, dollars."""
    counts = count_params(config)
    width = config.num_heads * config.per_head
    each = training_flops_per_token("causal", counts.active, config.num_layers, width, wish.context_length)
    seconds = each * tokens / (market.hardware.peak_flops * market.share.middle)  # of one device
    holds = math.ceil(training_memory_bytes(config) / (ROOM * market.hardware.memory_bytes))
    in_time = math.ceil(seconds / (wish.training_days * 86_400))
    devices = max(holds, in_time)
    if devices > 8:  # whole nodes
        devices = 8 * math.ceil(devices / 8)
    usd = Usd(seconds / 3600 * market.training_rate)
    return Design(name, config, counts.total, tokens, each * tokens, devices, seconds / devices / 86_400, usd, serving)


def candidates(loss: float, law: ChinchillaLaw, wish: Wish, market: Market) -> tuple[Design, Design]:
    """The cheapest life at that loss, and the compute-optimal one.

    Raises ValueError at or under the irreducible loss, and where nothing that can be built is served as asked.
    """
    if not loss > law.E:
        raise ValueError(
            f"a loss of {loss:g} is at or below the irreducible {law.E:.4f} of the law: no model reaches it; "
            f"the nearest that can be asked for is above that, such as {law.E * 1.05:.3f}"
        )
    traffic = wish.scenario.traffic
    optimum = lifetime_optimum(law, loss, flop_costs(traffic.total_input + traffic.total_output))
    middle = optimum.compute_optimal_params
    reference = design("the compute-optimal model", middle, loss, law, wish, market)
    # From the smallest that reaches the loss with endless data to somewhat above the compute-optimal one.
    sizes = np.geomspace(law.smallest_model(loss) * 1.02, middle * 1.2, SIZES_TRIED).tolist()
    found = [d for size in sizes if (d := design("the cheapest life", size, loss, law, wish, market))]
    if reference is None and not found:
        # Say why, of the smallest: it is the fastest.
        config = buildable(sizes[0], wish.vocab_size, wish.context_length)
        plan_serving(served(config), market.hardware, wish.scenario, *market.rates, wish.latency)
        raise ValueError(
            f"no model of a loss of {loss:g} can be built and trained: the law wants {middle:.3g} parameters"
        )
    best = min([*found, *([reference] if reference else [])], key=lambda one: one.life_usd)
    return best, reference or best


def plan_life(
    loss: float,
    law: ChinchillaLaw,
    ranges: tuple[tuple[float, float], tuple[float, float]],
    wish: Wish,
    market: Market,
    fit: Sequence[ChinchillaLaw] = (),
    tokens_by_others: Sequence[float] = (),
) -> LifePlan:
    """What to build. `ranges`: N and D of the runs behind the law. `fit`: draws of the law, for the uncertainty;
    `tokens_by_others`: in place of draws, tokens that other laws ask of the same model, over this law's.

    Where a budget is given that the loss does not fit into, the plan is for the lowest loss that does, and says so.
    """
    best, reference = candidates(loss, law, wish, market)
    notes: list[str] = []
    if wish.budget is not None and best.life_usd > wish.budget:
        wanted, price = loss, best.life_usd
        loss, best, reference = _affordable(loss, law, wish, market)
        notes.append(
            f"a loss of {wanted:.4f} takes {price:,.0f} USD over its life, more than the {wish.budget:,.0f} of the "
            f"budget: the nearest that fits is {loss:.4f}"
        )
    return LifePlan(
        loss,
        best,
        reference,
        _outside(best, ranges),
        propagate(*_model(best, loss, wish, market, fit, tokens_by_others)),
        tuple(notes),
    )


def _affordable(loss: float, law: ChinchillaLaw, wish: Wish, market: Market) -> tuple[float, Design, Design]:
    """The lowest loss that the budget has room for, by bisection. Raises ValueError where none has."""
    assert wish.budget is not None
    low, high, found = loss, loss, None
    least = math.inf
    while found is None and high < 4 * law.E + 8:
        low, high = high, law.E + 1.3 * (high - law.E)
        try:
            pair = candidates(high, law, wish, market)
        except ValueError:
            continue
        least = min(least, pair[0].life_usd)
        if pair[0].life_usd <= wish.budget:
            found = (high, *pair)
    if found is None:
        raise ValueError(
            f"--budget {wish.budget:g} USD is too little for any model of this demand: the least is {least:,.0f} USD"
        )
    for _ in range(12):
        middle = (low + high) / 2
        try:
            pair = candidates(middle, law, wish, market)
        except ValueError:
            low = middle
            continue
        if pair[0].life_usd <= wish.budget:
            high, found = middle, (middle, *pair)
        else:
            low = middle
    return found


def _outside(made: Design, ranges: tuple[tuple[float, float], tuple[float, float]]) -> str:
    parts = []
    for name, value, (low, high) in (("N", made.num_params, ranges[0]), ("D", made.tokens, ranges[1])):
        if value > high:
            parts.append(f"{name} is {value / high:.3g} times the largest behind the law")
        elif value < low:
            parts.append(f"{name} is {value / low:.3g} of the smallest behind the law")
    return "; ".join(parts)


def _model(
    made: Design,
    loss: float,
    wish: Wish,
    market: Market,
    fit: Sequence[ChinchillaLaw],
    tokens_by_others: Sequence[float],
) -> tuple[Callable[[Mapping[str, Floats]], Floats], list[Factor]]:
    """The life's dollars as a function of what is not known, and those factors."""
    k = serving_constants()
    share, price = market.share, market.on_demand
    factors = [
        Factor("training speed", share.low / share.middle, 1.0, share.high / share.middle, f"{share.of}, n={share.n}"),
        Factor(
            "serving time", min(1.0, k.decode_low), 1.0, max(1.0, k.decode_high), "models that the fit had not seen"
        ),
        Factor("demand", 1 / DEMAND_RANGE, 1.0, DEMAND_RANGE, f"within a factor of {DEMAND_RANGE:g} of what was asked"),
    ]
    middle = price.price.usd_per_hour
    low, high = price.price.usd_low or price.low, price.price.usd_high or price.high
    if low < high:
        factors.append(Factor("price", low / middle, 1.0, high / middle, f"{price.n} offers of {price.price.date}"))
    times = [draw.tokens_for_loss(made.num_params, loss) / made.tokens for draw in fit] or list(tokens_by_others)
    times = [x for x in times if math.isfinite(x) and x > 0]
    if times:
        why = f"{len(times)} draws of the fit" if fit else f"this and {len(times) - 1} other published laws"
        factors.append(Factor("tokens that the loss takes", samples=tuple(times), why=why))
    training, serving = float(made.training_usd), float(made.serving.usd)

    def life(values: Mapping[str, Floats]) -> Floats:
        one: Floats = np.ones(1)
        tokens, rent = values.get("tokens that the loss takes", one), values.get("price", one)
        served_usd = serving * np.maximum(values["demand"] * values["serving time"], _floor(made))
        return np.asarray(rent * (training * tokens / values["training speed"] + served_usd))

    return life, factors


def _floor(made: Design) -> float:
    """Share of the serving dollars below which fewer requests save nothing: one copy stays."""
    return min(1.0, 1.0 / max(made.serving.mean_copies, 1.0))
