"""Demand as a scenario, and what it does to a life: training against cumulative inference, when they cross, when one
way to serve overtakes another."""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from components.cost.lifetime import BreakEven, Traffic
from components.cost.units import Usd, check_units

DAYS_PER_MONTH = 365.25 / 12
SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True)
class Scenario:
    """What will be asked. `requests_per_day` at the start; `months` of service; mean tokens of a request, read
    (`prompt_tokens`) and of one answer (`answer_tokens`, thinking included); `growth`: share by which requests grow a
    month, compounding (-0.1: a tenth fewer); `peak_factor`: the busiest hour over the mean; `cached_share`: of prompt
    tokens, those that are found in the cache and not read again; `samples`: answers drawn for each request, by the
    strategy of thinking (self-consistency@8: 8)."""

    requests_per_day: float
    months: float
    prompt_tokens: float = 500.0
    answer_tokens: float = 200.0
    growth: float = 0.0
    peak_factor: float = 2.0
    cached_share: float = 0.0
    samples: int = 1

    def __post_init__(self) -> None:
        for name in ("requests_per_day", "months", "prompt_tokens", "answer_tokens"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{_option(name)} is {getattr(self, name):g}: takes a finite number above 0")
        if not -1 < self.growth <= 10:
            raise ValueError(
                f"--growth is {self.growth:g}: takes a share a month above -1 and at most 10, such as 0.05"
            )
        if not 1 <= self.peak_factor <= 1000:
            raise ValueError(f"--peak-factor is {self.peak_factor:g}: takes a number from 1 to 1000")
        if not 0 <= self.cached_share < 1:
            raise ValueError(f"--cached-share is {self.cached_share:g}: takes a share from 0 to below 1")
        if self.samples < 1:
            raise ValueError(f"--samples is {self.samples}: takes a number of at least 1")
        if not self.requests(self.months) < 1e18:
            raise ValueError(
                f"--growth {self.growth:g} over {self.months:g} months makes {self.requests(self.months):.3g} requests"
            )

    def requests(self, months: float) -> float:
        """Requests from the start until then: the integral of requests_per_day · (1 + growth)^t."""
        monthly = self.requests_per_day * DAYS_PER_MONTH
        grown = math.log1p(self.growth) * months
        try:
            return monthly * months * (math.expm1(grown) / grown if grown else 1.0)
        except OverflowError:
            return math.inf

    def months_until(self, requests: float) -> float:
        """The inverse of `requests`; inf where demand fades out before."""
        months = requests / (self.requests_per_day * DAYS_PER_MONTH)  # had demand not grown
        grown = months * math.log1p(self.growth)
        if grown <= -1:
            return math.inf
        return months * (math.log1p(grown) / grown if grown else 1.0)

    @property
    def read_tokens(self) -> float:
        """Prompt tokens of a request that are read, those of the cache left out; a prompt is read once for its
        samples."""
        return self.prompt_tokens * (1.0 - self.cached_share)

    @property
    def written_tokens(self) -> float:
        """Tokens of a request that are generated, over all of its samples."""
        return self.answer_tokens * self.samples

    @property
    def traffic(self) -> Traffic:
        """The whole life's."""
        return Traffic(self.requests(self.months), self.read_tokens, self.written_tokens)

    @property
    def mean_per_second(self) -> float:
        """Requests per second, the mean over the life."""
        return self.requests(self.months) / (self.months * DAYS_PER_MONTH * SECONDS_PER_DAY)

    @property
    def peak_per_second(self) -> float:
        """Requests per second in the busiest hour of the busiest month."""
        busiest = self.requests_per_day * max(1.0, (1.0 + self.growth) ** self.months)
        return busiest * self.peak_factor / SECONDS_PER_DAY


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class LifeOverTime:
    """Cumulative dollars. `months`: moments; `inference`: dollars until then; `crossing_months`: when inference has
    cost as much as training, 0 where training was free, inf where it never does; `crosses`: within the scenario."""

    training: Usd
    months: NDArray[np.float64]
    inference: NDArray[np.float64]
    crossing_months: float

    def __post_init__(self) -> None:
        check_units(self)

    @property
    def crosses(self) -> bool:
        """Whether inference overtakes training within the scenario."""
        return self.crossing_months <= float(self.months[-1])

    def crossing_date(self, start: datetime.date) -> datetime.date | None:
        """The day on which inference has cost as much as training, of a service that starts on `start`; None: never, or
        after the year 9999."""
        try:
            return start + datetime.timedelta(days=self.crossing_months * DAYS_PER_MONTH)
        except OverflowError:
            return None

    @property
    def inference_share(self) -> float:
        """Share of the life's dollars that is inference; nan where nothing costs anything."""
        total = self.training + float(self.inference[-1])
        return float(self.inference[-1]) / total if total else math.nan

    def verdict(self) -> str:
        """One sentence."""
        share = f"inference is {self.inference_share:.0%} of the life's dollars"
        if math.isinf(self.crossing_months):
            return f"inference never costs as much as training; {share}"
        when = f"after {self.crossing_months:.3g} months"
        late = "" if self.crosses else f", after the {float(self.months[-1]):g} months of this scenario have ended"
        return f"inference has cost as much as training {when}{late}; {share}"


def life_over_time(scenario: Scenario, training: Usd, usd_per_request: Usd, moments: int = 25) -> LifeOverTime:
    """Training against inference, over the scenario's months."""
    months = np.linspace(0.0, scenario.months, moments)
    inference = np.array([scenario.requests(float(t)) for t in months]) * float(usd_per_request)
    crossing = math.inf if training > 0 else 0.0
    if training > 0 and usd_per_request > 0:
        crossing = scenario.months_until(training / usd_per_request)
    return LifeOverTime(training, months, inference, crossing)


def break_even_verdict(even: BreakEven, scenario: Scenario) -> str:
    """A break-even in requests, in words and months; 0 and infinity said plainly."""
    if even.units == 0:
        return f"{even.then} costs less than {even.first} from the first request on"
    if math.isinf(even.units):
        return f"{even.then} never becomes cheaper than {even.first}, however many ask"
    months = scenario.months_until(even.units)
    if math.isinf(months):
        return f"{even.then} costs less from {even.units:,.0f} requests on, which this demand never reaches"
    late = "" if months <= scenario.months else f", after the {scenario.months:g} months of this scenario have ended"
    return f"{even.then} costs less from {even.units:,.0f} requests on, {months:.3g} months after the start{late}"


@lru_cache(maxsize=64)
def hourly_shape(peak_factor: float, hours: int = 24) -> tuple[float, ...]:
    """Load of each hour of a day over the mean: exp(power·cos), with the power that gives it that peak; the
    sharpest has all of a day in one hour."""
    below = np.cos(2 * np.pi * np.arange(hours) / hours) - 1.0

    def peak(power: float) -> float:
        return float(1.0 / np.exp(power * below).mean())

    low, high = 0.0, 1.0
    while peak(high) < min(peak_factor, 0.999 * hours):
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if peak(middle) < peak_factor else (low, middle)
    shape = np.exp(high * below)
    return tuple(map(float, shape / shape.mean()))
