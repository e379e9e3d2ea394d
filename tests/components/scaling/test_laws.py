"""Laws against published worked examples; the coefficients stand beside their source."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.scaling.laws import ChinchillaLaw, KaplanLaw

# Hoffmann et al. 2022 (arXiv 2203.15556), appendix D.2: rounded in the text, and as printed in its TeX source.
ROUNDED = ChinchillaLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
TEX = ChinchillaLaw(math.exp(0.5267228), math.exp(6.0073404), math.exp(6.0179186), 0.33917084, 0.2849083)
# Besiroglu et al. 2024 (arXiv 2404.10102), table 1.
BESIROGLU = ChinchillaLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


@pytest.mark.parametrize(("law", "ratio"), [(ROUNDED, 92.6), (TEX, 58.9), (BESIROGLU, 18.3)])
def test_tokens_per_parameter_at_chinchillas_budget(law: ChinchillaLaw, ratio: float) -> None:
    # The fourth digit of Besiroglu's exponents, where they are rounded, is worth 1% of the ratio.
    assert law.optimal(5.76e23).tokens_per_param == pytest.approx(ratio, rel=0.006)


def test_published_allocation_slope() -> None:
    # Hoffmann et al. 2022, table A3: N by approach 3 at its budgets has log-log slope 0.459.
    budgets, sizes = [2.21e19, 1.62e20, 2.46e22, 1.71e24, 1.26e25, 3.52e25], [4e8, 1e9, 1e10, 6.7e10, 1.75e11, 2.8e11]
    published = np.polyfit(np.log(budgets), np.log(sizes), 1)[0]
    assert TEX.params_exponent == pytest.approx(published, abs=0.003)
    for budget, size in zip(budgets, sizes, strict=True):
        assert TEX.optimal(budget).num_params == pytest.approx(size, rel=0.06)


def test_optimum_is_the_least_loss_of_its_budget() -> None:
    best = BESIROGLU.optimal(1e21)
    n = best.num_params * np.linspace(0.5, 2.0, 301)
    losses = BESIROGLU.loss(n, 1e21 / 6 / n)
    assert best.loss <= losses.min() + 1e-12
    assert n[losses.argmin()] == pytest.approx(best.num_params, rel=0.01)
    assert 6 * best.num_params * best.tokens == pytest.approx(1e21)
    assert BESIROGLU.optimal_tokens(best.num_params) == pytest.approx(best.tokens, rel=1e-9)


def test_exact_flops_move_the_optimum_as_they_should() -> None:
    same = BESIROGLU.optimal(1e21, lambda n: 6 * n)
    assert same.num_params == pytest.approx(BESIROGLU.optimal(1e21).num_params, rel=1e-4)
    # A cost a token that does not depend on N (embeddings, attention) makes larger models relatively cheaper.
    dear = BESIROGLU.optimal(1e21, lambda n: 6 * n + 6e9)
    assert dear.num_params > same.num_params
    assert dear.tokens * (6 * dear.num_params + 6e9) == pytest.approx(1e21)


def test_tokens_for_a_loss_invert_the_law() -> None:
    d = BESIROGLU.tokens_for_loss(1e9, 2.5)
    assert float(BESIROGLU.loss(1e9, d)) == pytest.approx(2.5, rel=1e-12)
    smallest = BESIROGLU.smallest_model(2.5)
    assert BESIROGLU.tokens_for_loss(smallest * 0.999, 2.5) == math.inf
    assert BESIROGLU.smallest_model(1.8) == math.inf


def test_kaplan_limits_are_its_one_variable_laws() -> None:
    # Kaplan et al. 2020, table 2 (joint fit).
    law = KaplanLaw(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
    assert float(law.loss(1e9, math.inf)) == pytest.approx((6.4e13 / 1e9) ** 0.076)
    assert float(law.loss(math.inf, 1e10)) == pytest.approx((1.8e13 / 1e10) ** 0.103)


def test_a_law_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ChinchillaLaw\.beta"):
        ChinchillaLaw(1.0, 1.0, 1.0, 0.3, -0.1)
    with pytest.raises(ValueError, match="flops"):
        BESIROGLU.optimal(0.0)
