"""Dense or a mixture of experts: equal losses by Clark et al.'s own equation, and which of two lives is cheaper."""

from __future__ import annotations

import json
import math

import pytest
from public_files import REFERENCE

from components.cost.demand import Scenario
from components.cost.hardware import find_hardware
from components.cost.life_plan import Market, Wish, candidates
from components.cost.mixture import S_BASE, equal_mixture, routed_size, with_experts
from components.cost.prices import find_offer
from components.cost.public_models import buildable
from components.cost.published_laws import find_law
from components.cost.training_shares import training_share
from components.model.config import count_params

LAW = find_law("besiroglu2024").law
MARKET = Market(
    find_hardware("h100-sxm"),
    find_offer("h100-sxm"),
    find_offer("h100-sxm", None, "reserved"),
    training_share("h100-sxm", convention="causal"),
)


def clark(num_params: float, experts: float) -> float:
    """log10 L, written out from the paper."""
    a, b, c, d, start, most = S_BASE
    inner = 1 / (experts - 1 + 1 / (1 / start - 1 / most)) + 1 / most
    log_n, log_e = math.log10(num_params), -math.log10(inner)
    return a * log_n + b * log_e + c * log_n * log_e + d


@pytest.mark.parametrize("experts", [8, 64])
@pytest.mark.parametrize("dense", [1e8, 7e9, 1e11])
def test_the_mixture_has_the_loss_of_the_dense_model(dense: float, experts: int) -> None:
    size = routed_size(dense, experts)
    assert size is not None and 0.01 * dense < size < dense
    assert clark(size, experts) == pytest.approx(clark(dense, 1), abs=1e-9)


def test_beyond_their_cutoff_experts_gain_nothing() -> None:
    assert routed_size(2e12, 64) is None  # N_cutoff of S-Base is 9.37e11
    assert routed_size(5e11, 64) is not None


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the public coefficients are not here")
def test_the_coefficients_are_the_published_ones() -> None:
    published = json.loads((REFERENCE / "published_laws.json").read_text(encoding="utf-8"))["clark2022"]
    assert list(S_BASE) == published["S-Base"]


def test_half_of_the_layers_hold_experts() -> None:
    dense = buildable(1e9)
    mixed = with_experts(dense, 8)
    more = 7 * 3 * dense.d_model * dense.hidden * (dense.num_layers - dense.num_layers // 2)
    router = count_params(mixed).total - count_params(dense).total - more
    assert 0 <= router <= 8 * dense.d_model * dense.num_layers
    assert count_params(mixed).active == pytest.approx(count_params(dense).total, rel=0.001)


def test_which_life_is_cheaper_depends_on_the_demand() -> None:
    savings = []
    for requests in (1e3, 3e7):
        wish = Wish(Scenario(requests, 24))
        best, _ = candidates(2.1, LAW, wish, MARKET)
        found = equal_mixture(best, wish, MARKET)
        assert found is not None
        assert found.design.tokens == best.tokens and found.active < best.num_params < found.design.num_params
        assert found.design.training_usd < best.training_usd
        assert found.saving == pytest.approx(1 - found.design.life_usd / best.life_usd)
        savings.append(found.saving)
    assert savings[1] > savings[0]
