"""Advice from what a run measured: which strategy of answering to choose, and which model to train for it.

The first half needs no law: every strategy was measured on the same questions, with its cost. The second half is
`components.cost.planning` with the run's own law, the speeds that it reached, and the tokens that an answer takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.cost.answering import StrategyCost, cheapest, frontier
from components.cost.hardware import find_hardware
from components.cost.lifetime import Option, Traffic
from components.cost.planning import FAR, Deployment, Plan, advise
from components.cost.prices import Price, find_offer
from components.cost.serving_model import expected_error, training_share
from components.scaling.chinchilla_fit import ChinchillaFit
from components.statistics import Interval

MOST_QUESTIONS = 1e15  # a hundred thousand for everyone alive
CPU = "cpu-core"  # the hardware on which a run's own speeds are measured


@dataclass(frozen=True)
class AdviceRequest:
    """What advice is wanted for.

    questions: over the lifetime. accuracy: that they need (None: the whole frontier). verifier: right answers can be
    told from wrong ones. loss: that the model shall reach, in nats per token (None: the lowest of the sweep). train_on,
    serve_on: names of hardware. price: which of its prices, as `find_offer` takes it. batch: requests that a copy
    answers at a time.

    Raises ValueError naming the command-line option with a wrong value.
    """

    questions: float
    accuracy: float | None = None
    verifier: bool = False
    loss: float | None = None
    train_on: str = CPU
    serve_on: str = CPU
    price: str = ""
    batch: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.questions <= MOST_QUESTIONS:
            raise ValueError(f"--questions is {self.questions:g}: takes a number from 1 to {MOST_QUESTIONS:g}")
        if self.loss is not None and not 0 < self.loss < math.inf:
            raise ValueError(f"--loss is {self.loss:g}: takes nats per token, a finite number above 0")
        if self.batch < 1:
            raise ValueError(f"--batch is {self.batch}: takes a number of at least 1")
        if self.accuracy is not None and not 0 < self.accuracy <= 1:
            raise ValueError(f"--accuracy is {self.accuracy:g}: takes a share above 0 and at most 1, such as 0.6")
        for option, name in (("--train-on", self.train_on), ("--serve-on", self.serve_on)):
            try:
                find_hardware(name)
            except ValueError as error:
                raise ValueError(f"{option}: {error}") from None


@dataclass(frozen=True)
class StrategyAdvice:
    """measured: every strategy that may be used. frontier: by rising lifetime cost, each more accurate than all cheaper
    ones. chosen: the cheapest whose whole interval reaches the wanted accuracy; None where none does or none is wanted.
    """

    measured: tuple[StrategyCost, ...]
    frontier: tuple[StrategyCost, ...]
    chosen: StrategyCost | None

    @property
    def reference(self) -> StrategyCost:
        """The strategy whose tokens the training plan reckons with: the chosen one, or else the most accurate."""
        return self.chosen or self.frontier[-1]

    @property
    def nearest(self) -> StrategyCost:
        """The strategy with the highest lower end of its interval."""
        return max(self.measured, key=lambda strategy: strategy.accuracy.low)


@dataclass(frozen=True)
class SweepReach:
    """What a sweep covered: the ranges of N and D, its lowest loss in nats per token, and the training FLOP/s (6ND) of
    one core."""

    min_params: float
    max_params: float
    min_tokens: float
    max_tokens: float
    lowest_loss: float
    training_flops_per_second: float


@dataclass(frozen=True)
class CoreSpeeds:
    """What one core cost (dollars per hour) and reached (tokens per second) with a base model of that many parameters;
    None for what the run has not measured."""

    usd_per_core_hour: float
    num_params_non_embedding: float | None = None
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None


@dataclass(frozen=True)
class TrainingAdvice:
    """The plan, and in words on which hardware, at which prices and at which speeds it trains and serves. warnings:
    what the fit says against the law that the plan rests on."""

    plan: Plan
    train_basis: str
    serve_basis: str
    warnings: tuple[str, ...] = ()


def strategy_costs(rows: Iterable[Mapping[str, Any]]) -> tuple[StrategyCost, ...]:
    """The measured strategies, from rows of the named query `strategy_costs`."""
    return tuple(
        StrategyCost(
            Option(row["name"], row["extra_training_usd"], row["usd_per_thousand"] / 1000),
            Interval(row["accuracy"], row["low"], row["high"], row["n"]),
            row["prompt_tokens"],
            row["tokens_per_item"],
            verified=row["needs_verifier"],
        )
        for row in rows
    )


def advise_strategy(measured: Iterable[StrategyCost], request: AdviceRequest) -> StrategyAdvice:
    """How to answer. `measured` must not be empty."""
    usable = tuple(strategy for strategy in measured if request.verifier or not strategy.verified)
    chosen = cheapest(usable, request.accuracy, request.questions) if request.accuracy else None
    return StrategyAdvice(usable, frontier(usable, request.questions), chosen)


def advise_training(
    fit: ChinchillaFit,
    sweep: SweepReach,
    speeds: CoreSpeeds,
    request: AdviceRequest,
    answers: StrategyCost,
    prices: Sequence[Price] | None = None,
) -> TrainingAdvice:
    """What to train, to answer as often as requested and with the tokens that `answers` takes, at the catalogue's
    prices or at `prices`.

    Raises ValueError for a loss at or below the irreducible one of the law, for one that a model far below the sweep's
    smallest would reach, and for a price that is not there.
    """
    loss = sweep.lowest_loss if request.loss is None else request.loss
    if not loss > fit.law.E:
        raise ValueError(
            f"--loss is {loss:g} nats per token: by the fitted law only losses above {fit.law.E:.3f} can be reached; "
            f"the lowest measured one is {sweep.lowest_loss:.3f}"
        )
    easy = float(fit.law.loss(sweep.min_params / FAR, sweep.min_tokens / FAR))
    if loss > easy:
        raise ValueError(
            f"--loss is {loss:g} nats per token: a model of a {FAR:.0f}th of the sweep's smallest, on a {FAR:.0f}th of "
            f"its fewest tokens, is already at {easy:.3f}; give a loss below that, the lowest measured one is "
            f"{sweep.lowest_loss:.3f}"
        )
    rate = sweep.training_flops_per_second
    train, train_basis, _ = deployment(request.train_on, rate, speeds, request, prices)
    serve, _, serve_basis = deployment(request.serve_on, rate, speeds, request, prices)
    traffic = Traffic(request.questions, answers.prompt_tokens, answers.answer_tokens)
    fitted = ((sweep.min_params, sweep.max_params), (sweep.min_tokens, sweep.max_tokens))
    plan = advise(fit, loss, traffic, train, serve, fitted_range=fitted)
    return TrainingAdvice(plan, train_basis, serve_basis, tuple(_against(fit, loss)))


def _against(fit: ChinchillaFit, loss: float) -> Iterator[str]:
    """What is to be said against a plan for this loss."""
    yield from fit.warnings
    if not len(fit.samples):
        yield "the fit has no intervals"
    elif fit.intervals["E"].high >= loss:
        floor = fit.intervals["E"]
        yield (
            f"a loss of {loss:.3f} may be out of reach: the irreducible loss is {floor.value:.3f}, with a "
            f"{fit.config.confidence:.0%} interval of {floor.low:.3f} to {floor.high:.3f}"
        )


def deployment(
    name: str,
    training_flops_per_second: float,
    speeds: CoreSpeeds,
    request: AdviceRequest,
    prices: Sequence[Price] | None = None,
) -> tuple[Deployment, str, str]:
    """A device at the speeds that the run reached on it, or at those of public runs and of the serving model where it
    measured none; and in words at which price and speeds it trains, and serves.

    Raises ValueError for a price that is not there.
    """
    hardware = find_hardware(name)
    if name == CPU:  # at the price with which the run accounts, like the costs of the strategies
        price = Price(CPU, speeds.usd_per_core_hour, "the run", "", "compute.usd_per_core_hour")
        basis = f"{name}, {price.usd_per_hour:g} $/h (compute.usd_per_core_hour of the run)"
    else:
        try:
            offer = find_offer(name, prices, request.price)
        except ValueError as error:
            raise ValueError(f"{error}; `lifespan prices import` takes your own") from None
        price, basis = offer.price, f"{name}, {offer.basis}"
    prefill, decode = speeds.prefill_tokens_per_second, speeds.decode_tokens_per_second
    if name == CPU and prefill is not None and decode is not None and speeds.num_params_non_embedding is not None:
        per_token = 2.0 * speeds.num_params_non_embedding  # FLOPs as the plan counts them, with the law's N
        reached = Deployment(
            hardware,
            price,
            train_mfu=min(1.0, training_flops_per_second / hardware.peak_flops),
            measured=(
                min(1.0, prefill * per_token / hardware.peak_flops),
                min(1.0, decode * per_token / hardware.peak_flops),
            ),
        )
        return reached, f"{basis}, at the speeds of this run", f"{basis}, at the speeds of this run"
    share = training_share(name)
    cpu = ", though no CPU was among its points" if hardware.kind == "cpu" else ""
    return (
        Deployment(hardware, price, train_mfu=share.middle, batch=request.batch),
        f"{basis}, at {share.middle:.0%} of its peak by 6N "
        f"(public runs: {share.low:.0%} to {share.high:.0%}, n={share.n})",
        f"{basis}, by the serving model (mean error {expected_error():.0%} on models it had not seen{cpu})",
    )
