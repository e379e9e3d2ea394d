from __future__ import annotations

from components.cost.answering import StrategyCost, cheapest, frontier
from components.cost.lifetime import Option
from components.statistics import wilson


def measured(name: str, fixed: float, per_unit: float, right: int) -> StrategyCost:
    return StrategyCost(Option(name, fixed, per_unit), wilson(right, 100), prompt_tokens=10, answer_tokens=20)


DIRECT = measured("direct", 0, 1.0, 20)
VOTE = measured("vote", 0, 8.0, 60)
TRAINED = measured("trained", 1000, 1.0, 60)
WORSE = measured("worse", 0, 3.0, 15)


def test_the_frontier_moves_with_the_number_of_questions() -> None:
    strategies = [VOTE, WORSE, TRAINED, DIRECT]
    # 10 questions: 10, 80, 1010, 30 dollars. 1,000: 1000, 8000, 2000, 3000.
    assert frontier(strategies, 10) == (DIRECT, VOTE)
    assert frontier(strategies, 1000) == (DIRECT, TRAINED)


def test_an_accuracy_is_reached_by_the_whole_interval() -> None:
    strategies = [DIRECT, VOTE, TRAINED]
    assert VOTE.accuracy.low < 0.55 < VOTE.accuracy.value
    assert cheapest(strategies, 0.55, 10) is None
    assert cheapest(strategies, 0.5, 10) is VOTE
    assert cheapest(strategies, 0.5, 1000) is TRAINED
    assert cheapest(strategies, 0.1, 1000) is DIRECT
