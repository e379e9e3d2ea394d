from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.cost.capacity import Latency, against_api, plan_serving
from components.cost.demand import Scenario
from components.cost.hardware import find_hardware
from components.cost.inference import TokenPrices
from components.cost.public_models import find_model, served
from components.cost.queueing import erlang_c, wait_quantile
from components.cost.units import Seconds, Usd

H100 = find_hardware("h100-sxm")
LLAMA = served(find_model("llama-3-8b").config)
BUSY = Scenario(1e6, 12, 500, 200)


def test_erlang_c_by_hand() -> None:
    assert erlang_c(1, 0.6) == pytest.approx(0.6)  # M/M/1 waits with probability rho
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    # c = 3, a = 2: (8/6)·3 / ((1 + 2 + 2) + 4) = 4/9
    assert erlang_c(3, 2.0) == pytest.approx(4 / 9)
    assert erlang_c(3, 3.0) == 1.0


def test_the_limit_of_many_servers_meets_the_recurrence() -> None:
    assert erlang_c(10_001, 9_950.0) == pytest.approx(erlang_c(10_000, 9_949.0), rel=0.02)


def test_waiting_agrees_with_a_simulated_queue() -> None:
    rng, servers, arrivals, service = np.random.default_rng(0), 4, 3.4, 1.0
    free, waits, now = np.zeros(servers), [], 0.0
    for gap, length in zip(rng.exponential(1 / arrivals, 60_000), rng.exponential(service, 60_000), strict=True):
        now += gap
        first = int(free.argmin())
        start = max(now, free[first])
        waits.append(start - now)
        free[first] = start + length
    assert wait_quantile(servers, arrivals, service, 0.9) == pytest.approx(np.quantile(waits[2000:], 0.9), rel=0.1)
    assert math.isinf(wait_quantile(4, 4.0, 1.0))
    assert wait_quantile(100, 1.0, 1.0) == 0.0


def test_a_plan_keeps_what_was_asked() -> None:
    plan = plan_serving(LLAMA, H100, BUSY, 3.0, None, Latency(Seconds(0.5), Seconds(0.02)))
    assert plan.tpot <= 0.02 and plan.ttft <= 0.5
    loose = plan_serving(LLAMA, H100, BUSY, 3.0)
    assert loose.usd <= plan.usd
    assert plan.used.output >= plan.busy.output * 0.999  # an idle copy costs as much as a full one
    # What is paid is what the tokens pay: requests times their price come to the life's dollars.
    requests = BUSY.requests(BUSY.months)
    assert requests * plan.used.request(500, 200) == pytest.approx(plan.usd)


def test_a_latency_that_cannot_be_had_tells_the_nearest_that_can() -> None:
    with pytest.raises(ValueError, match=r"--latency-tpot 0.0001 s cannot be had .* the nearest is 0\.00"):
        plan_serving(LLAMA, H100, BUSY, 3.0, None, Latency(None, Seconds(0.0001)))
    with pytest.raises(ValueError, match=r"--latency-ttft 0.001 s cannot be had .* the nearest is"):
        plan_serving(LLAMA, H100, BUSY, 3.0, None, Latency(Seconds(0.001)))
    with pytest.raises(ValueError, match=r"8 devices do not hold 6.9e\+10 parameters"):
        plan_serving(served(find_model("llama-2-70b").config), replace(H100, memory_bytes=1e10), BUSY, 3.0)


@settings(max_examples=25, deadline=None)
@given(st.floats(10, 1e7), st.floats(1.05, 20), st.floats(0.1, 10))
def test_serving_is_monotone_in_demand_and_homogeneous_in_price(per_day: float, times: float, price: float) -> None:
    few = Scenario(per_day, 6)
    one = plan_serving(LLAMA, H100, few, 2.0, 1.5)
    assert plan_serving(LLAMA, H100, replace(few, requests_per_day=per_day * times), 2.0, 1.5).usd >= one.usd * 0.999999
    dear = plan_serving(LLAMA, H100, few, 2.0 * price, 1.5 * price)
    assert dear.usd == pytest.approx(one.usd * price)
    assert dear.used.output == pytest.approx(one.used.output * price)


def test_reserved_copies_are_all_there_all_the_time() -> None:
    plan = plan_serving(LLAMA, H100, BUSY, 3.0, 2.0)
    assert plan.reserved_usd == pytest.approx(plan.copies * plan.on.num_devices * 12 * 365.25 / 12 * 24 * 2.0)
    assert plan.on_demand_usd <= plan.copies * plan.on.num_devices * 12 * 365.25 / 12 * 24 * 3.0
    assert plan.usd == min(plan.on_demand_usd, plan.reserved_usd or math.inf)


def test_hosted_pays_for_few_and_ones_own_for_many() -> None:
    own = plan_serving(LLAMA, H100, BUSY, 3.0)
    found = against_api(own, Usd(1e5), LLAMA, BUSY, TokenPrices(0.2, 0.8), (3.0, None))
    assert found.api_usd == pytest.approx(BUSY.requests(12) * (500 * 0.2 + 200 * 0.8) / 1e6)
    for factor, ahead in ((1.1, True), (0.9, False)):
        demand = replace(BUSY, requests_per_day=found.pays_from * factor)
        plan = plan_serving(LLAMA, H100, demand, 3.0)
        hosted = demand.requests(12) * (500 * 0.2 + 200 * 0.8) / 1e6
        assert (1e5 + plan.usd <= hosted) is ahead
    assert math.isinf(against_api(own, Usd(1e5), LLAMA, BUSY, TokenPrices(0.0, 0.0), (3.0, None)).pays_from)
