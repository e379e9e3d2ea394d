"""Accuracies told three ways, by group, over samples, and against another file; hand-computed."""

from __future__ import annotations

import math

import pytest

from components.reasoning.scoring.saved import Generation, SavedItem
from components.reasoning.scoring.scorers import SCORERS
from components.reasoning.scoring.summary import (
    JudgedItem,
    accuracy,
    agreement,
    at_sizes,
    by_group,
    column,
    compare,
    judge_item,
    verdict_rows,
)
from components.statistics import PairedDifference, clustered_mean_interval, clustered_share_interval, wilson

NUMBER = SCORERS["number"]


def judged(name: str, *said: str | Generation, answer: str = "5", **row: str) -> JudgedItem:
    generations = tuple(one if isinstance(one, Generation) else Generation(one) for one in said)
    return judge_item(SavedItem(name, (answer,), generations, f"question {name}", row), NUMBER)


ITEMS = [
    judged("a", "5", task="sums"),
    judged("b", "6", task="sums"),
    judged("c", "no idea", task="sums"),
    judged("d", Generation("5 +", finished=False), task="words"),
    judged("e", Generation("", problem="failed"), task="words"),
    judged("f", "5.0", task="words"),
]


def test_accuracy_is_told_three_ways() -> None:
    told = accuracy(ITEMS)
    assert told.of_all == wilson(2, 6)
    assert told.of_parsed == wilson(2, 3)
    assert told.without_failures == wilson(2, 5)
    assert told.statuses == {"answered": 3, "unparsed": 1, "truncated": 1, "refused": 0, "failed": 1}
    assert told.without_answer == 2 / 6
    assert accuracy([ITEMS[4]]).without_failures is None


def test_items_of_a_cluster_and_samples_of_an_item_are_not_independent() -> None:
    several = [judged("a", "5", "5", "6"), judged("b", "6", "6", "7"), judged("c", "5", "5", "5")]
    expected = clustered_share_interval([1, 1, 0, 0, 0, 0, 1, 1, 1], list("aaabbbccc"))
    assert accuracy(several).of_all == expected
    told = accuracy(ITEMS, column("task"))
    assert told.of_all == clustered_share_interval([1, 0, 0, 0, 0, 1], ["s", "s", "s", "w", "w", "w"])


def test_a_macro_average_weighs_groups_alike() -> None:
    many = [judged(str(n), "5" if n < 6 else "6", task="big") for n in range(8)]
    few = [judged(f"x{n}", "5" if n < 1 else "6", task="small") for n in range(4)]
    groups, macro = by_group(many + few, column("task"))
    assert {name: part.of_all.value for name, part in groups.items()} == {"big": 0.75, "small": 0.25}
    assert macro.value == 0.5
    # variances of the two means: 8·(3/16)/7/8 and 4·(3/16)/3/4
    assert macro.high - macro.value == pytest.approx(1.959964 * math.sqrt(3 / 16 / 7 + 3 / 16 / 3) / 2, abs=1e-6)
    assert by_group(many + few[:1], column("task"))[1].high == math.inf


def test_votes_are_classes_of_equal_answers_and_abstentions_do_not_vote() -> None:
    one = judged("a", "5", "5.0", "6", "6.00", "7", "no idea")
    assert (one.right_votes, one.wrong_votes, one.share) == ((2,), (2, 1), 2 / 6)
    assert one.maj_at(6) == 0.5
    over = at_sizes([one, judged("b", *["5"] * 6)])
    assert [at.k for at in over] == [1, 2, 4, 6]
    assert [over[0].majority.value, over[0].passed.value] == pytest.approx([2 / 3, 2 / 3])
    assert over[-1].passed.value == 1.0
    assert over[-1].passed.low < 1.0  # all right is not certain
    assert [at.k for at in at_sizes([one], sizes=(3, 99))] == [3]
    assert at_sizes(ITEMS) == []


def test_two_files_are_compared_on_the_same_items_by_mcnemar() -> None:
    first = [judged(str(n), "5" if n < 8 else "6") for n in range(10)]
    second = [judged(str(n), "5" if n < 2 else "6") for n in reversed(range(11))]
    found = compare(first, second, by_id=True)
    assert found.difference.value == pytest.approx(0.6)
    assert isinstance(found.difference, PairedDifference)
    assert found.difference.p_value == pytest.approx(2 * 0.5**6)  # six items against none
    assert (found.only_first, found.only_second, found.unlike) == (0, 1, False)
    clustered = compare(first, second, by_id=False, cluster=lambda item: (item.id[-1:] < "5" and "low") or "high")
    assert not isinstance(clustered.difference, PairedDifference)
    labels = ["low" if n < 5 else "high" for n in range(10)]
    assert clustered.difference == clustered_mean_interval([0, 0, 1, 1, 1, 1, 1, 1, 0, 0], labels)


def test_a_comparison_that_is_none_is_refused_or_told() -> None:
    with pytest.raises(ValueError, match="no item is in both, by id"):
        compare([judged("a", "5")], [judged("b", "5")], by_id=True)
    with pytest.raises(ValueError, match="'a' has the answer '5' in one file and '6' in the other"):
        compare([judged("a", "5")], [judged("a", "5", answer="6")], by_id=True)
    asked, again = [judged("a", "5"), judged("b", "6")], [judged("c", "6"), judged("d", "6")]
    assert compare(asked, again, by_id=False).how == "order"
    parsed, unparsed = [judged(n, "5") for n in "abc"], [judged(n, "?") for n in "abc"]
    assert compare(parsed, unparsed, by_id=True).unlike
    assert compare(parsed, unparsed, by_id=True).answered is None
    half = [judged("a", "6"), judged("b", "?"), judged("c", "5")]
    answered = compare(parsed, half, by_id=True).answered
    assert answered is not None
    assert (answered.value, answered.n) == (0.5, 2)


def test_rows_and_the_agreement_with_the_files_own_verdicts() -> None:
    mine = judged("a", Generation("5", right=True), Generation("6", right=True), Generation("?"), task="sums")
    found = agreement([mine])
    assert found is not None
    assert (found.agreed, found.total, found.only_ours, found.only_theirs) == (1, 2, 0, 1)
    assert agreement(ITEMS) is None
    rows = verdict_rows([mine], ["task"])
    assert [row["status"] for row in rows] == ["answered", "answered", "unparsed"]
    assert (rows[0]["found"], rows[0]["extractor"], rows[0]["task"]) == ("5", "last-number/2", "sums")
