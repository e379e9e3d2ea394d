"""The ways to compare an answer with a reference, by name and version: exact, never by floats."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from components.reasoning.scoring import symbolic
from components.reasoning.scoring.countdown import solves
from components.reasoning.scoring.extractors import letter_alone
from components.reasoning.scoring.numbers import as_number, number_in
from components.reasoning.scoring.text import marked


@dataclass(frozen=True)
class Equality:
    """refusal: why nothing can be compared with a reference, "" where it can. equal: of (found, reference)."""

    name: str
    version: int
    refusal: Callable[[str], str]
    equal: Callable[[str, str], bool]

    @property
    def label(self) -> str:
        """As reports name it: "number/1"."""
        return f"{self.name}/{self.version}"


def reference_number(answer: str) -> Fraction | None:
    """The number of a reference, which may be a worked solution that ends in "#### 18", as those of GSM8K are."""
    return number_in(marked(answer, ("####",), finished=True) or answer)


def number(tolerance: float = 0.0, relative: float = 0.0) -> Equality:
    """Numbers within tolerance + relative · |reference| of the reference, as fractions: "1,600" is 1600.0."""

    def equal(found: str, reference: str) -> bool:
        value, wanted = as_number(found), reference_number(reference)
        if value is None or wanted is None:
            return False
        return abs(value - wanted) <= Fraction(tolerance) + Fraction(relative) * abs(wanted)

    def refusal(reference: str) -> str:
        return "" if reference_number(reference) is not None else f"{_quoted(reference)} holds no number"

    return Equality("number", 2, refusal, equal)


def plain(text: str) -> str:
    """In Unicode's NFC, with runs of blanks as one and without a final full stop."""
    return " ".join(unicodedata.normalize("NFC", text).split()).removesuffix(".")


def text(ignore_case: bool = False) -> Equality:
    """Texts alike in `plain`; ignore_case: also without case."""

    def form(value: str) -> str:
        return plain(value).casefold() if ignore_case else plain(value)

    name = "text-without-case" if ignore_case else "text"
    return Equality(
        name, 1, lambda r: "" if plain(r) else "the reference answer is empty", lambda f, r: form(f) == form(r)
    )


def expression(seconds: int = 5) -> Equality:
    """Expressions that are one as mathematics: ½ and 0.5, x² + 2x + 1 and (x + 1)², {1, 2} and {2, 1}."""

    def wanted(reference: str) -> tuple[object, ...]:
        announced = marked(reference, ("####",), finished=True) or reference
        return symbolic.expressions(symbolic.as_latex(announced), seconds)

    def refusal(reference: str) -> str:
        return "" if wanted(reference) else f"the reference {reference[:60]!r} is no mathematics"

    def equal(found: str, reference: str) -> bool:
        return symbolic.equal(wanted(reference), symbolic.expressions(found, seconds), seconds)

    return Equality("expression", 2, refusal, equal)


def _quoted(reference: str) -> str:
    return f"the reference answer {reference[:60]!r}"


EQUALITIES: Mapping[str, Equality] = {
    equality.name: equality
    for equality in (
        number(),
        text(),
        text(ignore_case=True),
        Equality(
            "letter",
            1,
            lambda r: "" if letter_alone(r) else f"{_quoted(r)} is no letter",
            lambda f, r: letter_alone(f) == letter_alone(r),
        ),
        expression(),
        Equality(
            "game-of-24",
            1,
            lambda r: (
                "" if r.split() and all(x.isdigit() for x in r.split()) else f"{_quoted(r)} is no list of numbers"
            ),
            solves,
        ),
    )
}
