"""An effect: a difference with its interval, and a verdict that the interval alone decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Literal, TypeVar

from components.statistics import Interval
from dashboards import formatting
from dashboards.run_data import RunRows, UnreadableFacts

# held: what was said beforehand came true; seen: a difference lies beyond its interval; not identified: the interval
# holds the claim and too much else to tell.
Verdict = Literal["held", "seen", "not seen", "not identified", "measured", "not measured"]
BORNE_OUT = ("held", "seen")
Facts = TypeVar("Facts")
Unit = Literal["points", "nats", "bits", "SFT sd", "share", "slope", "% of the dollars", "reward", ""]
Side = Literal["above", "below", "covers", ""]


@dataclass(frozen=True)
class Effect:
    """One claim of the report.

    Attributes:
        slug: short name, stable between runs.
        title: the claim that is on trial, without a number.
        verdict: "held" or "seen" where the interval bears the claim out, "not identified" where it is too wide to tell;
            "measured" marks a quantity that claims nothing; "not measured", that rows are missing.
        interval: the difference on trial in `unit` ("points" and "% …": a share, shown times 100).
        numbers: the two sides in words, "6.7% → 80.3%"; or why nothing was measured.
        method: what the interval is over, and what it must do for the verdict "seen" or "held".
        side: what the interval must do, so that several trainings can be put on the same trial: lie "above" or "below"
            `margin`, or hold it ("covers"); "" where nothing is claimed.
    """

    slug: str
    title: str
    verdict: Verdict
    interval: Interval | None = None
    unit: Unit = ""
    numbers: str = ""
    method: str = ""
    side: Side = ""
    margin: float = 0.0

    @property
    def seen(self) -> bool:
        """Whether the claim is borne out."""
        return self.verdict in BORNE_OUT

    @property
    def here(self) -> str:
        """The claim as one training can make it; a quantity that claims nothing keeps its title."""
        if self.verdict == "measured":
            return self.title
        first = self.title.split(" ", 1)[0]
        name = (not first[1:].islower() and len(first) > 1) or self.title.startswith("Tree of Thought")
        return f"In this training, {self.title if name else self.title[:1].lower() + self.title[1:]}"

    @property
    def difference(self) -> str:
        """ "+73.6 points [68.1, 78.2]"; empty without an interval."""
        x = self.interval
        if x is None:
            return ""
        if self.unit in ("points", "% of the dollars"):
            scaled = Interval(100 * x.value, 100 * x.low, 100 * x.high, x.n)
            return _with_unit(scaled, self.unit, 1)
        return _with_unit(x, self.unit, 2 if self.unit == "SFT sd" else 3)

    @property
    def size(self) -> str:
        """ "n=300"; empty where nothing was counted."""
        return f"n={self.interval.n:,}" if self.interval is not None and self.interval.n else ""


def _with_unit(x: Interval, unit: str, digits: int) -> str:
    middle = unit if unit.startswith("%") else f" {unit}" if unit else ""
    if not (math.isfinite(x.low) and math.isfinite(x.high)):
        return f"{formatting.signed(x.value, digits)}{middle} [no interval]"
    value, low, high = (formatting.signed(end, digits) for end in (x.value, x.low, x.high))
    return f"{value}{middle} [{low}, {high}]"


def decided(seen: bool) -> Verdict:
    return "seen" if seen else "not seen"


def held(covers: bool, narrow: bool) -> Verdict:
    """Of a claim that an interval must cover: "not identified" where it does, but would cover nearly anything."""
    return "not seen" if not covers else "held" if narrow else "not identified"


def raises(
    slug: str, title: str, x: Interval, unit: Unit, numbers: str, method: str, margin: float = 0.0, also: bool = True
) -> Effect:
    """Seen when the whole interval lies above `margin`, and what else the claim needs (`also`) holds."""
    return Effect(slug, title, decided(x.low > margin and also), x, unit, numbers, method, "above", margin)


def lowers(slug: str, title: str, x: Interval, unit: Unit, numbers: str, method: str, also: bool = True) -> Effect:
    """Seen when the whole interval lies below zero, and what else the claim needs (`also`) holds."""
    return Effect(slug, title, decided(x.high < 0.0 and also), x, unit, numbers, method, "below")


def not_measured(slug: str, title: str, why: str) -> Effect:
    return Effect(slug, title, "not measured", numbers=why)


def difference(a: Interval, b: Interval) -> Interval:
    """a − b from the intervals of two independent estimates (MOVER, Newcombe 1998, method 10; Zou & Donner 2008).

    For two measured on the same items it is too wide where they agree, never too narrow.
    """
    gap = a.value - b.value
    low = gap - math.hypot(a.value - a.low, b.high - b.value)
    high = gap + math.hypot(a.high - a.value, b.value - b.low)
    return Interval(gap, low, high, min(a.n, b.n))


@dataclass(frozen=True)
class Missing:
    """A part of the life that this run has no rows for, or none that this version of Lifespan can read."""

    reason: str


def readable(facts: Callable[[RunRows], Facts | Missing]) -> Callable[[RunRows], Facts | Missing]:
    """Of a function that reads a part: facts of another version make the part `Missing`, with the reason."""

    @wraps(facts)
    def read(rows: RunRows) -> Facts | Missing:
        try:
            return facts(rows)
        except UnreadableFacts as error:
            return Missing(str(error))

    return read
