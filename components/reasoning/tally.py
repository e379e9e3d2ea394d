"""What an evaluation found, kept as a few bytes an item, and told with intervals at its end."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import stats

from components.reasoning.evaluation import Answers
from components.reasoning.scoring.estimators import maj_at_k, pass_at_k
from components.reasoning.scoring.scorers import STATUSES, Status
from components.reasoning.scoring.summary import MAX_WITHOUT_ANSWER
from components.reasoning.strategy import Strategy
from components.statistics import (
    Interval,
    PairedDifference,
    clustered_mean_interval,
    clustered_share_interval,
    paired_difference,
    wilson,
)

_RESAMPLES = 2000


@dataclass
class Tally:
    """Of one strategy, filled chunk by chunk."""

    strategy: Strategy
    right: array[int] = field(default_factory=lambda: array("b"))
    status: array[int] = field(default_factory=lambda: array("b"))
    clusters: array[int] = field(default_factory=lambda: array("l"))
    suites: array[int] = field(default_factory=lambda: array("l"))
    at_k: dict[int, tuple[array[float], array[float]]] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    latency: float = 0.0
    seconds: float = 0.0
    suite_names: dict[str, int] = field(default_factory=dict)
    _cluster_names: dict[str, int] = field(default_factory=dict)

    def add(self, answers: Answers) -> None:
        """A further chunk."""
        for one, outcome in zip(answers.asked, answers.outcomes, strict=True):
            self.right.append(outcome.correct)
            status = str(outcome.details.get("status", "answered"))
            self.status.append(STATUSES.index(status))
            self.suites.append(self.suite_names.setdefault(one.suite, len(self.suite_names)))
            if one.cluster == one.id:  # alone in its cluster: no name need be kept
                self.clusters.append(-len(self.clusters) - 1)
            else:
                self.clusters.append(self._cluster_names.setdefault(one.cluster, len(self._cluster_names)))
            if changed := outcome.details.get("changed"):
                self.changes[str(changed)] += 1
        if answers.samples is not None:
            self._add_samples(answers)
        self.calls += answers.meter.calls
        self.prompt_tokens += answers.meter.prompt_tokens
        self.completion_tokens += answers.meter.completion_tokens
        self.latency += answers.meter.latency
        self.seconds += answers.seconds

    def _add_samples(self, answers: Answers) -> None:
        """maj@k and pass@k of every item, over all of its samples, at 1, 2, 4, … and all."""
        assert answers.samples is not None
        for item, group in zip(answers.items, answers.samples.completions, strict=True):
            votes: Counter[tuple[str, bool]] = Counter()
            for done in group:
                if answer := item.answer_of(done):
                    votes[answer, item.accepts(done)] += 1
            right = [count for (_, good), count in votes.items() if good]
            wrong = [count for (_, good), count in votes.items() if not good]
            n = len(group)
            for k in sorted({*(2**power for power in range(n.bit_length())), n}):
                majority, passed = self.at_k.setdefault(k, (array("d"), array("d")))
                majority.append(maj_at_k(right, wrong, n - sum(right) - sum(wrong), k))
                passed.append(pass_at_k(n, sum(right), k))

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """Cluster of each item."""
        return np.asarray(self.clusters)

    def report(self, usd: float | None = None) -> StrategyReport:
        """Of at least one item. usd: dollars of all."""
        right, status, labels = np.asarray(self.right, bool), np.asarray(self.status), self.labels
        counts = {name: int((status == place).sum()) for place, name in enumerate(STATUSES)}
        n = len(right)

        def share(keep: npt.NDArray[np.bool_]) -> Interval | None:
            return _share(right[keep], labels[keep]) if keep.any() else None

        of_all = share(np.ones(n, bool))
        assert of_all is not None
        suites = np.asarray(self.suites)
        return StrategyReport(
            strategy=self.strategy,
            n=n,
            of_all=of_all,
            of_parsed=share(status == STATUSES.index("answered")),
            without_failures=share(status != STATUSES.index("failed")),
            statuses=counts,
            macro=_macro(right, suites) if len(self.suite_names) > 1 else None,
            at_k={
                k: (_mean(majority, labels), _mean(passed, labels))
                for k, (majority, passed) in self.at_k.items()
                if k > 1
            },
            changes=dict(self.changes),
            calls=self.calls / n,
            prompt_tokens=self.prompt_tokens / n,
            completion_tokens=self.completion_tokens / n,
            latency=self.latency / n,
            usd=None if usd is None else usd / n,
        )


@dataclass(frozen=True)
class StrategyReport:
    """Accuracy three ways, each with its 95% interval over items or clusters (`scoring.summary.Accuracy` says which).

    macro: the mean over suites, where there are several. at_k: maj@k and pass@k. changes: right to wrong, wrong to
    right. Of an item: calls, tokens (prompts as billed), latency (seconds, its requests one after another) and usd.
    """

    strategy: Strategy
    n: int
    of_all: Interval
    of_parsed: Interval | None
    without_failures: Interval | None
    statuses: Mapping[Status, int]
    macro: Interval | None
    at_k: Mapping[int, tuple[Interval, Interval]]
    changes: Mapping[str, int]
    calls: float
    prompt_tokens: float
    completion_tokens: float
    latency: float
    usd: float | None

    @property
    def without_answer(self) -> float:
        """Share of the items that are unparsed or truncated."""
        return (self.statuses["unparsed"] + self.statuses["truncated"]) / self.n

    @property
    def many_without_answer(self) -> bool:
        """Whether the accuracy of all measures the format and the length limit, too."""
        return self.without_answer > MAX_WITHOUT_ANSWER


@dataclass(frozen=True)
class Difference:
    """The first strategy minus the second, on the same items. exact: with McNemar's test, for independent items.
    bootstrap: the percentile interval of clusters drawn with replacement. answered: on the items that both answered.
    unlike: the shares without an answer differ by more than is let pass."""

    first: str
    second: str
    exact: PairedDifference
    bootstrap: Interval
    answered: PairedDifference | None
    unlike: bool


def difference(first: Tally, second: Tally, seed: int = 0) -> Difference:
    """Of two strategies that answered the same items in the same order."""
    a, b = np.asarray(first.right, bool), np.asarray(second.right, bool)
    answered = STATUSES.index("answered")
    both = (np.asarray(first.status) == answered) & (np.asarray(second.status) == answered)
    lost = [np.isin(np.asarray(one.status), [1, 2]).mean() for one in (first, second)]
    return Difference(
        first.strategy.name,
        second.strategy.name,
        paired_difference(a, b),
        paired_bootstrap(a.astype(float) - b.astype(float), first.labels, seed),
        paired_difference(a[both], b[both]) if both.any() and not both.all() else None,
        bool(abs(lost[0] - lost[1]) > MAX_WITHOUT_ANSWER),
    )


def paired_bootstrap(
    differences: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64], seed: int, confidence: float = 0.95
) -> Interval:
    """Mean of the differences with the percentile interval (Efron & Tibshirani 1993, chapter 13) of 2,000 draws of
    whole clusters. `n`: clusters."""
    _, places = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(places, differences), np.bincount(places)
    rng, count = np.random.default_rng(seed), len(sums)
    means = np.empty(_RESAMPLES)
    for turn in range(_RESAMPLES):
        drawn = rng.integers(0, count, count)
        means[turn] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high), count)


def over_wordings(tallies: Sequence[Tally]) -> tuple[Interval, float, float]:
    """Of a strategy with several wordings on the same items: the mean accuracy over them, with its 95% interval over
    items (or clusters), the least and the greatest."""
    each = np.asarray([np.asarray(tally.right, float) for tally in tallies])
    accuracies = each.mean(axis=1)
    return _mean(each.mean(axis=0), tallies[0].labels), float(accuracies.min()), float(accuracies.max())


def pareto_front(reports: Sequence[StrategyReport]) -> list[StrategyReport]:
    """Those than which none is both at least as accurate and at most as dear, and better in one; the cheapest first.
    Dear by dollars where all have them, else by tokens."""

    def price(one: StrategyReport) -> float:
        known = all(other.usd is not None for other in reports)
        return float(one.usd or 0.0) if known else one.prompt_tokens + one.completion_tokens

    front = [
        one
        for one in reports
        if not any(
            other.of_all.value >= one.of_all.value
            and price(other) <= price(one)
            and (other.of_all.value > one.of_all.value or price(other) < price(one))
            for other in reports
        )
    ]
    return sorted(front, key=price)


def _share(right: npt.NDArray[np.bool_], labels: npt.NDArray[np.int64]) -> Interval:
    if len(np.unique(labels)) == len(labels):
        return wilson(int(right.sum()), len(right))
    return clustered_share_interval(right, labels.tolist())


def _mean(values: Sequence[float] | npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> Interval:
    """Of values in [0, 1]: with width also where all are 0 or all are 1."""
    if all(value in (0.0, 1.0) for value in values):
        return _share(np.asarray(values, bool), labels)
    mean = clustered_mean_interval(values, labels.tolist())
    return Interval(mean.value, max(0.0, mean.low), min(1.0, mean.high), mean.n)


def _macro(right: npt.NDArray[np.bool_], suites: npt.NDArray[np.int64]) -> Interval:
    """The mean of the suites' accuracies, for other items of these suites: its variance is the sum of theirs over the
    square of their number. Items of one suite are independent here, as a suite is all of what it speaks of."""
    accuracies, variance = [], 0.0
    for suite in np.unique(suites):
        mine = right[suites == suite]
        accuracies.append(mine.mean())
        variance += float(mine.var(ddof=1)) / len(mine) if len(mine) > 1 else 0.25
    half = float(stats.norm.ppf(0.975)) * float(np.sqrt(variance)) / len(accuracies)
    mean = float(np.mean(accuracies))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half), len(right))
