from __future__ import annotations

from components.cost.answering import Way, cheapest, frontier
from components.cost.lifetime import Option
from components.statistics import wilson


def way(name: str, fixed: float, per_unit: float, right: int) -> Way:
    return Way(Option(name, fixed, per_unit), wilson(right, 100), prompt_tokens=10, answer_tokens=20)


DIRECT = way("direct", 0, 1.0, 20)
VOTE = way("vote", 0, 8.0, 60)
TRAINED = way("trained", 1000, 1.0, 60)
WORSE = way("worse", 0, 3.0, 15)


def test_the_frontier_moves_with_the_number_of_questions() -> None:
    ways = [VOTE, WORSE, TRAINED, DIRECT]
    # 10 questions: 10, 80, 1010, 30 dollars. 1,000: 1000, 8000, 2000, 3000.
    assert frontier(ways, 10) == (DIRECT, VOTE)
    assert frontier(ways, 1000) == (DIRECT, TRAINED)


def test_an_accuracy_is_reached_by_the_whole_interval() -> None:
    ways = [DIRECT, VOTE, TRAINED]
    assert VOTE.accuracy.low < 0.55 < VOTE.accuracy.value
    assert cheapest(ways, 0.55, 10) is None
    assert cheapest(ways, 0.5, 10) is VOTE
    assert cheapest(ways, 0.5, 1000) is TRAINED
    assert cheapest(ways, 0.1, 1000) is DIRECT
