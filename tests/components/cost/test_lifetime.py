from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.cost.inference import TokenPrices
from components.cost.lifetime import (
    Option,
    Traffic,
    affordable_tokens,
    break_even,
    cheaper,
    lifetime_cost,
    thinking_option,
)


def test_a_life_by_hand() -> None:
    # A million requests of 500 + 100 tokens at $0.10 and $2.00 a million: $50 + $200.
    life = lifetime_cost(1000.0, TokenPrices(0.1, 2.0), Traffic(1e6, 500, 100))
    assert life.serving == pytest.approx(250.0)
    assert life.total == pytest.approx(1250.0)
    assert life.serving_share == pytest.approx(0.2)


def test_break_even_by_hand() -> None:
    # The over-trained small model costs $300 more to train and saves $3 a million tokens: 1e8 tokens.
    found = break_even(Option("large", 700.0, 5e-6), Option("small", 1000.0, 2e-6))
    assert found.units == pytest.approx(1e8)
    assert (found.first, found.then) == ("large", "small")


def test_break_even_where_signs_forbid_it() -> None:
    # Cheaper from the start and in use: at once. Equal in use: never.
    assert break_even(Option("large", 700.0, 5e-6), Option("small", 500.0, 2e-6)).units == 0.0
    assert break_even(Option("large", 700.0, 2e-6), Option("small", 900.0, 2e-6)).units == math.inf
    assert break_even(Option("a", 1.0, 1.0), Option("b", 1.0, 1.0)).units == math.inf


money = st.floats(0, 1e6, allow_nan=False)
rate = st.floats(1e-9, 1e-3)


@given(money, rate, money, rate)
def test_the_cheaper_option_changes_at_the_break_even(fa: float, pa: float, fb: float, pb: float) -> None:
    a, b = Option("a", fa, pa), Option("b", fb, pb)
    found = break_even(a, b)
    if not 1 < found.units < 1e15 or abs(pa - pb) < 1e-6 * max(pa, pb):
        return
    assert cheaper(a, b, found.units * 0.9) == found.first
    assert cheaper(a, b, found.units * 1.1) == found.then
    assert break_even(b, a) == found


def test_a_cheap_model_that_thinks_against_a_larger_one() -> None:
    # Small: trained for $100, 400 tokens of thought at $1 a million. Large: $900, 50 tokens at $10.
    small = thinking_option("small", 100.0, TokenPrices(0.0, 1.0), 200, 100, samples=4)
    large = thinking_option("large", 900.0, TokenPrices(0.0, 10.0), 200, 50)
    assert small.per_unit == pytest.approx(4e-4) and large.per_unit == pytest.approx(5e-4)
    assert break_even(small, large).units == 0.0  # cheaper to train, and still cheaper an answer
    longer = thinking_option("small", 100.0, TokenPrices(0.0, 1.0), 200, 100, samples=9)
    found = break_even(longer, large)  # $800 over $4e-4 an answer
    assert found.units == pytest.approx(2e6) and found.then == "large"


def test_affordable_thought_by_hand() -> None:
    rival = Option("large", 900.0, 5e-4)
    # A million requests: $1,400 less $100 of training less $20 of prompts leaves $1,280: 1,280 tokens a request.
    tokens = affordable_tokens(100.0, TokenPrices(0.1, 1.0), rival, input_tokens=200, requests=1e6)
    assert tokens == pytest.approx(1280.0)
    spends = Option("small", 100.0, TokenPrices(0.1, 1.0).request(200, tokens))
    assert spends.cost(1e6) == pytest.approx(rival.cost(1e6))
    assert affordable_tokens(1e6, TokenPrices(0.1, 1.0), rival, 200, 1e6) == 0.0
    assert affordable_tokens(0.0, TokenPrices(0.0, 0.0), rival, 200, 1e6) == math.inf


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"Traffic\.requests"):
        Traffic(-1, 1, 1)
    with pytest.raises(ValueError, match="option 'x': per_unit"):
        Option("x", 1.0, math.inf)
    with pytest.raises(ValueError, match="samples"):
        thinking_option("x", 0.0, TokenPrices(1, 1), 1, 1, samples=0)
