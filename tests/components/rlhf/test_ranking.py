from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from components.rlhf.judgements import Comparison
from components.rlhf.ranking import NotConnected, rank_models


def games(a: str, b: str, wins: int, losses: int, ties: int = 0) -> list[Comparison]:
    return [Comparison(a, b, 1)] * wins + [Comparison(a, b, 0)] * losses + [Comparison(a, b, 0.5)] * ties


def strengths(ranking) -> dict[str, float]:  # type: ignore[no-untyped-def]
    return {model.name: model.strength.value for model in ranking.models}


def test_two_models_by_hand() -> None:
    """6 wins, 2 losses, 4 ties: π_i/π_j = 6/2 and ν = 4/√(6·2) solve the likelihood equations."""
    found = rank_models(games("x", "y", 6, 2, 4))
    assert strengths(found)["x"] - strengths(found)["y"] == pytest.approx(math.log(3))
    assert found.tie == pytest.approx(4 / math.sqrt(12))
    assert (found.models[0].name, found.models[0].wins, found.models[0].losses, found.models[0].ties) == ("x", 6, 2, 4)


def test_without_ties_it_is_bradley_terry_with_the_logistic_standard_error() -> None:
    found = rank_models(games("x", "y", 30, 10))
    gap = 2 * found.models[0].strength.value
    assert gap == pytest.approx(math.log(3)) and found.tie == 0
    half = found.models[0].strength.high - found.models[0].strength.value
    assert 2 * half == pytest.approx(1.959964 / math.sqrt(40 * 0.75 * 0.25), rel=1e-5)


def test_davidson_likelihood_against_a_general_optimizer() -> None:
    rng = np.random.default_rng(3)
    names, truth, nu = "abcd", np.array([1.0, 0.3, -0.4, -0.9]), 0.6
    played = []
    for _ in range(400):
        i, j = rng.choice(4, 2, replace=False)
        weights = np.array([math.exp(truth[i]), math.exp(truth[j]), nu * math.exp((truth[i] + truth[j]) / 2)])
        outcome = (1.0, 0.0, 0.5)[rng.choice(3, p=weights / weights.sum())]
        played.append(Comparison(names[i], names[j], outcome))

    def loss(x: np.ndarray) -> float:
        theta, total = np.append(x[:3], -x[:3].sum()), 0.0
        for c in played:
            a, b = theta[names.index(c.a)], theta[names.index(c.b)]
            weights = {1.0: math.exp(a), 0.0: math.exp(b), 0.5: math.exp(x[3] + (a + b) / 2)}
            total -= math.log(weights[c.outcome] / sum(weights.values()))
        return total

    best = optimize.minimize(loss, np.zeros(4), tol=1e-10)
    found = rank_models(played)
    expected = dict(zip(names, [*best.x[:3], -best.x[:3].sum()], strict=True))
    assert strengths(found) == pytest.approx(expected, abs=1e-4)
    assert found.tie == pytest.approx(math.exp(best.x[3]), abs=1e-4)
    for model in found.models:
        assert model.strength.contains(truth[names.index(model.name)] - truth.mean())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_order_and_sides_do_not_matter(seed: int, shuffle) -> None:  # type: ignore[no-untyped-def]
    """To the last bit: Elo fails this."""
    rng = np.random.default_rng(seed)
    played = [
        Comparison("mnop"[i], "mnop"[j], outcome, str(rng.integers(5)))
        for i in range(4) for j in range(4) if i != j for outcome in (1, *rng.choice([0, 0.5, 1], 2))
    ]  # fmt: skip
    other = [Comparison(c.b, c.a, 1 - c.outcome, c.group) if shuffle.random() < 0.5 else c for c in played]
    shuffle.shuffle(other)
    assert rank_models(played) == rank_models(other)


def test_models_that_nothing_joins_are_named() -> None:
    apart = [*games("a", "b", 2, 1), *games("c", "d", 1, 2)]
    with pytest.raises(NotConnected, match=r"no comparison joins .*: a, b \| c, d") as error:
        rank_models(apart)
    assert error.value.groups == (("a", "b"), ("c", "d"))
    unbeaten = [*games("a", "b", 2, 1), *games("b", "c", 3, 0)]
    with pytest.raises(NotConnected, match=r"won every comparison.*: a, b \| c"):
        rank_models(unbeaten)
    rank_models([*unbeaten, *games("c", "a", 0, 0, ties=1)])  # a tie joins both ways
    with pytest.raises(ValueError, match="nothing to rank"):
        rank_models(games("a", "b", 0, 0, ties=3))
    with pytest.raises(ValueError, match="at least two models, got none"):
        rank_models([])


def test_repeated_judgements_of_one_item_do_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(1)
    won = rng.random(60) < 0.65
    once = [Comparison("x", "y", int(w), f"i{i}") for i, w in enumerate(won)]
    tenfold = [c for c in once for _ in range(10)]
    a, b = (rank_models(played).models[0].strength for played in (once, tenfold))
    assert b.value == pytest.approx(a.value)
    assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.02)


@pytest.mark.slow
def test_peer_gives_the_same() -> None:
    choix = pytest.importorskip("choix", reason="peer not installed: pip install '.[peers]'")
    rng = np.random.default_rng(2)
    pairs = [tuple(rng.permutation(5)[:2]) for _ in range(200)]
    theirs = choix.opt_pairwise(5, pairs, tol=1e-10)
    ours = strengths(rank_models([Comparison(f"m{a}", f"m{b}", 1) for a, b in pairs]))
    assert [ours[f"m{i}"] for i in range(5)] == pytest.approx(list(theirs - theirs.mean()), abs=1e-5)
