"""Dense or a mixture of experts: the mixture that has a dense model's loss, and its life beside the dense one's.

By Clark et al. 2022 (arXiv:2202.01169, eq. 8 and 9; S-Base of their table): a mixture whose token passes through N
parameters, one of E experts in every second layer, has the loss of a dense model of more parameters after as many
tokens. Which of the two is cheaper over a life depends on how often it is asked: a mixture computes less a token, and
holds more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize

from components.cost.capacity import plan_serving
from components.cost.life_plan import Design, Market, Wish, with_training
from components.cost.public_models import buildable, served
from components.model.config import ModelConfig, MoEConfig, count_params
from components.scaling.formula_optimum import dense_equal

# a, b, c, d, E_start, E_max, log10 throughout.
S_BASE = (-0.082, -0.108, 0.009, 1.104, 1.847, 314.478)
EXPERTS = (8, 16, 32, 64)
LARGEST_MEASURED = 1.3e9  # parameters that a token passed through in the largest of their runs
TOKENS_MEASURED = 1.3e11
LIMITS = (
    "Clark et al. 2022, S-Base: one expert a token in every second layer, up to 1.3e9 parameters a token and 512 "
    "experts, all on 1.3e11 tokens of MassiveText, and equal losses taken at equal tokens"
)


@dataclass(frozen=True)
class Mixture:
    """`design`: the cheapest mixture of equal loss. `active`: parameters that a token passes through; `saving`: share
    of the dense model's life, below 0 where it costs more; `outside`: in words, how far beyond the law's runs."""

    design: Design
    active: int
    saving: float
    outside: str


def routed_size(dense_params: float, experts: int) -> float | None:
    """Parameters a token passes through in the mixture of that many experts that has the loss of a dense model; None
    where experts gain nothing any more (Clark et al. 2022, §5.2: beyond their N_cutoff)."""

    def gap(log_size: float) -> float:
        return float(np.log(dense_equal(S_BASE, np.exp(log_size), experts))) - np.log(dense_params)

    top = float(np.log(dense_params))
    if gap(top) <= 0:
        return None
    return float(np.exp(optimize.brentq(gap, top - np.log(100.0), top)))


def with_experts(config: ModelConfig, experts: int) -> ModelConfig:
    """The decoder with as many experts, of its own feed-forward width, in half of its layers."""
    return replace(config, moe=MoEConfig(experts, 1, config.hidden, first_dense=config.num_layers // 2))


def equal_mixture(dense: Design, wish: Wish, market: Market) -> Mixture | None:
    """The cheapest mixture of the dense design's loss, trained on its tokens; None where none is served as asked."""
    found: list[tuple[Design, int]] = []
    for experts in EXPERTS:
        size = routed_size(dense.num_params, experts)
        if size is None:
            continue
        try:
            config = with_experts(buildable(size, wish.vocab_size, wish.context_length), experts)
            serving = plan_serving(served(config), market.hardware, wish.scenario, *market.rates, wish.latency)
        except ValueError:
            continue
        made = with_training(f"a mixture of {experts} experts", config, dense.tokens, wish, market, serving)
        found.append((made, count_params(config).active))
    if not found:
        return None
    best, active = min(found, key=lambda one: one[0].life_usd)
    beyond = [
        f"{value / measured:.3g} times the {what}"
        for value, measured, what in (
            (active, LARGEST_MEASURED, "parameters a token"),
            (best.tokens, TOKENS_MEASURED, "tokens"),
        )
        if value > measured
    ]
    outside = f"{' and '.join(beyond)} of that law's runs" if beyond else ""
    return Mixture(best, active, 1.0 - best.life_usd / dense.life_usd, outside)
