"""How a load is served at a latency target: devices a copy, requests at a time, copies, dollars a million tokens.

Requests wait for a free place in a batch (`components.cost.queueing`); a batch has as many places as the cache has room
for and the time of a token allows. Speeds are those of `components.cost.serving_model`, with prompts read between the
steps of decoding. Demand is Poisson within an hour; hours follow a daily cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from components.cost.demand import DAYS_PER_MONTH, Scenario, hourly_shape
from components.cost.hardware import Hardware
from components.cost.inference import TokenPrices
from components.cost.queueing import wait_quantile
from components.cost.serving_model import (
    Replica,
    ServedModel,
    decode_work,
    largest_batch,
    prefill_step_seconds,
    prefill_work,
    serving_constants,
    step_seconds,
)
from components.cost.units import Seconds, Usd, check_units

MOST_AT_A_TIME = 512  # sequences of a copy
COPY_SIZES = (1, 2, 4, 8)
BUSIEST = 0.9  # share of the places that are taken at most, where no time to the first token is asked for
QUANTILE = 0.9  # of requests that start within the asked time


@dataclass(frozen=True)
class Latency:
    """What is asked for: seconds to the first token, of nine in ten requests in the busiest hour, and seconds between
    tokens; None: any."""

    ttft: Seconds | None = None
    tpot: Seconds | None = None

    def __post_init__(self) -> None:
        check_units(self)
        for option, value in (("--latency-ttft", self.ttft), ("--latency-tpot", self.tpot)):
            if value is not None and not value > 0:
                raise ValueError(f"{option} is {value:g}: takes seconds above 0, such as 0.05")


@dataclass(frozen=True)
class ServingPlan:
    """A way to serve a scenario. `copies`: in the busiest hour of the busiest month; `mean_copies`: over the life,
    where copies come and go by the hour. `usd`: of the life, with `reserved_usd` (all copies, all hours; None without
    such a price) and `on_demand_usd`. `busy`: dollars a million tokens if every copy were always full; `used`: at this
    demand."""

    on: Replica
    batch: int
    copies: int
    mean_copies: float
    ttft: float
    tpot: float
    on_demand_usd: Usd
    reserved_usd: Usd | None
    busy: TokenPrices
    used: TokenPrices

    def __post_init__(self) -> None:
        check_units(self)

    @property
    def usd(self) -> Usd:
        """Dollars of the life, by the cheaper of the two."""
        return self.on_demand_usd if self.reserved_usd is None else min(self.on_demand_usd, self.reserved_usd)

    @property
    def commitment(self) -> str:
        """How the devices are rented."""
        return "reserved" if self.usd == self.reserved_usd else "on demand"


@dataclass(frozen=True)
class _Copy:
    on: Replica
    batch: int
    prefill: float  # seconds of one prompt
    step: float  # seconds of a token for all

    def request(self, scenario: Scenario) -> float:
        """Seconds that one sequence holds its place."""
        return self.prefill + scenario.answer_tokens * self.step


def _copies(model: ServedModel, hardware: Hardware, scenario: Scenario) -> Iterator[_Copy]:
    """Every size of a copy that holds the model, with every batch that has room."""
    k = serving_constants()
    longest = scenario.prompt_tokens + scenario.answer_tokens
    for size in COPY_SIZES:
        if size > 1 and hardware.interconnect_bandwidth is None:
            return
        on = Replica(hardware, size)
        try:
            room = min(MOST_AT_A_TIME, largest_batch(model, on, longest))
        except ValueError:
            continue
        read = max(1.0, scenario.read_tokens)
        prefill = float(prefill_step_seconds(prefill_work(model, on, read), k))
        sizes = {room} | {2**n for n in range(10) if 2**n <= room}
        for batch in sorted(sizes - {0}):
            context = scenario.prompt_tokens + scenario.answer_tokens / 2
            ratio = read / scenario.written_tokens
            step = float(step_seconds(decode_work(model, on, batch, context, prompt_per_token=ratio), k))
            yield _Copy(on, batch, prefill, step)


def _needed(copy: _Copy, scenario: Scenario, per_second: float, latency: Latency) -> int | None:
    """Copies for that many requests a second; None where no number of them is fast enough."""
    arrivals, held = per_second * scenario.samples, copy.request(scenario)
    if latency.ttft is not None and copy.prefill + copy.step > latency.ttft:
        return None

    def enough(copies: int) -> bool:
        places = copies * copy.batch
        if arrivals * held > places * (BUSIEST if latency.ttft is None else 1.0):
            return False
        if latency.ttft is None:
            return True
        return wait_quantile(places, arrivals, held, QUANTILE) + copy.prefill + copy.step <= latency.ttft

    low = max(1, math.ceil(arrivals * held / copy.batch))
    high = low
    while not enough(high):
        high = 2 * high
    while low < high:  # more copies never make it slower
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def plan_serving(
    model: ServedModel,
    hardware: Hardware,
    scenario: Scenario,
    on_demand_per_hour: float,
    reserved_per_hour: float | None = None,
    latency: Latency | None = None,
) -> ServingPlan:
    """The cheapest way to serve the scenario within the latency. Prices: dollars per device and hour.

    Raises ValueError where the model fits on no copy, or the latency cannot be had; tells the nearest that can.
    """
    latency = latency or Latency()
    found = list(_copies(model, hardware, scenario))
    if not found:
        raise ValueError(
            f"{hardware.name}: {COPY_SIZES[-1]} devices do not hold {model.total_params:.3g} parameters and one "
            f"request of {scenario.prompt_tokens + scenario.answer_tokens:,.0f} tokens"
        )
    fast = [copy for copy in found if latency.tpot is None or copy.step <= latency.tpot]
    if not fast:
        raise ValueError(
            f"--latency-tpot {latency.tpot:g} s cannot be had with {model.total_params:.3g} parameters on "
            f"{hardware.name}: the nearest is {min(copy.step for copy in found):.4f} s"
        )
    starting = [copy for copy in fast if latency.ttft is None or copy.prefill + copy.step <= latency.ttft]
    if not starting:
        raise ValueError(
            f"--latency-ttft {latency.ttft:g} s cannot be had with {model.total_params:.3g} parameters on "
            f"{hardware.name}: the nearest is {min(copy.prefill + copy.step for copy in fast):.4f} s"
        )
    plans = [_life(copy, scenario, latency, on_demand_per_hour, reserved_per_hour) for copy in starting]
    return min(plans, key=lambda plan: (plan.usd, plan.ttft, plan.tpot))


def _life(copy: _Copy, scenario: Scenario, latency: Latency, on_demand: float, reserved: float | None) -> ServingPlan:
    """What the scenario costs with copies of this kind."""
    peak = scenario.peak_per_second
    copies = _needed(copy, scenario, peak, latency)
    assert copies is not None
    held, devices = copy.request(scenario), copy.on.num_devices
    taken = min(BUSIEST, peak * scenario.samples * held / (copies * copy.batch))  # share of places, as in the peak
    shape = hourly_shape(scenario.peak_factor)
    months = max(1, math.ceil(scenario.months))
    each = scenario.months / months
    copy_hours = reserved_hours = 0.0
    for month in range(months):
        mean = (scenario.requests((month + 1) * each) - scenario.requests(month * each)) / (
            each * DAYS_PER_MONTH * 86_400
        )
        loads = [mean * hour * scenario.samples * held / (copy.batch * taken) for hour in shape]
        needed = [max(1, math.ceil(load - 1e-9)) for load in loads]
        copy_hours += sum(needed) / len(needed) * each * DAYS_PER_MONTH * 24
        reserved_hours += max(needed) * each * DAYS_PER_MONTH * 24
    requests = scenario.requests(scenario.months)
    usd = Usd(copy_hours * devices * on_demand)
    reserved_usd = None if reserved is None else Usd(reserved_hours * devices * reserved)
    # A request takes its prefill alone and its tokens with all others: the two parts of its price.
    reading = copy.prefill
    writing = scenario.written_tokens * copy.step / copy.batch - (reading if scenario.read_tokens else 0.0)
    share = min(1.0, reading / (reading + max(writing, 0.0))) if reading else 0.0

    def prices(per_request: float) -> TokenPrices:
        read = per_request * share / scenario.read_tokens * 1e6
        return TokenPrices(read, per_request * (1.0 - share) / scenario.written_tokens * 1e6)

    cheapest = usd if reserved_usd is None else min(usd, reserved_usd)
    places_seconds = scenario.samples * held / copy.batch
    rate = on_demand if reserved_usd is None or usd <= reserved_usd else (reserved or on_demand)
    return ServingPlan(
        on=copy.on,
        batch=copy.batch,
        copies=copies,
        mean_copies=copy_hours / (scenario.months * DAYS_PER_MONTH * 24),
        ttft=wait_quantile(copies * copy.batch, peak * scenario.samples, held, QUANTILE) + copy.prefill + copy.step,
        tpot=copy.step,
        on_demand_usd=usd,
        reserved_usd=reserved_usd,
        busy=prices(places_seconds * devices * rate / 3600),
        used=prices(cheapest / requests),
    )


@dataclass(frozen=True)
class ApiComparison:
    """A hosted model beside one's own: dollars of the life, and from how many requests a day on one's own costs less
    (0: at once; inf: at none that was tried, up to `MOST_REQUESTS`)."""

    api_usd: Usd
    own_usd: Usd
    pays_from: float


MOST_REQUESTS = 1e10  # a day


def against_api(
    own: ServingPlan,
    fixed: Usd,
    model: ServedModel,
    scenario: Scenario,
    api: TokenPrices,
    rates: tuple[float, float | None],
    latency: Latency | None = None,
) -> ApiComparison:
    """`fixed`: what one's own costs before the first request (training). `rates`: on demand and reserved, dollars per
    device and hour. The hosted price holds for every token, read and written."""

    def api_usd(demand: Scenario) -> float:
        return demand.requests(demand.months) * api.request(demand.read_tokens, demand.written_tokens)

    def ahead(per_day: float) -> bool:
        demand = replace(scenario, requests_per_day=per_day)
        plan = plan_serving(model, own.on.hardware, demand, *rates, latency)
        return fixed + plan.usd <= api_usd(demand)

    pays = math.inf
    low, high = 1e-3, 1e-3
    while high <= MOST_REQUESTS and not ahead(high):
        low, high = high, 10 * high
    if high <= MOST_REQUESTS:
        pays = 0.0 if high == low else high
        while pays and high / low > 1.01:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if ahead(middle) else (middle, high)
            pays = high
    return ApiComparison(Usd(api_usd(scenario)), Usd(fixed + own.usd), pays)
