from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.scaling.laws import ChinchillaLaw
from components.scaling.optimum import LifetimeCosts, dollar_costs, flop_costs, lifetime_optimum

# The coefficients with which the examples of Sardana et al. 2024 (arXiv 2401.00448) reproduce.
SARDANA = ChinchillaLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)


def chinchilla_loss(num_params: float) -> float:
    return float(SARDANA.loss(num_params, SARDANA.optimal_tokens(num_params)))


@pytest.mark.parametrize(
    ("num_params", "inference_tokens", "n_opt", "d_ratio", "saving"),
    [(30e9, 1e13, 13.6e9, 2.84, 0.28), (7e9, 1e11, 6e9, 1.18, None)],
)
def test_published_examples(
    num_params: float, inference_tokens: float, n_opt: float, d_ratio: float, saving: float | None
) -> None:
    best = lifetime_optimum(SARDANA, chinchilla_loss(num_params), flop_costs(inference_tokens))
    assert best.compute_optimal_params == pytest.approx(num_params, rel=1e-6)
    assert best.num_params == pytest.approx(n_opt, rel=0.02)
    assert best.tokens / best.compute_optimal_tokens == pytest.approx(d_ratio, rel=0.02)
    if saving is not None:
        assert best.saving == pytest.approx(saving, abs=0.01)


def test_published_saving_of_a_7b_over_a_13b() -> None:
    # "1.7e22 FLOPs (17%)" for 2e12 inference tokens at the quality of a Chinchilla 13B.
    loss, costs = chinchilla_loss(13e9), flop_costs(2e12)
    small = costs.total(7e9, SARDANA.tokens_for_loss(7e9, loss))
    large = costs.total(13e9, SARDANA.optimal_tokens(13e9))
    assert large - small == pytest.approx(1.7e22, rel=0.04)
    assert 1 - small / large == pytest.approx(0.17, abs=0.01)


def test_no_inference_is_the_compute_optimum() -> None:
    best = lifetime_optimum(SARDANA, chinchilla_loss(1e9), flop_costs(0.0))
    assert best.num_params == pytest.approx(1e9, rel=1e-6)
    assert best.saving == pytest.approx(0.0, abs=1e-12)
    assert best.serving_cost == 0.0


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.15, 0.9),
    st.floats(0.15, 0.9),
    st.floats(1e6, 1e12),
    st.floats(0.0, 1e15),
)
def test_neighbours_on_the_same_loss_cost_more(alpha: float, beta: float, size: float, served: float) -> None:
    law = ChinchillaLaw(E=1.7, A=400.0, B=500.0, alpha=alpha, beta=beta)
    loss = float(law.loss(size, law.optimal_tokens(size)))
    costs = flop_costs(served)
    best = lifetime_optimum(law, loss, costs)
    assert float(law.loss(best.num_params, best.tokens)) == pytest.approx(loss, rel=1e-7)
    assert best.num_params <= best.compute_optimal_params * (1 + 1e-6)
    for factor in (0.99, 1.01):
        n = best.num_params * factor
        assert costs.total(n, law.tokens_for_loss(n, loss)) >= best.cost * (1 - 1e-9)


def test_the_smallest_float_of_serving_is_as_good_as_none() -> None:
    loss = chinchilla_loss(1e9)
    none, hardly = (lifetime_optimum(SARDANA, loss, LifetimeCosts(6.0, served)) for served in (0.0, 5e-324))
    assert hardly.num_params == pytest.approx(none.num_params, rel=1e-9)


def test_dollars_by_hand() -> None:
    # $3.60 an hour at 1e15 FLOP/s peak is 1e-18 $ a FLOP; training at half of the peak costs 6 · 2e-18 a token.
    costs = dollar_costs(
        train_usd_per_flop=1e-18,
        train_mfu=0.5,
        serve_usd_per_flop=2e-18,
        input_tokens=1e9,
        input_mfu=0.4,
        output_tokens=1e8,
        output_mfu=0.01,
    )
    assert costs.train == pytest.approx(1.2e-17)
    assert costs.served == pytest.approx(2 * 2e-18 * (2.5e9 + 1e10))
    assert costs.total(10.0, 100.0) == pytest.approx(10 * (1.2e-15 + 5e-8))


def test_what_no_model_reaches_is_refused() -> None:
    with pytest.raises(ValueError, match=r"irreducible 1\.69"):
        lifetime_optimum(SARDANA, 1.69, flop_costs(1e9))
    with pytest.raises(ValueError, match=r"LifetimeCosts\.train"):
        LifetimeCosts(0.0, 1.0)
