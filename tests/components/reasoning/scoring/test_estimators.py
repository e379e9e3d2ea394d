"""maj@k and pass@k against the mean over every subset."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations
from math import comb

import pytest

from components.reasoning.scoring import estimators
from components.reasoning.scoring.estimators import maj_at_k, pass_at_k

# right answers, wrong answers, abstentions
ITEMS = [([3], [2, 1], 1), ([1], [1, 1, 1], 0), ([2, 1], [2, 2], 0), ([], [3, 2], 1), ([4], [], 2), ([2], [4, 1], 1)]


def enumerated(right: list[int], wrong: list[int], abstained: int, k: int) -> tuple[Fraction, Fraction]:
    """maj@k and pass@k, by looking at every subset."""
    labels = [("right", i) for i, c in enumerate(right) for _ in range(c)]
    labels += [("wrong", i) for i, c in enumerate(wrong) for _ in range(c)]
    labels += [("none", 0)] * abstained
    majority = passed = Fraction(0)
    for subset in combinations(labels, k):
        votes = Counter(label for label in subset if label[0] != "none")
        top = [label for label, count in votes.items() if count == max(votes.values())]
        majority += Fraction(sum(kind == "right" for kind, _ in top), len(top) or 1)
        passed += any(kind == "right" for kind, _ in subset)
    return majority / comb(len(labels), k), passed / comb(len(labels), k)


@pytest.mark.parametrize(("right", "wrong", "abstained"), ITEMS)
def test_estimates_are_the_means_over_all_subsets(right: list[int], wrong: list[int], abstained: int) -> None:
    n = sum(right) + sum(wrong) + abstained
    for k in range(1, n + 1):
        majority, passed = enumerated(right, wrong, abstained, k)
        assert maj_at_k(right, wrong, abstained, k) == pytest.approx(float(majority), abs=1e-12)
        assert pass_at_k(n, sum(right), k) == pytest.approx(float(passed), abs=1e-12)


def test_one_sample_is_the_share_of_right_ones_and_a_tie_is_split() -> None:
    assert maj_at_k([3], [4], 1, 1) == pytest.approx(3 / 8)
    assert maj_at_k([2], [2, 1], 0, 5) == 0.5
    assert maj_at_k([], [], 4, 2) == 0.0


def test_drawn_subsets_come_near_to_the_exact_value(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = maj_at_k([30], [25, 5, 4], 0, 16)
    monkeypatch.setattr(estimators, "MAX_EXACT", 0)
    drawn = maj_at_k([30], [25, 5, 4], 0, 16)
    assert drawn != exact
    assert abs(drawn - exact) < 4 * (0.25 / estimators.NUM_SUBSETS) ** 0.5


@pytest.mark.parametrize("k", [0, 4])
def test_k_lies_within_the_samples(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.n"):
        maj_at_k([2], [1], 0, k)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.n"):
        pass_at_k(3, 2, k)
