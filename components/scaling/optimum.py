"""The model to train when it will also be served, in FLOPs or in dollars (Sardana et al. 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from components.scaling.laws import ChinchillaLaw


@dataclass(frozen=True)
class LifetimeCosts:
    """What a parameter costs in any one unit (FLOPs, dollars, joules): `train` per training token, `served` over the
    whole lifetime's inference. A life costs num_params · (train · tokens + served)."""

    train: float
    served: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.train) and self.train > 0):
            raise ValueError(f"LifetimeCosts.train must be finite and positive, got {self.train}")
        if not (math.isfinite(self.served) and self.served >= 0):
            raise ValueError(f"LifetimeCosts.served must be finite and at least 0, got {self.served}")

    def total(self, num_params: float, tokens: float) -> float:
        """Cost of training on `tokens` and of the lifetime's inference, in the unit of the fields."""
        return num_params * (self.train * tokens + self.served)


def flop_costs(inference_tokens: float) -> LifetimeCosts:
    """FLOPs: 6ND to train, 2N a token served (Sardana et al. 2024, eq. 2); `inference_tokens` prompt and output."""
    return LifetimeCosts(6.0, 2.0 * inference_tokens)


def dollar_costs(
    *,
    train_usd_per_flop: float,
    train_mfu: float,
    serve_usd_per_flop: float,
    input_tokens: float,
    input_mfu: float,
    output_tokens: float,
    output_mfu: float,
) -> LifetimeCosts:
    """Dollars (Sardana et al. 2024, eq. 3): `*_usd_per_flop` is dollars an hour / 3600 / peak FLOP/s of the hardware;
    `*_mfu` the share of the peak that training, prefill and decode reach; tokens are totals over the lifetime."""
    for name, share in (("train_mfu", train_mfu), ("input_mfu", input_mfu), ("output_mfu", output_mfu)):
        if not 0 < share <= 1:
            raise ValueError(f"{name} must lie in (0, 1], got {share}")
    return LifetimeCosts(
        6.0 * train_usd_per_flop / train_mfu,
        2.0 * serve_usd_per_flop * (input_tokens / input_mfu + output_tokens / output_mfu),
    )


@dataclass(frozen=True)
class LifetimeOptimum:
    """The cheapest life at a quality: N, D, and its cost beside that of the compute-optimal model of equal loss."""

    num_params: float
    tokens: float
    loss: float
    cost: float
    training_cost: float
    serving_cost: float
    compute_optimal_params: float
    compute_optimal_tokens: float
    compute_optimal_cost: float

    @property
    def saving(self) -> float:
        """Share of the compute-optimal model's lifetime cost that is saved, 0 to 1."""
        return 1.0 - self.cost / self.compute_optimal_cost


def lifetime_optimum(law: ChinchillaLaw, loss: float, costs: LifetimeCosts) -> LifetimeOptimum:
    """N and D that reach `loss` (nats per token) at the least `costs`.

    The root in ln N of d(cost)/dN = 0 along L(N, D) = loss; with no inference it is the compute-optimal model.

    Raises ValueError when `loss` is at or under the irreducible loss.
    """
    if not loss > law.E:
        raise ValueError(f"a loss of {loss} is at or under the law's irreducible {law.E:.4g}: no model reaches it")
    log_n = _stationary(law, loss, costs)
    n = math.exp(log_n)
    d = law.tokens_for_loss(n, loss)
    chin_n = math.exp(_stationary(law, loss, LifetimeCosts(costs.train, 0.0)))
    chin_d = law.tokens_for_loss(chin_n, loss)
    return LifetimeOptimum(
        num_params=n,
        tokens=d,
        loss=loss,
        cost=costs.total(n, d),
        training_cost=n * costs.train * d,
        serving_cost=n * costs.served,
        compute_optimal_params=chin_n,
        compute_optimal_tokens=chin_d,
        compute_optimal_cost=costs.total(chin_n, chin_d),
    )


def _stationary(law: ChinchillaLaw, loss: float, costs: LifetimeCosts) -> float:
    """ln N where c D + K = c · α A N^-α / (β B D^(-β-1)), the last term being -c N dD/dN along the loss."""
    rest = loss - law.E
    edge = math.log(law.A / rest) / law.alpha  # the smallest N that can reach the loss, with endless data
    # Of logs, since the quotient of a tiny and a large float is 0.
    log_served = math.log(costs.served) - math.log(costs.train) if costs.served > 0 else -math.inf

    def slope(log_gap: float) -> float:
        n_term = rest * math.exp(-law.alpha * math.exp(log_gap))
        # -expm1 keeps the difference exact close to the edge, where D is huge.
        d_term = rest * -math.expm1(-law.alpha * math.exp(log_gap))
        log_d = math.log(law.B / d_term) / law.beta
        log_gain = math.log(law.alpha / law.beta) + math.log(n_term / d_term) + log_d
        return float(np.logaddexp(log_d, log_served)) - log_gain

    # Close to the edge D explodes and a larger model is cheaper; far from it the data term no longer falls.
    low, high = -18.0, math.log(600.0 / law.alpha)
    if not (slope(low) < 0 < slope(high) and abs(edge) < 300):
        raise ValueError(
            f"no cheapest model at a loss of {loss}: with alpha={law.alpha:.3g}, beta={law.beta:.3g} and E={law.E:.3g} "
            f"the optimum lies beyond any size that can be computed. Check that the law is identified, and the traffic"
        )
    return edge + math.exp(float(optimize.brentq(slope, low, high, xtol=1e-13)))
