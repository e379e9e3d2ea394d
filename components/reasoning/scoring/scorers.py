"""From a text and a reference to a verdict: how an answer is found and compared, and what became of a sample."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from components.reasoning.scoring.equality import EQUALITIES, Equality, reference_number
from components.reasoning.scoring.extractors import EXTRACTORS, Extractor, letter_alone
from components.reasoning.scoring.numbers import as_number
from components.reasoning.scoring.text import MARKERS, refuses, spoken

T = TypeVar("T")
_WORKED = re.compile(r"(?:^|\n)\s*(?:####|A:|Answer:)[^\n]*\d[^\n]*\s*$", re.IGNORECASE)
Status = Literal["answered", "unparsed", "truncated", "refused", "failed"]
"""answered: an answer was found and judged. unparsed: the text holds none. truncated: the length limit cut the text
before it gave one. refused: the model declined. failed: nothing is known about the answer, since its request, its
reference or its judge failed."""
STATUSES: tuple[Status, ...] = ("answered", "unparsed", "truncated", "refused", "failed")


@dataclass(frozen=True)
class Verdict:
    """On one sample. found: the answer that was taken from the text, by the extractor of that label. right: False
    unless it was answered. note: why it failed."""

    status: Status
    right: bool = False
    found: str = ""
    extractor: str = ""
    note: str = ""


@dataclass(frozen=True)
class Scorer:
    """extractors: tried in turn until one finds an answer. markers: what announces an answer, for extractors that go by
    it. marker_only: a text that announces no answer has none."""

    name: str
    extractors: tuple[Extractor, ...]
    equality: Equality
    markers: tuple[str, ...] = MARKERS
    marker_only: bool = False

    def find(self, text: str, finished: bool = True) -> tuple[str, str]:
        """The answer of a text and the label of the extractor that found it; both "" where there is none. A text that
        was cut off has none but an announced one, and one that refuses none either."""
        said = spoken(text)
        declined = refuses(said)
        for extractor in self.extractors:
            if not extractor.announced and (self.marker_only or not finished or declined):
                continue
            if found := extractor.read(said, self.markers, finished):
                return found, extractor.label
        return "", ""

    def judge(self, text: str, references: Sequence[str], finished: bool = True) -> Verdict:
        """Right where the answer equals any of the references; failed where none of them can be compared with."""
        refusals = [self.equality.refusal(reference) for reference in references]
        usable = [reference for reference, reason in zip(references, refusals, strict=True) if not reason]
        if not usable:
            return Verdict("failed", note=refusals[0] if refusals else "no reference answer")
        found, label = self.find(text, finished)
        if found:
            right = any(self.equality.equal(found, reference) for reference in usable)
            return Verdict("answered", right, found, label)
        if refuses(spoken(text)):
            return Verdict("refused")
        return Verdict("unparsed" if finished else "truncated")

    def same(self, answer: str, other: str) -> bool:
        """Whether two answers are one vote."""
        return answer == other or (
            self.equality.name != "game-of-24"
            and not self.equality.refusal(other)
            and self.equality.equal(answer, other)
        )

    @property
    def described(self) -> str:
        """With the versions of its parts."""
        chain = ", else ".join(extractor.label for extractor in self.extractors)
        return f"{self.name}: {chain}; equal as {self.equality.label}"


def _scorer(name: str, equality: str, *extractors: str, markers: tuple[str, ...] = MARKERS) -> Scorer:
    return Scorer(name, tuple(EXTRACTORS[extractor] for extractor in extractors), EQUALITIES[equality], markers)


SCORERS: Mapping[str, Scorer] = {
    scorer.name: scorer
    for scorer in (
        _scorer("number", "number", "marked-number", "last-number"),
        _scorer("choice", "letter", "marked-letter", "letter"),
        _scorer("text", "text", "marked", "line"),
        _scorer("exact", "text", "marked", "whole"),
        _scorer("word", "text-without-case", "marked-word", "last-word"),
        _scorer("yes-no", "text-without-case", "marked-yes-no", "yes-no"),
        _scorer("math", "expression", "marked-expression", "expression"),
        _scorer("game24", "game-of-24", "marked", "last-line", markers=("answer:",)),
        _scorer("code", "text", "code"),
    )
}


def chosen_scorer(name: str, extractors: Sequence[str] = (), equality: str = "", **settings: object) -> Scorer:
    """The scorer of that name, with other extractors, another equality, `markers` or `marker_only`.

    Raises ValueError for a name that there is not.
    """
    base = _named(SCORERS, name, "scorer")
    if extractors:
        base = replace(base, extractors=tuple(_named(EXTRACTORS, one, "extractor") for one in extractors))
    if equality:
        base = replace(base, equality=_named(EQUALITIES, equality, "equality"))
    return replace(base, **settings)  # type: ignore[arg-type]  # the fields of a Scorer


def _named(known: Mapping[str, T], name: str, what: str) -> T:
    if name not in known:
        raise ValueError(f"there is no {what} {name!r}: take one of {', '.join(known)}")
    return known[name]


def scorer_for(references: Sequence[str]) -> str:
    """The name of the scorer that the references call for.

    `number` where all are numbers or worked solutions that end in "#### 18" or "A: 18", `choice` where all are letters,
    `yes-no` where all are yes, no, true or false,
    `math` where any has LaTeX in it, `text` where all are lines, else `exact`.
    """
    if not references:
        return "exact"
    if all(letter_alone(reference) for reference in references):
        return "choice"
    if all(reference.strip().lower() in ("yes", "no", "true", "false") for reference in references):
        return "yes-no"
    if all(as_number(r) is not None or (_WORKED.search(r) and reference_number(r) is not None) for r in references):
        return "number"
    if any("\\" in reference or "$" in reference for reference in references):
        return "math"
    return "exact" if any("\n" in reference.strip() for reference in references) else "text"
