"""The agenda against a plain search, on random graphs."""

from __future__ import annotations

import random

import pytest

from flows.engine.agenda import Agenda


def chosen(needs: dict[str, list[str]], priorities: dict[str, float], ended: set[str], begun: set[str]) -> str | None:
    """The same by looking at everything."""
    ready = [label for label in needs if label not in begun and all(n in ended or n not in needs for n in needs[label])]
    return max(ready, key=lambda label: priorities[label], default=None)  # of equals the first


@pytest.mark.parametrize("seed", range(20))
def test_the_next_stage_is_the_one_that_a_search_finds(seed: int) -> None:
    draw = random.Random(seed)
    labels = [f"s{n}" for n in range(60)]
    needs = {
        label: [*draw.choices(labels[:n], k=draw.randint(0, 4)), "cached"] if n else []
        for n, label in enumerate(labels)
    }
    priorities = {label: float(draw.randint(0, 5)) for label in labels}
    agenda, ended, begun = Agenda(needs, priorities), set[str](), list[str]()
    while agenda or len(ended) < len(labels):
        expected = chosen(needs, priorities, ended, set(begun))
        label = agenda.next()
        assert label == expected
        if label is not None:
            begun.append(label)
        if label is None or draw.random() < 0.4:
            done = draw.choice([one for one in begun if one not in ended])
            ended.add(done)
            agenda.settle(done)
    assert sorted(begun) == sorted(labels)


def test_what_is_cleared_never_begins() -> None:
    agenda = Agenda({"a": [], "b": ["a"], "c": []}, {"a": 1.0, "b": 0.0, "c": 0.0})
    assert agenda.next() == "a"
    assert agenda.clear() == ["b", "c"]
    agenda.settle("a")
    assert agenda.next() is None and len(agenda) == 0
