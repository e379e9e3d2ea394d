"""What people's judgements say: how far annotators agree, how long they took, whether position swayed them, and which
model they prefer."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from components.rlhf.agreement import Agreement, agreement, cohen_kappa
from components.rlhf.judgements import (
    Candidate,
    Item,
    Judgement,
    comparisons,
    first_shown_shares,
    newest,
    pair_labels,
)
from components.rlhf.ranking import Ranking, rank_models
from components.statistics import Interval, mean_interval

LABELS = (-1, 0, 1)  # the second is better, a tie, the first is better


@dataclass(frozen=True)
class AnnotatorFacts:
    """`seconds`: median time an item; `confidence`: mean of 1 (a guess) to 3 (certain) where it was said."""

    name: str
    judged: int
    skipped: int
    seconds: float
    confidence: float | None


@dataclass(frozen=True)
class PairFacts:
    """Two annotators on the pairs of answers that both ranked: `raw` share of equal labels, Cohen's `kappa`."""

    first: str
    second: str
    raw: Interval | None
    kappa: Interval | None
    num_items: int


@dataclass(frozen=True)
class PeopleFacts:
    """`earlier_wins`: share of pairs without a tie in which the answer shown earlier won, with the interval of the mean
    over judgements; 50% where position does not matter. `no_ranking`: why `ranking` is None."""

    num_items: int
    num_judgements: int
    num_skipped: int
    num_comments: int
    instructions: tuple[int, ...]
    annotators: tuple[AnnotatorFacts, ...]
    agreement: Agreement | None
    pairs: tuple[PairFacts, ...]
    earlier_wins: Interval | None
    ranking: Ranking | None
    no_ranking: str


def people_facts(rows: Sequence[Mapping[str, Any]]) -> PeopleFacts | None:
    """From rows of the table `judgements`; None where there are none."""
    said = newest(_judgement(row) for row in rows if not row["superseded"])
    if not said:
        return None
    items = list({row["item_id"]: _item(row) for row in rows}.values())
    labels = pair_labels(said)
    units = [
        (f"{item}/{pair}", item, {who: given[pair] for who, given in by_annotator.items()})
        for item, by_annotator in labels.items()
        for pair in next(iter(by_annotator.values()))
    ]
    shared = [unit for unit in units if len(unit[2]) > 1]
    overall = None
    if shared:
        overall = agreement([unit[2] for unit in units], LABELS, clusters=[unit[1] for unit in units])
    shares = first_shown_shares(said)
    ranking, why_not = None, ""
    try:
        ranking = rank_models(comparisons(items, said))
    except ValueError as error:
        why_not = str(error)
    return PeopleFacts(
        num_items=len({one.item_id for one in said}),
        num_judgements=len(said),
        num_skipped=sum(one.ranks is None for one in said),
        num_comments=sum(bool(one.comment.strip()) for one in said),
        instructions=tuple(sorted({one.instructions_version for one in said})),
        annotators=_annotators(said),
        agreement=overall,
        pairs=_pairs(shared),
        earlier_wins=mean_interval(shares) if shares else None,
        ranking=ranking,
        no_ranking=why_not,
    )


def _judgement(row: Mapping[str, Any]) -> Judgement:
    ranks = json.loads(row["ranks_json"]) if row["ranks_json"] else None
    return Judgement(
        row["item_id"],
        row["annotator"],
        None if ranks is None else tuple(ranks),
        tuple(json.loads(row["order_json"])),
        row["seconds"] or 0.0,
        row["submitted_at"].isoformat(),
        row["confidence"],
        row["comment"] or "",
        row["instructions_version"] or 0,
    )


@dataclass(frozen=True)
class _KnownItem(Item):
    """An item read back by its stored name: its turns before the prompt are not in the table."""

    name: str = ""

    @property
    def item_id(self) -> str:
        return self.name


def _item(row: Mapping[str, Any]) -> Item:
    answers = tuple(Candidate(**answer) for answer in json.loads(row["answers_json"]))
    return _KnownItem(row["prompt"], answers, (), row["item_id"])


def _annotators(said: Sequence[Judgement]) -> tuple[AnnotatorFacts, ...]:
    by_name: dict[str, list[Judgement]] = {}
    for one in said:
        by_name.setdefault(one.annotator, []).append(one)
    found = []
    for name, mine in sorted(by_name.items()):
        sure = [one.confidence for one in mine if one.confidence is not None]
        found.append(
            AnnotatorFacts(
                name,
                sum(one.ranks is not None for one in mine),
                sum(one.ranks is None for one in mine),
                statistics.median(one.seconds for one in mine),
                sum(sure) / len(sure) if sure else None,
            )
        )
    return tuple(found)


def _pairs(units: Sequence[tuple[str, str, Mapping[str, int]]]) -> tuple[PairFacts, ...]:
    found = []
    names = sorted({name for _, _, given in units for name in given})
    for first, second in combinations(names, 2):
        both = [(item, given[first], given[second]) for _, item, given in units if first in given and second in given]
        if not both:
            continue
        clusters = [item for item, _, _ in both]
        pair = agreement([{"a": a, "b": b} for _, a, b in both], LABELS, clusters=clusters)
        kappa = cohen_kappa([a for _, a, _ in both], [b for _, _, b in both], clusters=clusters)
        found.append(PairFacts(first, second, pair.raw, kappa, len(set(clusters))))
    return tuple(found)
