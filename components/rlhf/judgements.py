"""Judgements of people: what they are asked, in which order, and what their rankings say.

An item is a prompt with k answers. A judgement ranks them: `ranks[i]` is the place of answer i, 1 the best, and equal
places are ties. Everything here is a pure function of items and judgements; where they lie is not its concern.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from components.rlhf.preferences import MAX_EXCERPT, LeftOut, Preference, Turn, pair_id

CONFIDENCES = {1: "a guess", 2: "fairly sure", 3: "certain"}
MAX_COMMENT = 4000


@dataclass(frozen=True)
class Candidate:
    """An answer and where it came from, which an annotator never sees."""

    text: str
    model: str = ""
    temperature: float | None = None
    finished: bool = True


@dataclass(frozen=True)
class Item:
    """A prompt (with the turns before it) and the distinct answers to compare. `item_id` is made from their texts."""

    prompt: str
    answers: tuple[Candidate, ...]
    context: tuple[Turn, ...] = ()

    @property
    def item_id(self) -> str:
        said = [part for turn in self.context for part in (turn.role, turn.content)]
        return hashlib.sha256("\0".join([*said, self.prompt, *(a.text for a in self.answers)]).encode()).hexdigest()[
            :24
        ]

    def to_json(self) -> dict[str, Any]:
        return {"item_id": self.item_id, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Item:
        turns = tuple(Turn(**turn) for turn in data.get("context", ()))
        return cls(data["prompt"], tuple(Candidate(**answer) for answer in data["answers"]), turns)


@dataclass(frozen=True)
class Judgement:
    """One annotator's word on one item.

    `ranks`: by answer, in the item's order; None where the item was skipped. `order`: the answers as they were shown,
    first to last. `confidence`: 1 a guess to 3 certain, None if not said. `seconds`: how long the page showed the item.
    `submitted_at`: ISO 8601, UTC.
    """

    item_id: str
    annotator: str
    ranks: tuple[int, ...] | None
    order: tuple[int, ...]
    seconds: float
    submitted_at: str
    confidence: int | None = None
    comment: str = ""
    instructions_version: int = 0
    instructions_sha256: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Judgement:
        """From a stored line; fields of the store itself are left aside."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        ranks = data["ranks"]
        return cls(**{**known, "ranks": None if ranks is None else tuple(ranks), "order": tuple(data["order"])})


def make_items(
    prompts: Sequence[str], answers: Sequence[Sequence[Candidate]], source: str = "sampled answers"
) -> tuple[list[Item], list[LeftOut]]:
    """Items of the distinct answers to each prompt, and prompts with fewer than two, with the reason."""
    items: dict[str, Item] = {}
    left_out = []
    for line, (prompt, group) in enumerate(zip(prompts, answers, strict=True)):
        distinct = {a.text.strip(): a for a in reversed(group) if a.text.strip()}
        kept = tuple(a for a in group if distinct.get(a.text.strip()) is a)
        item = Item(prompt, kept)
        reason = ""
        if not prompt.strip():
            reason = "prompt is empty"
        elif len(kept) < 2:
            empty = sum(not a.text.strip() for a in group)
            reason = f"{len(kept)} distinct answer of {len(group)} ({empty} empty): a comparison needs two"
        elif item.item_id in items:
            reason = "the same prompt with the same answers stands further up"
        if reason:
            left_out.append(LeftOut(source, "", line, reason, prompt[:MAX_EXCERPT]))
        else:
            items[item.item_id] = item
    return list(items.values()), left_out


def batch_id(items: Iterable[Item]) -> str:
    """Name of a batch: the same items, in any order, are the same batch."""
    return hashlib.sha256("\n".join(sorted(item.item_id for item in items)).encode()).hexdigest()[:32]


# -- asking --------------------------------------------------------------------------------------------------------


def shown_order(item: Item, annotator: str) -> tuple[int, ...]:
    """The answers of an item in the order in which this annotator sees them: random over annotators and items, and the
    same after a reload."""

    def draw(index: int) -> bytes:
        return hashlib.sha256(f"{item.item_id}\0{annotator}\0{index}".encode()).digest()

    return tuple(sorted(range(len(item.answers)), key=draw))


def newest(judgements: Iterable[Judgement]) -> list[Judgement]:
    """The last word of each annotator on each item; of one annotator's the later stands further down."""
    last: dict[tuple[str, str], Judgement] = {}
    for one in judgements:
        last[one.annotator, one.item_id] = one
    return list(last.values())


def next_item(
    items: Sequence[Item], judgements: Sequence[Judgement], annotator: str, overlap: int, in_hand: Mapping[str, int]
) -> Item | None:
    """What the annotator should see next; None when there is nothing left for them.

    Each item goes to `overlap` annotators, begun ones first. `in_hand`: how many others have an item before them now;
    such items come last, and are never refused, so nobody waits for anybody.
    """
    handled: dict[str, set[str]] = defaultdict(set)
    for one in judgements:
        handled[one.item_id].add(one.annotator)

    def order(item: Item) -> tuple[bool, int, bytes]:
        done = len(handled[item.item_id])
        taken = done + in_hand.get(item.item_id, 0) >= overlap
        return taken, -done, hashlib.sha256(f"{annotator}\0{item.item_id}".encode()).digest()

    mine = (i for i in items if annotator not in handled[i.item_id] and len(handled[i.item_id]) < overlap)
    return min(mine, key=order, default=None)


@dataclass(frozen=True)
class Progress:
    """`done` of `wanted` judgements (items × overlap, skips count as done); `open_items` still lack some."""

    done: int
    wanted: int
    open_items: int
    by_annotator: Mapping[str, int]


def progress(items: Sequence[Item], judgements: Iterable[Judgement], overlap: int) -> Progress:
    """How far a batch is."""
    last = newest(judgements)
    known = {item.item_id for item in items}
    counts = Counter(one.item_id for one in last if one.item_id in known)
    return Progress(
        done=sum(min(overlap, counts[item.item_id]) for item in items),
        wanted=overlap * len(items),
        open_items=sum(counts[item.item_id] < overlap for item in items),
        by_annotator=Counter(one.annotator for one in last if one.item_id in known),
    )


def judged(
    item: Item,
    annotator: str,
    places: Sequence[int] | None,
    *,
    seconds: float,
    submitted_at: str,
    confidence: int | None = None,
    comment: str = "",
    instructions_version: int = 0,
    instructions_sha256: str = "",
) -> Judgement:
    """A judgement from a filled-in form; `places[j]` is the place of the j-th answer shown, None for a skip.

    Places are made dense (1, 3, 3 becomes 1, 2, 2). Raises ValueError naming the field that is wrong.
    """
    order = shown_order(item, annotator)
    ranks = None
    if places is not None:
        if len(places) != len(order) or any(isinstance(p, bool) or not isinstance(p, int) or p < 1 for p in places):
            raise ValueError(f"places must be {len(order)} whole numbers from 1 up, got {list(places)!r}")
        dense = {place: rank for rank, place in enumerate(sorted(set(places)), 1)}
        ranks = tuple(dense[places[order.index(i)]] for i in range(len(order)))
    if confidence is not None and confidence not in CONFIDENCES:
        raise ValueError(f"confidence must be one of {', '.join(map(str, CONFIDENCES))} or nothing, got {confidence!r}")
    if not math.isfinite(seconds) or seconds < 0:
        raise ValueError(f"seconds must be a number from 0 up, got {seconds!r}")
    if len(comment) > MAX_COMMENT:
        raise ValueError(f"the comment has {len(comment)} characters; it takes {MAX_COMMENT}")
    return Judgement(
        item.item_id,
        annotator,
        ranks,
        order,
        round(seconds, 3),
        submitted_at,
        confidence,
        comment,
        instructions_version,
        instructions_sha256,
    )


# -- what they say -------------------------------------------------------------------------------------------------


def preferences_from(items: Sequence[Item], judgements: Iterable[Judgement]) -> tuple[list[Preference], int]:
    """A preference for each two answers that a judgement ranks apart, and how many it ties."""
    by_id = {item.item_id: item for item in items}
    made: list[Preference] = []
    ties = 0
    for one in newest(judgements):
        item = by_id.get(one.item_id)
        if item is None or one.ranks is None:
            continue
        for first, second in combinations(range(len(item.answers)), 2):
            if one.ranks[first] == one.ranks[second]:
                ties += 1
                continue
            better, worse = (first, second) if one.ranks[first] < one.ranks[second] else (second, first)
            a, b = item.answers[better], item.answers[worse]
            made.append(
                Preference(
                    item.prompt,
                    a.text,
                    b.text,
                    pair_id(item.prompt, a.text, b.text, item.context),
                    one.annotator,
                    a.finished,
                    b.finished,
                    source="people",
                    confidence=None if one.confidence is None else (one.confidence - 1) / 2,
                    context=item.context,
                )
            )
    return made, ties


def pair_labels(judgements: Iterable[Judgement]) -> dict[str, dict[str, dict[tuple[int, int], int]]]:
    """By item, annotator and pair of answers (i < j): +1 where i is better, −1 where j is, 0 for a tie."""
    labels: dict[str, dict[str, dict[tuple[int, int], int]]] = {}
    for one in newest(judgements):
        if one.ranks is not None:
            ranks = one.ranks
            labels.setdefault(one.item_id, {})[one.annotator] = {
                (i, j): (ranks[j] > ranks[i]) - (ranks[j] < ranks[i]) for i, j in combinations(range(len(ranks)), 2)
            }
    return labels


def first_shown_shares(judgements: Iterable[Judgement]) -> list[float]:
    """By judgement that ranks anything apart: the share of its pairs without ties in which the answer shown earlier
    won; 0.5 on average where position does not matter."""
    shares = []
    for one in newest(judgements):
        if one.ranks is None:
            continue
        ranks = [one.ranks[i] for i in one.order]
        won = [first < second for first, second in combinations(ranks, 2) if first != second]
        if won:
            shares.append(sum(won) / len(won))
    return shares


@dataclass(frozen=True)
class Comparison:
    """Two models' answers to one prompt as a judgement has them: `outcome` 1 where `a` won, 0 where `b` did, 0.5 for a
    tie. `group`: what is not independent (the item)."""

    a: str
    b: str
    outcome: float
    group: str = ""


def comparisons(items: Sequence[Item], judgements: Iterable[Judgement]) -> list[Comparison]:
    """Every pair of answers of different models that a judgement compares."""
    by_id = {item.item_id: item for item in items}
    found = []
    for item_id, by_annotator in pair_labels(judgements).items():
        if item_id not in by_id:
            continue
        names = [origin(answer) for answer in by_id[item_id].answers]
        for labels in by_annotator.values():
            for (i, j), label in labels.items():
                if names[i] and names[j] and names[i] != names[j]:
                    found.append(Comparison(names[i], names[j], (label + 1) / 2, item_id))
    return found


def origin(answer: Candidate) -> str:
    """What a ranking of models calls the source of an answer: "sft at 0.7"."""
    return (
        f"{answer.model} at {answer.temperature:g}" if answer.model and answer.temperature is not None else answer.model
    )
