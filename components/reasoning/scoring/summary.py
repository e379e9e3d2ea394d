"""What saved generations are worth: accuracy told three ways, by group, over samples, and against another file."""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from components.reasoning.scoring.estimators import maj_at_k, pass_at_k
from components.reasoning.scoring.fields import value_at
from components.reasoning.scoring.saved import Generation, SavedItem
from components.reasoning.scoring.scorers import STATUSES, Scorer, Status, Verdict
from components.statistics import (
    Interval,
    clustered_mean_interval,
    clustered_share_interval,
    paired_difference,
    wilson,
)

MAX_WITHOUT_ANSWER = 0.05  # share of samples, unparsed or cut, above which an accuracy comes with a warning


@dataclass(frozen=True)
class JudgedItem:
    """verdicts: one a sample, in order. votes: samples by class of equal answers, right ones apart from wrong ones."""

    item: SavedItem
    verdicts: tuple[Verdict, ...]
    right_votes: tuple[int, ...]
    wrong_votes: tuple[int, ...]

    @property
    def num_right(self) -> int:
        """Samples that are right."""
        return sum(verdict.right for verdict in self.verdicts)

    @property
    def share(self) -> float:
        """Share of the samples that are right."""
        return self.num_right / len(self.verdicts)

    def maj_at(self, k: int) -> float:
        """maj@k, over all subsets of k samples."""
        abstained = len(self.verdicts) - sum(self.right_votes) - sum(self.wrong_votes)
        return maj_at_k(self.right_votes, self.wrong_votes, abstained, k, seed=zlib.crc32(self.item.id.encode()))


def judge_item(item: SavedItem, scorer: Scorer) -> JudgedItem:
    """Every sample of an item."""
    verdicts = tuple(_judge(generation, item, scorer) for generation in item.generations)
    classes: dict[str, list[int]] = {}  # by their first answer: its samples, and whether it is right
    for verdict in verdicts:
        if verdict.status != "answered":
            continue
        same = (
            verdict.found
            if verdict.found in classes
            else next((one for one in classes if scorer.same(verdict.found, one)), verdict.found)
        )
        classes.setdefault(same, [0, int(verdict.right)])[0] += 1
    return JudgedItem(
        item,
        verdicts,
        tuple(count for count, right in classes.values() if right),
        tuple(count for count, right in classes.values() if not right),
    )


def _judge(generation: Generation, item: SavedItem, scorer: Scorer) -> Verdict:
    if generation.problem:
        return Verdict(generation.problem, note=generation.note)
    return scorer.judge(generation.text, item.references, generation.finished)


@dataclass(frozen=True)
class Accuracy:
    """Told three ways, since a sample without an answer is not the same as a wrong one.

    of_all: everything that is not right is wrong. of_parsed: of the samples with an answer. without_failures: of all
    but those of which nothing is known. None where there are none. Intervals are 95%, for other items (or clusters)
    like these. statuses: samples of each.
    """

    num_items: int
    of_all: Interval
    of_parsed: Interval | None
    without_failures: Interval | None
    statuses: Mapping[Status, int]

    @property
    def num_samples(self) -> int:
        """Of all items."""
        return sum(self.statuses.values())

    @property
    def without_answer(self) -> float:
        """Share of the samples that are unparsed or truncated."""
        return (self.statuses["unparsed"] + self.statuses["truncated"]) / self.num_samples


Cluster = Callable[[SavedItem], str]


def column(path: str) -> Cluster:
    """A label of an item from its record: a path, or "file", the name of its file. Items without share one."""

    def label(item: SavedItem) -> str:
        value = value_at(item.row, path)
        if value is None:
            return _stem(item.file) if path == "file" else f"(without {path})"
        return str(value)

    return label


def _stem(file: str) -> str:
    return re.sub(r"(\.\w+){1,2}$", "", file.rpartition("/")[2])


def accuracy(judged: Sequence[JudgedItem], cluster: Cluster | None = None) -> Accuracy:
    """Of at least one item. Samples of one item, and items of one cluster, may depend on each other."""
    samples = [(verdict, place) for place, one in enumerate(judged) for verdict in one.verdicts]
    labels = [cluster(one.item) if cluster else str(place) for place, one in enumerate(judged)]
    single = len(set(labels)) == len(samples)

    def share(keep: Callable[[Verdict], bool]) -> Interval | None:
        kept = [(verdict.right, labels[place]) for verdict, place in samples if keep(verdict)]
        if not kept:
            return None
        if single:
            return wilson(sum(right for right, _ in kept), len(kept))
        return clustered_share_interval([right for right, _ in kept], [label for _, label in kept])

    counts = Counter(verdict.status for verdict, _ in samples)
    of_all = share(lambda verdict: True)
    assert of_all is not None
    return Accuracy(
        len(judged),
        of_all,
        share(lambda verdict: verdict.status == "answered"),
        share(lambda verdict: verdict.status != "failed"),
        {status: counts[status] for status in STATUSES},
    )


def by_group(
    judged: Sequence[JudgedItem], group: Cluster, cluster: Cluster | None = None
) -> tuple[dict[str, Accuracy], Interval]:
    """The accuracy of each group, and their plain mean with its 95% interval.

    The macro average speaks of these groups and of other items like theirs: its variance is the sum of those of the
    groups' means over the square of their number. A group of one item (or cluster) leaves it unknown: an infinite
    interval.
    """
    groups: dict[str, list[JudgedItem]] = {}
    for one in judged:
        groups.setdefault(group(one.item), []).append(one)
    found = {name: accuracy(members, cluster) for name, members in groups.items()}
    variance, values = 0.0, []
    for members in groups.values():
        labels = [cluster(one.item) if cluster else str(place) for place, one in enumerate(members)]
        weights = [one.share for one in members]
        mean = clustered_mean_interval(weights, labels)
        values.append(mean.value)
        if mean.n < 2:
            variance = math.inf
        else:
            variance += ((mean.high - mean.value) / float(stats.t.ppf(0.975, mean.n - 1))) ** 2
    macro, half = float(np.mean(values)), float(stats.norm.ppf(0.975)) * math.sqrt(variance) / len(values)
    return dict(sorted(found.items())), Interval(macro, macro - half, macro + half, len(judged))


@dataclass(frozen=True)
class AtK:
    """Means over items of maj@k and pass@k, with 95% intervals over items (or clusters)."""

    k: int
    majority: Interval
    passed: Interval


def at_sizes(judged: Sequence[JudgedItem], cluster: Cluster | None = None, sizes: Sequence[int] = ()) -> list[AtK]:
    """At 1, 2, 4, … samples and all, or at `sizes`, up to the fewest that an item has; [] where each has one."""
    fewest = min(len(one.verdicts) for one in judged)
    doubled = [2**power for power in range(fewest.bit_length())]
    wanted = sorted({k for k in sizes if k <= fewest} if sizes else {*doubled, fewest}) if fewest > 1 else []
    labels = [cluster(one.item) if cluster else str(place) for place, one in enumerate(judged)]
    found = []
    for k in wanted:
        majority = _mean([one.maj_at(k) for one in judged], labels)
        passed = _mean([pass_at_k(len(one.verdicts), one.num_right, k) for one in judged], labels)
        if k == 1 and all(len(one.verdicts) == fewest for one in judged):  # one sample is the accuracy itself
            majority = passed = accuracy(judged, cluster).of_all
        found.append(AtK(k, majority, passed))
    return found


def _mean(shares: Sequence[float], labels: Sequence[str]) -> Interval:
    """Of values in [0, 1]: their interval lies there, too, and has width where all are 0 or all are 1."""
    if all(share in (0.0, 1.0) for share in shares):
        return clustered_share_interval(shares, labels)
    mean = clustered_mean_interval(shares, labels)
    return Interval(mean.value, max(0.0, mean.low), min(1.0, mean.high), mean.n)


@dataclass(frozen=True)
class Comparison:
    """Two files on the items that both have. difference: the first minus the second. only_first, only_second: items
    that one alone has, which are left out. how: by what the items were matched. answered: the difference on the items
    to which both gave an answer with every sample, of whatever choice of items that is; None where there is none."""

    difference: Interval
    answered: Interval | None
    first: Accuracy
    second: Accuracy
    only_first: int
    only_second: int
    how: str

    @property
    def unlike(self) -> bool:
        """Whether the shares without an answer differ by more than is let pass: then the difference is of answering,
        too."""
        return abs(self.first.without_answer - self.second.without_answer) > MAX_WITHOUT_ANSWER


def compare(
    first: Sequence[JudgedItem], second: Sequence[JudgedItem], by_id: bool, cluster: Cluster | None = None
) -> Comparison:
    """Items are matched by id; without one by question, or, where no question is in both, by their order if all
    references are the same in that order.

    Raises ValueError where no item is in both, or one has other references there.
    """
    how = "id" if by_id else "question"
    here, there = _keyed(first, how), _keyed(second, how)
    shared = [key for key in here if key in there]
    if not shared and not by_id and [x.item.references for x in first] == [x.item.references for x in second]:
        how = "order"
        here, there = _keyed(first, how), _keyed(second, how)
        shared = list(here)
    if not shared:
        raise ValueError(f"no item is in both, by {how}: give --id")
    pairs = [(here[key], there[key]) for key in shared]
    for a, b in pairs:
        if a.item.references != b.item.references:
            raise ValueError(
                f"item {a.item.id!r} has the answer {_first(a)!r} in one file and {_first(b)!r} in the other: "
                "they are not the same items"
            )
    answered = [(a, b) for a, b in pairs if _answered(a) and _answered(b)]
    return Comparison(
        _difference(pairs, cluster),
        _difference(answered, cluster) if answered else None,
        accuracy([a for a, _ in pairs], cluster),
        accuracy([b for _, b in pairs], cluster),
        len(here) - len(shared),
        len(there) - len(shared),
        how,
    )


def _answered(one: JudgedItem) -> bool:
    return all(verdict.status == "answered" for verdict in one.verdicts)


def _difference(pairs: Sequence[tuple[JudgedItem, JudgedItem]], cluster: Cluster | None) -> Interval:
    """Of the first over the second, of each pair."""
    if cluster is None and all(len(a.verdicts) == len(b.verdicts) == 1 for a, b in pairs):
        return paired_difference([bool(a.num_right) for a, _ in pairs], [bool(b.num_right) for _, b in pairs])
    labels = [cluster(a.item) if cluster else str(place) for place, (a, _) in enumerate(pairs)]
    return clustered_mean_interval([a.share - b.share for a, b in pairs], labels)


def _first(one: JudgedItem) -> str:
    return one.item.references[0][:60] if one.item.references else ""


def _keyed(judged: Sequence[JudgedItem], how: str) -> dict[str, JudgedItem]:
    """A question that stands twice is its first, second, … occurrence; an item without one has no key."""
    found: dict[str, JudgedItem] = {}
    times: Counter[str] = Counter()
    for place, one in enumerate(judged):
        key = {"id": one.item.id, "question": one.item.question, "order": str(place)}[how]
        if not key:
            continue
        times[key] += 1
        found[key if times[key] == 1 else f"{key}#{times[key]}"] = one
    return found


def verdict_rows(judged: Sequence[JudgedItem], columns: Sequence[str] = ()) -> list[dict[str, object]]:
    """A row a sample, with the named columns of its record as text; half a character is a question mark."""
    return [
        {
            "item": _writable(one.item.id),
            "sample": place,
            "status": verdict.status,
            "right": verdict.right,
            "found": _writable(verdict.found),
            "reference": _writable(" | ".join(one.item.references)),
            "extractor": verdict.extractor,
            "note": _writable(verdict.note),
            **{name: _writable(column(name)(one.item)) for name in columns},
            "file": one.item.file,
            "line": one.item.line,
        }
        for one in judged
        for place, verdict in enumerate(one.verdicts)
    ]


def _writable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def found_by(judged: Sequence[JudgedItem]) -> dict[str, int]:
    """Answers by the label of the extractor that found them, the most first."""
    return dict(Counter(v.extractor for one in judged for v in one.verdicts if v.extractor).most_common())


@dataclass(frozen=True)
class Agreement:
    """With the verdicts that a file itself holds, over the samples that have one."""

    agreed: int
    total: int
    only_ours: int
    only_theirs: int


def agreement(judged: Sequence[JudgedItem]) -> Agreement | None:
    """None where the file says nothing."""
    pairs = [
        (verdict.right, generation.right)
        for one in judged
        for verdict, generation in zip(one.verdicts, one.item.generations, strict=True)
        if generation.right is not None
    ]
    if not pairs:
        return None
    ours, theirs = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    return Agreement(len(pairs) - ours - theirs, len(pairs), ours, theirs)
