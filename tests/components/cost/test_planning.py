from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from components.cost.hardware import Hardware
from components.cost.lifetime import Traffic
from components.cost.planning import Deployment, advise
from components.cost.prices import Price
from components.scaling.chinchilla_fit import ChinchillaFitConfig, fit_chinchilla
from components.scaling.laws import ChinchillaLaw
from components.scaling.points import ScalingPoint

LAW = ChinchillaLaw(E=1.69, A=406.4, B=410.7, alpha=0.336, beta=0.283)
# $3.60 an hour at 1e15 FLOP/s: 1e-18 dollars a FLOP.
DEVICE = Hardware("toy", "gpu", 1e15, 1e12, 80e9, 500.0, "test", "2026-01-01", interconnect_bandwidth=1e12)
ON = Deployment(DEVICE, Price("toy", 3.6, "test", "2026-01-01", "test"), train_mfu=0.5, measured=(0.5, 0.01))
TRAFFIC = Traffic(1e10, 300, 100)
TARGET = float(LAW.loss(7e9, LAW.optimal_tokens(7e9)))


def test_costs_of_a_row_by_hand() -> None:
    plan = advise(LAW, TARGET, TRAFFIC, ON, ON, sizes=[5e9])
    row = next(r for r in plan.rows if r.name == "5e+09 parameters")
    assert float(LAW.loss(5e9, row.tokens)) == pytest.approx(TARGET)
    assert row.life.training == pytest.approx(6 * 5e9 * row.tokens / 0.5 * 1e-18)
    assert row.life.training == pytest.approx(row.training.usd)
    assert row.life.serving == pytest.approx(2 * 5e9 * 1e-18 * (3e12 / 0.5 + 1e12 / 0.01))
    assert row.tokens_per_param == row.tokens / 5e9


def test_the_best_row_is_the_cheapest_life_of_all_sizes() -> None:
    plan = advise(LAW, TARGET, TRAFFIC, ON, ON, sizes=np.geomspace(2e9, 2e10, 25).tolist())
    assert plan.best.name == "least lifetime dollars"
    totals = [row.life.total for row in plan.rows]
    assert totals == sorted(totals) and len(totals) > 15
    by_name = {row.name: row for row in plan.rows}
    # Decode at 1% of the peak is dearer than FLOPs say, so dollars ask for a smaller model than FLOPs do.
    sizes = [by_name[n].num_params for n in ("least lifetime dollars", "least lifetime FLOPs", "compute-optimal")]
    assert sizes == sorted(sizes) and sizes[0] < sizes[1] < sizes[2]
    assert by_name["compute-optimal"].num_params == pytest.approx(7e9, rel=1e-6)
    assert by_name["compute-optimal"].training.usd == min(r.training.usd for r in plan.rows)


def test_by_the_serving_model_no_size_is_cheaper_than_the_advised_one() -> None:
    """Dollars jump with layers and devices: checked against 400 other sizes."""
    on = replace(ON, measured=None)
    sizes = np.geomspace(3e9, 2e10, 400).tolist()
    plan = advise(LAW, TARGET, TRAFFIC, on, on, sizes=sizes)
    best = next(row for row in plan.rows if row.name == "least lifetime dollars")
    assert best.life.total <= 1.001 * plan.best.life.total
    served = best.serving
    assert served is not None and best.to_json()["serving"]["batch"] == 32
    rent = 0.001 * served.on.num_devices
    by_hand = rent * (TRAFFIC.total_input / served.prefill.value + TRAFFIC.total_output / served.decode.value)
    assert best.life.serving == pytest.approx(by_hand)


def test_break_even_against_the_compute_optimal_model() -> None:
    plan = advise(LAW, TARGET, TRAFFIC, ON, ON)
    assert plan.break_even is not None
    assert plan.break_even.then == "least lifetime dollars"
    chinchilla = next(r for r in plan.rows if r.name == "compute-optimal")
    requests = plan.break_even.units
    assert 0 < requests < TRAFFIC.requests

    def cost(row, served: float) -> float:  # type: ignore[no-untyped-def]
        return row.life.training + row.life.serving / TRAFFIC.requests * served

    assert cost(plan.best, requests) == pytest.approx(cost(chinchilla, requests))
    assert advise(LAW, TARGET, Traffic(0, 1, 1), ON, ON).break_even is None


def test_a_fit_brings_intervals_and_the_range_is_said() -> None:
    rng = np.random.default_rng(0)
    points = [
        ScalingPoint(n, d, float(LAW.loss(n, d)) * math.exp(0.005 * rng.standard_normal()), f"{i}/{j}")
        for i, n in enumerate(np.geomspace(1e7, 1e9, 5).tolist())
        for j, d in enumerate(np.geomspace(1e9, 1e11, 5).tolist())
    ]
    fit = fit_chinchilla(points, ChinchillaFitConfig(resamples=50))
    plan = advise(fit, TARGET, TRAFFIC, ON, ON, fitted_range=((1e7, 1e9), (1e9, 1e11)))
    for row in plan.rows:
        assert row.loss is not None
        assert row.loss.value == pytest.approx(TARGET) and row.loss.low < TARGET < row.loss.high
        factors = row.num_params / 1e9, row.tokens / 1e11
        n_part, d_part = (f"{x} is {f:.3g} times the largest fitted" for x, f in zip("ND", factors, strict=True))
        assert row.outside == f"{n_part}; {d_part}"
        assert row.reach == pytest.approx(max(factors)) and row.far == (max(factors) > 10)
    assert not any(row.far or row.outside for row in advise(fit, TARGET, TRAFFIC, ON, ON).rows)  # no range, no verdict


def test_what_no_model_reaches_is_refused_and_small_sizes_are_left_out() -> None:
    with pytest.raises(ValueError, match="irreducible"):
        advise(LAW, 1.6, TRAFFIC, ON, ON)
    names = [row.name for row in advise(LAW, TARGET, TRAFFIC, ON, ON, sizes=[1e6]).rows]
    assert "1e+06 parameters" not in names
