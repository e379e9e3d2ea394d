"""Results as facts: which names they have, that they come back, and what is said of facts that are others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import pytest

from components.stage_results import INLINE, OtherFacts, Spread, fact_names, from_facts, to_facts
from components.statistics import Interval


@dataclass(frozen=True)
class Counts:
    skipped: int
    rate: float


@dataclass(frozen=True)
class Best:
    best_step: int


@dataclass(frozen=True)
class Found:
    name: str
    kind: Literal["a", "b"]
    loss: float
    gold: Annotated[Interval, Spread("n")]
    bits: Annotated[Interval, Spread()]
    counts: Annotated[Counts, INLINE]
    points: tuple[tuple[int, float], ...]
    by_source: Mapping[str, Interval]
    alarm_step: int | None
    warned: bool = False
    best: Annotated[Best | None, INLINE] = None
    extra: int | None = None


ONE = Interval(1.0, 0.5, 1.5, 9)
FOUND = Found("x", "a", 2.0, ONE, replace(ONE, n=4), Counts(3, 0.5), ((1, 2.0), (2, 3.5)), {"all": ONE}, None)
FACTS: dict[str, Any] = {
    "name": "x",
    "kind": "a",
    "loss": 2.0,
    "gold": 1.0,
    "gold_low": 0.5,
    "gold_high": 1.5,
    "n": 9,
    "bits": 1.0,
    "bits_low": 0.5,
    "bits_high": 1.5,
    "bits_n": 4,
    "skipped": 3,
    "rate": 0.5,
    "points": [[1, 2.0], [2, 3.5]],
    "by_source": {"all": {"value": 1.0, "low": 0.5, "high": 1.5, "n": 9}},
    "alarm_step": None,
    "warned": False,
}


def test_intervals_and_inlined_parts_are_flat_and_what_is_optional_is_left_out() -> None:
    assert to_facts(FOUND) == FACTS
    assert list(to_facts(FOUND)) == list(FACTS)
    assert fact_names(Found) == {*FACTS, "best_step", "extra"}
    assert to_facts(replace(FOUND, best=Best(7), extra=1)) == FACTS | {"best_step": 7, "extra": 1}


def test_facts_come_back_as_the_result_that_they_were() -> None:
    for found in (FOUND, replace(FOUND, best=Best(7), extra=1, alarm_step=4)):
        facts = json.loads(json.dumps(to_facts(found) | {"usage": {"seconds": 1.0}}))
        assert from_facts(Found, facts) == found


def test_what_is_not_finite_is_null_and_comes_back_as_nan() -> None:
    facts = to_facts(replace(FOUND, loss=math.inf, gold=replace(ONE, low=-math.inf)))
    assert facts["loss"] is None and facts["gold_low"] is None
    back = from_facts(Found, facts)
    assert math.isnan(back.loss) and math.isnan(back.gold.low) and back.gold.value == 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"loss": "low"}, "loss is 'low', where float is expected"),
        ({"skipped": 2.5}, "skipped is '2.5', where int is expected"),
        ({"warned": 1}, "warned is '1', where bool is expected"),
        ({"kind": "c"}, "kind is 'c'"),
        ({"points": [[1]]}, r"points\[0\] is"),
        ({"points": [[1, "x"]]}, r"points\[0\]\[1\] is 'x', where float"),
        ({"by_source": {"all": {"value": 1.0}}}, "by_source.all.low is missing"),
        ({"by_source": 3}, "by_source is '3'"),
        ({"name": None}, "name is 'None', where str"),
    ],
)
def test_facts_of_another_type_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(OtherFacts, match=says):
        from_facts(Found, FACTS | change)


@pytest.mark.parametrize("name", ["name", "gold_low", "rate", "alarm_step"])
def test_a_fact_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(OtherFacts, match=f"{name} is missing"):
        from_facts(Found, {n: x for n, x in FACTS.items() if n != name})
