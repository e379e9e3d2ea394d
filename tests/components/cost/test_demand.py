from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cost.demand import DAYS_PER_MONTH, Scenario, break_even_verdict, hourly_shape, life_over_time
from components.cost.lifetime import Option, break_even
from components.cost.units import Seconds, Usd

GROWTHS = st.floats(-0.2, 0.2)


def test_requests_by_hand() -> None:
    assert Scenario(10, 12).requests(12) == pytest.approx(10 * DAYS_PER_MONTH * 12)
    grown = Scenario(10, 12, growth=0.1)
    steps = sum(10 * DAYS_PER_MONTH * 1.1 ** ((i + 0.5) / 1000) / 1000 for i in range(12_000))  # the integral, summed
    assert grown.requests(12) == pytest.approx(steps, rel=1e-6)
    traffic = Scenario(10, 12, 500, 200, cached_share=0.4, samples=8).traffic
    assert (traffic.input_tokens, traffic.output_tokens) == (300, 1600)


@given(GROWTHS, st.floats(0.1, 60))
def test_months_until_is_the_inverse(growth: float, months: float) -> None:
    scenario = Scenario(1000, 60, growth=growth)
    assert scenario.months_until(scenario.requests(months)) == pytest.approx(months, rel=1e-6)


@given(GROWTHS, st.floats(1, 1e6), st.floats(1.01, 10))
def test_a_life_is_monotone_in_demand_and_homogeneous_in_price(growth: float, usd: float, times: float) -> None:
    few, many = Scenario(1000, 24, growth=growth), Scenario(1000 * times, 24, growth=growth)
    one, more = (life_over_time(s, Usd(usd), Usd(0.001)) for s in (few, many))
    assert more.inference[-1] > one.inference[-1]
    assert more.crossing_months < one.crossing_months or math.isinf(more.crossing_months)
    dear = life_over_time(few, Usd(usd * times), Usd(0.001 * times))
    assert dear.crossing_months == pytest.approx(one.crossing_months)
    assert dear.inference_share == pytest.approx(one.inference_share)


def test_crossing_by_hand_and_its_limits() -> None:
    scenario = Scenario(1 / DAYS_PER_MONTH, 24)  # one request a month
    found = life_over_time(scenario, Usd(6.0), Usd(0.5))
    assert found.crossing_months == pytest.approx(12) and found.crosses
    assert found.inference_share == pytest.approx(12 / 18)
    assert "after 12 months" in found.verdict()
    assert found.crossing_date(datetime.date(2027, 1, 1)) == datetime.date(2028, 1, 1)  # 365.25 days
    assert life_over_time(scenario, Usd(0.0), Usd(0.5)).crossing_months == 0
    never = life_over_time(scenario, Usd(6.0), Usd(0.0))
    assert never.crossing_date(datetime.date(2027, 1, 1)) is None
    assert math.isinf(never.crossing_months) and "never" in never.verdict()
    fading = life_over_time(Scenario(1, 24, growth=-0.5), Usd(1e6), Usd(0.01))
    assert math.isinf(fading.crossing_months)
    assert "after the 24 months" in life_over_time(scenario, Usd(60.0), Usd(0.5)).verdict()


def test_break_evens_are_said_plainly() -> None:
    scenario = Scenario(100 / DAYS_PER_MONTH, 12)
    small, large = Option("small", 100.0, 0.5), Option("large", 0.0, 1.0)
    assert break_even_verdict(break_even(small, large), scenario) == (
        "small costs less from 200 requests on, 2 months after the start"
    )
    assert "from the first request on" in break_even_verdict(break_even(Option("a", 0, 1), Option("b", 1, 2)), scenario)
    assert "never becomes cheaper" in break_even_verdict(break_even(Option("a", 0, 1), Option("b", 1, 1)), scenario)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"requests_per_day": 0}, "--requests-per-day is 0: takes a finite number above 0"),
        ({"requests_per_day": -5}, "--requests-per-day is -5"),
        ({"months": math.inf}, "--months is inf"),
        ({"answer_tokens": math.nan}, "--answer-tokens is nan"),
        ({"growth": -1.0}, "--growth is -1"),
        ({"peak_factor": 0.5}, "--peak-factor is 0.5"),
        ({"cached_share": 1.0}, "--cached-share is 1"),
        ({"samples": 0}, "--samples is 0"),
        ({"growth": 9.0, "months": 1e4}, "--growth 9 over 10000 months makes inf requests"),
    ],
)
def test_odd_demand_is_refused_by_its_option(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Scenario(**{"requests_per_day": 1.0, "months": 1.0, **wrong})


@given(st.floats(1.0, 20.0))
def test_a_day_has_its_mean_and_its_peak(peak: float) -> None:
    shape = hourly_shape(peak)
    assert sum(shape) / 24 == pytest.approx(1)
    assert max(shape) == pytest.approx(peak, rel=1e-6)


def test_a_bare_number_or_seconds_never_pass_for_dollars() -> None:
    scenario: Any = Scenario(1, 1)
    bare: Any = 6.0
    for wrong in (bare, Seconds(6.0)):
        with pytest.raises(TypeError, match=r"LifeOverTime.training takes Usd, got (float|Seconds)"):
            life_over_time(scenario, wrong, Usd(0.5))
    with pytest.raises(ValueError, match="must be finite"):
        life_over_time(scenario, Usd(math.nan), Usd(0.5))
