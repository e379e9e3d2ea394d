"""What to train for a quality and a traffic: sizes, tokens, and what each costs over its life."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from components.cost.accounting import AVERAGE_PUE, Cost, expected_training
from components.cost.hardware import Hardware
from components.cost.inference import ServingEstimate, estimate_serving
from components.cost.lifetime import BreakEven, LifetimeCost, Option, Traffic, break_even
from components.cost.prices import Price
from components.scaling.chinchilla_fit import ChinchillaFit
from components.scaling.laws import ChinchillaLaw
from components.scaling.optimum import dollar_costs, flop_costs, lifetime_optimum
from components.statistics import Interval

SIZES_TRIED = 200
FAR = 10.0  # times outside of the fitted N or D, from where on a law's numbers are no more than an extrapolation


@dataclass(frozen=True)
class Deployment:
    """Hardware, its rent, and how fast it trains and serves.

    `train_mfu`: share of the dense peak that training reaches, by 6N. `measured`: shares that prefill and decoding
    reached with a model of like size, as (prefill, decode); None: by the serving model, `batch` requests at a time.
    """

    hardware: Hardware
    price: Price
    train_mfu: float = 0.4
    measured: tuple[float, float] | None = None
    batch: int = 32

    @property
    def usd_per_flop(self) -> float:
        """Dollars for one FLOP at the dense peak."""
        return self.price.usd_per_hour / 3600.0 / self.hardware.peak_flops

    def estimate(self, num_params: float, traffic: Traffic) -> ServingEstimate | None:
        """How a model would be served by the serving model; None where shares were measured."""
        if self.measured is not None:
            return None
        return estimate_serving(num_params, self.hardware, traffic.input_tokens, traffic.output_tokens, self.batch)

    def serving_usd(self, num_params: float, traffic: Traffic) -> float:
        """Dollars to serve the traffic with every device busy; with measured shares 2N FLOPs a token."""
        if (estimate := self.estimate(num_params, traffic)) is not None:
            prices = estimate.prices(self.price.usd_per_hour)
            return traffic.requests * prices.request(traffic.input_tokens, traffic.output_tokens)
        assert self.measured is not None
        prefill, decode = self.measured
        return 2.0 * num_params * self.usd_per_flop * (traffic.total_input / prefill + traffic.total_output / decode)


@dataclass(frozen=True)
class PlanRow:
    """One candidate that reaches the target: `training` cost, `life` in dollars, predicted loss with its interval
    where a fit stands behind the law, `outside`: in words, how far N or D is extrapolated beyond the fitted points (""
    if neither is); `reach`: the larger of the two factors, 1 within the points."""

    name: str
    num_params: float
    tokens: float
    loss: Interval | None
    training: Cost
    life: LifetimeCost
    outside: str
    reach: float = 1.0
    serving: ServingEstimate | None = None  # where no speeds were measured

    @property
    def far(self) -> bool:
        """Whether N or D lies more than ten times outside of the fitted points."""
        return self.reach > FAR

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.tokens / self.num_params

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "num_params": self.num_params,
            "tokens": self.tokens,
            "tokens_per_param": self.tokens_per_param,
            "loss": vars(self.loss) if self.loss else None,
            "training": vars(self.training),
            "training_usd": self.life.training,
            "serving_usd": self.life.serving,
            "total_usd": self.life.total,
            "outside": self.outside,
            "reach": self.reach,
            "serving": self.serving.to_json() if self.serving else None,
        }


@dataclass(frozen=True)
class Plan:
    """Candidates by rising lifetime cost, all of one predicted loss; `best` is the first. `break_even` compares, in
    requests, the compute-optimal model with the best one (None where they are the same)."""

    target_loss: float
    traffic: Traffic
    rows: tuple[PlanRow, ...]
    break_even: BreakEven | None

    @property
    def best(self) -> PlanRow:
        """The cheapest life."""
        return self.rows[0]

    def to_json(self) -> dict[str, Any]:
        return {
            "target_loss": self.target_loss,
            "traffic": vars(self.traffic),
            "rows": [row.to_json() for row in self.rows],
            "break_even": vars(self.break_even) if self.break_even else None,
        }


def advise(
    law: ChinchillaFit | ChinchillaLaw,
    target_loss: float,
    traffic: Traffic,
    train_on: Deployment,
    serve_on: Deployment,
    sizes: Sequence[float] = (),
    fitted_range: tuple[tuple[float, float], tuple[float, float]] | None = None,
    pue: float = AVERAGE_PUE,
) -> Plan:
    """Models that reach `target_loss` (nats per token), with what each costs to train and to serve `traffic`.

    Candidates: the compute-optimal model, those of least lifetime FLOPs and of least lifetime dollars, and any of
    `sizes` (parameters, as the law counts N) that can reach the loss. `fitted_range`: ((N low, high), (D low, high))
    of the points behind the law; extrapolation is flagged in the row.

    Raises ValueError when the loss is at or under the irreducible one.
    """
    fit, plain = (law, law.law) if isinstance(law, ChinchillaFit) else (None, law)
    by_flops = lifetime_optimum(plain, target_loss, flop_costs(traffic.total_input + traffic.total_output))
    candidates = {
        "compute-optimal": by_flops.compute_optimal_params,
        "least lifetime FLOPs": by_flops.num_params,
        "least lifetime dollars": _cheapest(
            plain, target_loss, traffic, train_on, serve_on, by_flops.compute_optimal_params
        ),
    }
    for size in sizes:
        if math.isfinite(plain.tokens_for_loss(size, target_loss)):
            candidates[f"{size:.3g} parameters"] = size

    rows = []
    for name, num_params in candidates.items():
        tokens = plain.tokens_for_loss(num_params, target_loss)
        training = expected_training(num_params, tokens, train_on.hardware, train_on.price, train_on.train_mfu, pue)
        rows.append(
            PlanRow(
                name=name,
                num_params=num_params,
                tokens=tokens,
                loss=fit.predict(num_params, tokens) if fit else None,
                training=training,
                life=LifetimeCost(training.usd, serve_on.serving_usd(num_params, traffic)),
                outside=_outside(num_params, tokens, fitted_range),
                reach=_reach(num_params, tokens, fitted_range),
                serving=serve_on.estimate(num_params, traffic),
            )
        )
    ordered = tuple(sorted(rows, key=lambda row: row.life.total))
    return Plan(target_loss, traffic, ordered, _against_compute_optimal(rows[0], ordered[0], traffic))


def _cheapest(
    law: ChinchillaLaw,
    loss: float,
    traffic: Traffic,
    train_on: Deployment,
    serve_on: Deployment,
    compute_optimal: float,
) -> float:
    """Parameters of the cheapest life.

    With measured shares dollars are proportional to FLOPs, and the optimum has an equation. By the serving model they
    jump where a model takes another layer or device, so sizes are tried: from the smallest that can reach the loss to
    the compute-optimal one, beyond which both training and serving cost more; then finely about the best of them.
    """
    if serve_on.measured is not None:
        prefill, decode = serve_on.measured
        dollars = dollar_costs(
            train_usd_per_flop=train_on.usd_per_flop,
            train_mfu=train_on.train_mfu,
            serve_usd_per_flop=serve_on.usd_per_flop,
            input_tokens=traffic.total_input,
            input_mfu=prefill,
            output_tokens=traffic.total_output,
            output_mfu=decode,
        )
        return lifetime_optimum(law, loss, dollars).num_params

    def cost(num_params: float) -> float:
        training = 6.0 * num_params * law.tokens_for_loss(num_params, loss) * train_on.usd_per_flop / train_on.train_mfu
        return training + serve_on.serving_usd(num_params, traffic)

    smallest = (law.A / (loss - law.E)) ** (1 / law.alpha)  # reaches the loss with endless data
    sizes = np.geomspace(smallest * 1.001, compute_optimal, SIZES_TRIED).tolist()
    best = min(range(len(sizes)), key=lambda at: cost(sizes[at]))
    near = np.geomspace(sizes[max(0, best - 1)], sizes[min(len(sizes) - 1, best + 1)], SIZES_TRIED).tolist()
    return float(min(near, key=cost))


def _against_compute_optimal(reference: PlanRow, best: PlanRow, traffic: Traffic) -> BreakEven | None:
    if best is reference or not traffic.requests:
        return None
    options = [Option(r.name, r.life.training, r.life.serving / traffic.requests) for r in (reference, best)]
    return break_even(*options)


def _reach(num_params: float, tokens: float, fitted: tuple[tuple[float, float], tuple[float, float]] | None) -> float:
    if fitted is None:
        return 1.0
    (n_low, n_high), (d_low, d_high) = fitted
    return max(1.0, num_params / n_high, n_low / num_params, tokens / d_high, d_low / tokens)


def _outside(num_params: float, tokens: float, fitted: tuple[tuple[float, float], tuple[float, float]] | None) -> str:
    if fitted is None:
        return ""
    parts = []
    for name, value, (low, high) in (("N", num_params, fitted[0]), ("D", tokens, fitted[1])):
        if value > high:
            parts.append(f"{name} is {value / high:.3g} times the largest fitted")
        elif value < low:
            parts.append(f"{name} is {value / low:.3g} of the smallest fitted")
    return "; ".join(parts)
