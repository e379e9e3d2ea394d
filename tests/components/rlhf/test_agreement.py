from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.rlhf.agreement import agreement, cohen_kappa
from components.statistics import clustered_share_interval, mean_interval

# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", example D: 4 observers, 12 units, missing data.
OBSERVERS = ("123321412...", "1233224125.3", ".333234225 1.".replace(" ", ""), "12332441251.")


def units(rows: tuple[str, ...]) -> list[dict[str, int]]:
    return [
        {f"r{r}": int(row[u]) for r, row in enumerate(rows) if u < len(row) and row[u] != "."}
        for u in range(max(map(len, rows)))
    ]


def test_krippendorffs_published_example() -> None:
    found = agreement(units(OBSERVERS), [1, 2, 3, 4, 5])
    assert found.alpha is not None and found.alpha_ordinal is not None
    assert found.alpha.value == pytest.approx(0.743, abs=5e-4)
    assert found.alpha_ordinal.value == pytest.approx(0.815, abs=5e-4)
    assert found.alpha.low < 0.743 < found.alpha.high <= 1
    assert (found.num_units, found.num_raters) == (11, 4)


def test_fleiss_published_example() -> None:
    # The worked example of Fleiss' kappa with 14 raters, 10 subjects, 5 categories: 0.210.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    ratings = []
    for row in table:
        given_to = [c for c, n in enumerate(row) for _ in range(n)]
        ratings.append({f"r{i}": c for i, c in enumerate(given_to)})
    found = agreement(ratings, range(5))
    assert found.fleiss is not None and found.raw is not None
    assert found.fleiss.value == pytest.approx(0.2099, abs=5e-5)
    assert found.raw.value == pytest.approx(0.3780, abs=5e-5)


def pairs(both: int, only_first: int, only_second: int, neither: int) -> tuple[list[int], list[int]]:
    first = [1] * both + [1] * only_first + [0] * only_second + [0] * neither
    return first, [1] * both + [0] * only_first + [1] * only_second + [0] * neither


def test_cohens_kappa_by_hand() -> None:
    found = cohen_kappa(*pairs(20, 5, 10, 15))  # p_o = 0.7, p_e = 0.5
    assert found is not None and found.value == pytest.approx(0.4)
    assert found.low < 0.4 < found.high
    assert cohen_kappa([1, 1], [1, 1]) is None


def test_gwets_published_example_of_the_paradox() -> None:
    """Gwet (2002): 125 units, 118 of them yes-yes: kappa says −0.02, AC1 0.94."""
    first, second = pairs(118, 5, 2, 0)
    ratings = [{"a": a, "b": b} for a, b in zip(first, second, strict=True)]
    found = agreement(ratings, [0, 1])
    assert found.ac1 is not None and found.raw is not None
    assert found.raw.value == pytest.approx(0.944)
    assert found.ac1.value == pytest.approx(0.9408, abs=5e-5)
    kappa = cohen_kappa(first, second)
    assert kappa is not None and kappa.value == pytest.approx(-0.0234, abs=5e-5)


def test_whole_clusters_are_left_out() -> None:
    """Ten copies of each unit carry no more information than one: the interval must not shrink."""
    rng = np.random.default_rng(0)
    ratings = [{"a": int(x), "b": int(x if rng.random() < 0.7 else 1 - x)} for x in rng.integers(0, 2, 60)]
    copied = [unit for unit in ratings for _ in range(10)]
    labels = [u for u in range(60) for _ in range(10)]
    one = agreement(ratings, [0, 1]).raw
    ten = agreement(copied, [0, 1], clusters=labels).raw
    naive = agreement(copied, [0, 1]).raw
    assert one is not None and ten is not None and naive is not None
    assert (ten.value, ten.low, ten.high) == pytest.approx((one.value, one.low, one.high))
    assert naive.high - naive.low < 0.5 * (ten.high - ten.low)


def test_what_is_not_defined_is_none_and_what_is_wrong_is_named() -> None:
    same = agreement([{"a": 1, "b": 1}] * 5, [0, 1])
    assert same.alpha is None and same.fleiss is None
    # Five units that agree do not show that all do: the share keeps a width, and the others have no interval.
    assert same.raw == clustered_share_interval([1] * 5, range(5)) and 0.3 < same.raw.low < 0.5
    assert same.ac1 is not None and same.ac1.low == -math.inf
    assert same.raw is not None and same.raw.value == 1 and same.ac1 is not None and same.ac1.value == 1
    with pytest.raises(ValueError, match="two annotators"):
        agreement([{"a": 1}, {"b": 0}], [0, 1])
    with pytest.raises(ValueError, match="unit 0: a gave 7"):
        agreement([{"a": 7, "b": 1}], [0, 1])


def test_the_interval_of_raw_agreement_is_the_t_interval_of_a_mean() -> None:
    rng = np.random.default_rng(4)
    ratings = [{"a": int(x), "b": int(y)} for x, y in rng.integers(0, 2, (30, 2))]
    raw = agreement(ratings, [0, 1]).raw
    by_hand = mean_interval([float(unit["a"] == unit["b"]) for unit in ratings])
    assert raw is not None
    assert (raw.value, raw.low, raw.high, raw.n) == pytest.approx((by_hand.value, by_hand.low, by_hand.high, 30))


RATINGS = st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 2)), min_size=3, max_size=12).filter(
    lambda units: any(len(unit) > 1 for unit in units)
)


@settings(max_examples=60, deadline=None)
@given(RATINGS, st.randoms(use_true_random=False))
def test_order_of_units_and_names_of_raters_do_not_matter(ratings: list[dict[str, int]], rng) -> None:  # type: ignore[no-untyped-def]
    shuffled = [{name.upper(): value for name, value in unit.items()} for unit in ratings]
    rng.shuffle(shuffled)
    first, second = (agreement(r, [0, 1, 2]) for r in (ratings, shuffled))
    for name in ("raw", "alpha", "alpha_ordinal", "fleiss", "ac1"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None) or min(x.n for x in (a, b) if x) < 3
        if a is not None and b is not None:
            assert a.value == pytest.approx(b.value) and a.value <= 1 + 1e-12


@pytest.mark.slow
def test_peers_give_the_same() -> None:
    krippendorff = pytest.importorskip("krippendorff", reason="peer not installed: pip install '.[peers]'")
    rng = np.random.default_rng(5)
    for _ in range(20):
        data = rng.integers(0, 4, (4, 25)).astype(float)
        data[0] = data[1] = np.where(rng.random(25) < 0.7, data[1], data[0])
        data[rng.random(data.shape) < 0.2] = np.nan
        ratings = [{f"r{r}": int(x) for r, x in enumerate(unit) if np.isfinite(x)} for unit in data.T]
        found = agreement(ratings, range(4))
        for level, ours in (("nominal", found.alpha), ("ordinal", found.alpha_ordinal)):
            theirs = krippendorff.alpha(data, value_domain=[0, 1, 2, 3], level_of_measurement=level)
            assert ours is not None and ours.value == pytest.approx(theirs, abs=1e-9)
    chance = pytest.importorskip("irrCAC.raw", reason="it pins an old pandas: pip install --no-deps irrCAC==0.4.4")
    pandas = pytest.importorskip("pandas", reason="irrCAC needs pandas")
    metrics = pytest.importorskip("sklearn.metrics", reason="peer not installed")
    found = agreement(ratings, range(4))
    table = chance.CAC(pandas.DataFrame(data.T), categories=[0.0, 1.0, 2.0, 3.0], digits=12)
    assert found.ac1 is not None and found.fleiss is not None
    assert found.ac1.value == pytest.approx(table.gwet()["est"]["coefficient_value"], abs=1e-9)
    assert found.fleiss.value == pytest.approx(table.fleiss()["est"]["coefficient_value"], abs=1e-9)
    a, b = rng.integers(0, 3, (2, 40))
    ours = cohen_kappa(a.tolist(), b.tolist())
    assert ours is not None and ours.value == pytest.approx(metrics.cohen_kappa_score(a, b), abs=1e-12)
