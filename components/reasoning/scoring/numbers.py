"""Numbers in texts, exactly: fractions, never floats."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_MAX_DIGITS = 300  # a longer number is no answer, and Python refuses to read one of more than 4,300 digits

# A sign counts only where no number or word stands before it: "pages 10-12" ends in 12. A fraction has no blank in it.
_NUMBER = re.compile(
    r"(?<![\w.])[-−–+]?[$€£]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/[1-9]\d*(?![\d.]))?"
    r"|(?<![\w.])[-−–+]?[$€£]?\.\d+"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/[1-9]\d*(?![\d.]))?"
)
_LATEX_FRACTION = re.compile(r"(?:([-−–]) ?)?\\[dt]?frac ?\{ ?([-−–]?\d+) ?\} ?\{ ?([1-9]\d*) ?\}")
_TERM = re.compile(r"(?<=\d)(?=[-+]\d)")


def number_in(text: str, last: bool = True) -> Fraction | None:
    """The last (or first) number of a text, exactly: "1,600", "$18.00", "-3", "7.5", "3/4", "\\frac{1}{2}", "50%".

    None where there is none, and where it has so many digits that it is no answer."""
    plain = _LATEX_FRACTION.sub(lambda m: f" {m[1] or ''}{m[2]}/{m[3]} ", text.replace("\\$", "$").replace("{,}", ","))
    found = [match[0] for match in _NUMBER.finditer(plain)]
    return as_number(found[-1 if last else 0]) if found else None


def last_term(text: str) -> Fraction | None:
    """As `number_in`, of a chain of sums, in which a sign always counts: "45-6" is a step that was not done and ends in
    −6, not an answer of 6."""
    return number_in(_TERM.sub(" ", text))


def as_number(text: str) -> Fraction | None:
    """A text that is nothing but a number, exactly; None for any other, and for one of hundreds of digits."""
    plain = re.sub(r"[\s,$€£]", "", text).replace("−", "-").replace("–", "-").removesuffix("%")
    top, slash, bottom = plain.partition("/")
    try:
        if max(len(top), len(bottom)) > _MAX_DIGITS:
            return None
        value, divisor = Decimal(top), Decimal(bottom) if slash else Decimal(1)
        if not (value.is_finite() and divisor.is_finite()) or not divisor:
            return None
        if max(abs(value.adjusted()), abs(divisor.adjusted())) > _MAX_DIGITS:
            return None
        return Fraction(value) / Fraction(divisor)
    except InvalidOperation:
        return None


def shown(value: Fraction) -> str:
    """A number as people write it."""
    if value.denominator == 1:
        return str(value.numerator)
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return f"{decimal.normalize():f}" if Fraction(decimal) == value else f"{value.numerator}/{value.denominator}"
