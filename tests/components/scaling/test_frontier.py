from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from components.scaling.frontier import fit_envelope, fit_isoflop
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint

# Equal exponents: N* ∝ C^0.5 exactly, and an isoFLOP profile is symmetric in ln N.
EVEN = ChinchillaLaw(E=1.8, A=400.0, B=400.0, alpha=0.34, beta=0.34)
BUDGETS = [1e19, 1e20, 1e21, 1e22]


def curves(law: ChinchillaLaw, sizes: int = 25, checkpoints: int = 60, noise: float = 0.0) -> list[ScalingPoint]:
    rng = np.random.default_rng(0)
    return [
        ScalingPoint(n, d, float(law.loss(n, d)) * math.exp(noise * rng.standard_normal()), f"run {i}")
        for i, n in enumerate(np.geomspace(1e7, 1e11, sizes).tolist())
        for d in np.geomspace(1e8, 1e13, checkpoints).tolist()
    ]


def profiles(law: ChinchillaLaw, noise: float, seed: int = 0) -> list[ScalingPoint]:
    rng = np.random.default_rng(seed)
    return [
        ScalingPoint(n, c / 6 / n, float(law.loss(n, c / 6 / n)) * math.exp(noise * rng.standard_normal()), f"{c}/{i}")
        for c in BUDGETS
        for i, n in enumerate((law.optimal(c).num_params * np.geomspace(0.4, 2.5, 7)).tolist())
    ]


def test_isoflop_minima_are_those_of_a_symmetric_law() -> None:
    fit = fit_isoflop(profiles(EVEN, 0.0))
    assert fit.a.value == pytest.approx(0.5, abs=1e-6)
    assert fit.b.value == pytest.approx(0.5, abs=1e-6)
    for optimum in fit.optima:
        assert optimum.num_params == pytest.approx(EVEN.optimal(optimum.flops).num_params, rel=1e-4)
        assert 6 * optimum.num_params * optimum.tokens == pytest.approx(optimum.flops)
    assert fit.num_params(3e20) == pytest.approx(EVEN.optimal(3e20).num_params, rel=1e-3)


def test_a_parabola_by_hand() -> None:
    # loss = 2 + (ln N - ln 1e8)^2 at ln N = ln 1e8 + {-1, 0, 1, 2}: the vertex is 1e8 and its loss 2.
    points = [
        ScalingPoint(scale * math.exp(k), c / 6 / (scale * math.exp(k)), 2 + k * k, f"{c}/{k}")
        for c, scale in ((1e18, 1e8), (1e20, 1e9))
        for k in (-1, 0, 1, 2)
    ]
    fit = fit_isoflop(points)
    assert [o.num_params for o in fit.optima] == pytest.approx([1e8, 1e9])
    assert [o.loss for o in fit.optima] == pytest.approx([2.0, 2.0])
    assert fit.a.value == pytest.approx(0.5)  # a factor 10 in N over 100 in C
    assert fit.warnings == ("two budgets: the slope has no interval",)


def test_isoflop_intervals_hold_the_truth() -> None:
    slopes = places = 0
    for seed in range(40):
        fit = fit_isoflop(profiles(EVEN, 0.002, seed))
        slopes += fit.a.contains(0.5)
        first = fit.optima[0]
        places += first.low <= EVEN.optimal(first.flops).num_params <= first.high
    assert slopes >= 33 and places >= 33


def test_a_profile_without_a_minimum_is_left_out_and_named() -> None:
    points = [p for p in profiles(EVEN, 0.0) if not (p.run.startswith(str(1e21)) and p.run[-1] in "23456")]
    left = [p for p in points if not (p.run.startswith(str(1e22)) and p.run[-1] in "3456")]
    fit = fit_isoflop(left)
    assert len(fit.optima) == 2
    assert any("1.00e+21" in w and "2 sizes" in w for w in fit.warnings)
    assert any("1.00e+22" in w and "outside the sizes tried" in w for w in fit.warnings)
    with pytest.raises(ValueError, match="two or more budgets"):
        fit_isoflop([p for p in left if p.run.startswith((str(1e20), str(1e21), str(1e22)))])


def test_envelope_recovers_the_slope_between_the_sizes() -> None:
    fit = fit_envelope(curves(EVEN), resamples=100)
    assert fit.a.value == pytest.approx(0.5, abs=0.02)
    assert fit.a.low <= 0.5 <= fit.a.high
    assert fit.num_params(1e20) == pytest.approx(EVEN.optimal(1e20).num_params, rel=0.15)


def test_curves_that_cannot_make_an_envelope_are_refused() -> None:
    few = curves(EVEN, sizes=2)
    with pytest.raises(ValueError, match="at least 3 runs"):
        fit_envelope(few)
    with pytest.raises(ValueError, match="a run trains one model"):
        fit_envelope([replace(p, run="one") for p in few])
