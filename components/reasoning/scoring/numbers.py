"""Numbers in texts, exactly: fractions, never floats."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal, InvalidOperation
from fractions import Fraction

_MAX_DIGITS = 300  # a longer number is no answer, and Python refuses to read one of more than 4,300 digits

# A sign counts only where no number or word stands before it: "pages 10-12" ends in 12. A fraction has no blank in it.
_MONEY = "$€£¥₹"
_NUMBER = re.compile(
    rf"(?<![\w.])[-−–+]?[{_MONEY}]?(?:\d{{1,3}}(?:,\d{{3}})+(?!\d)|\d+)(?:\.\d+)?(?:/[1-9]\d*(?![\d.]))?"
    rf"|(?<![\w.])[-−–+]?[{_MONEY}]?\.\d+"
    r"|(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/[1-9]\d*(?![\d.]))?"
)
_GROUPED = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+|\d{1,2}(?:,\d{2})+,\d{3})(?![\d,])")
_TERM = re.compile(r"(?<=\d)(?=[-+]\d)")

# Other ways to write numbers, and how each is written for `_NUMBER`.
_VULGAR = {mark: Fraction(unicodedata.numeric(mark)).limit_denominator(10) for mark in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅐⅛⅜⅝⅞⅑⅒"}
_MIXED_VULGAR = re.compile(rf"(\d*) ?([{''.join(_VULGAR)}])")
_LATEX_FRACTION = re.compile(
    r"(?:([-−–]) ?)?(?<![\d.,])(\d{0,9}) ?\\[dt]?frac ?(?:\{ ?([-−–]?\d+) ?\} ?\{ ?([1-9]\d*) ?\}|(\d) ?([1-9]))"
)
_MIXED = re.compile(r"(?<![\w.,/])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\d/.,])")
_POWER_OF_TEN = re.compile(
    r"(?<![\w.,])(\d+(?:\.\d+)?) ?(?:(?:×|\\times|\\cdot|[*x·]) ?10 ?(?:\^|\*\*) ?\{? ?([-−–+]?\d{1,3}) ?\}?"
    r"|[eE]([-+]?\d{1,3}))(?![\w^])"
)
_POWER = re.compile(r"(?<![\w.,^*)}])(\d{1,9}) ?\^ ?\{? ?(\d{1,2}) ?\}?(?![\w^])")
_SPACED = re.compile(r"(?<=\d)(?:\\[,!;:]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_INDIAN = re.compile(r"(?<![\d.,])\d{1,2}(?:,\d{2})+,\d{3}(?![\d])")
# Commas before decimals where nothing else can be meant: "1.234,56", "1.234.567", "€7,50", "7,50 €".
_CONTINENTAL = re.compile(
    r"(?<![\d.,])(?:\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}|(?<=[€£$])\d+,\d{1,2}|\d+,\d{1,2}(?= ?(?:€|EUR\b)))"
    r"(?!\d|[.,]\d)"
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile(r"(?<=\d)[⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")


def number_in(text: str, last: bool = True) -> Fraction | None:
    """The last (or first) number of a text, exactly: "1,600", "$18.00", "-3", "7.5", "3/4", "\\frac{1}{2}", "50%",
    "3 1/2", "1½", "2.5 × 10^3", "1.234,56".

    None where there is none, and where it has so many digits that it is no answer."""
    found = [match[0] for match in _NUMBER.finditer(_plain(text))]
    return as_number(found[-1 if last else 0]) if found else None


def _plain(text: str) -> str:
    """With every number as `_NUMBER` finds it."""
    plain = _SPACED.sub(",", text.replace("\\$", "$").replace("{,}", ","))
    plain = _CONTINENTAL.sub(lambda m: m[0].replace(".", "").replace(",", "."), plain)
    plain = _INDIAN.sub(lambda m: m[0].replace(",", ""), plain)
    plain = _LATEX_FRACTION.sub(_latex_fraction, plain)
    plain = _MIXED_VULGAR.sub(lambda m: f" {_written(int(m[1] or 0) + _VULGAR[m[2]])} ", plain)
    plain = _MIXED.sub(_mixed, plain)
    plain = _RAISED.sub(lambda m: "^" + m[0].translate(_SUPERSCRIPTS), plain)
    plain = _POWER_OF_TEN.sub(_times_power, plain)
    return _POWER.sub(lambda m: str(int(m[1]) ** int(m[2])), plain)


def _written(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def _latex_fraction(match: re.Match[str]) -> str:
    sign, whole, top, bottom = match[1] or "", match[2], match[3] or match[5], match[4] or match[6]
    if not whole:
        return f" {sign}{top}/{bottom} "
    if top[0] in "-−–" or int(top) >= int(bottom):
        return f"{sign}{whole} {top}/{bottom} "
    return f" {sign}{int(whole) * int(bottom) + int(top)}/{bottom} "


def _mixed(match: re.Match[str]) -> str:
    whole, top, bottom = (int(part) for part in match.groups())
    return f"{whole * bottom + top}/{bottom}" if 0 < top < bottom else match[0]


def _times_power(match: re.Match[str]) -> str:
    power = int((match[2] or match[3]).replace("−", "-").replace("–", "-"))
    value = Decimal(match[1]).scaleb(power)
    return f"{value:f}" if abs(power) <= _MAX_DIGITS else match[0]


def last_term(text: str) -> Fraction | None:
    """As `number_in`, of a chain of sums, in which a sign always counts: "45-6" is a step that was not done and ends in
    −6, not an answer of 6."""
    return number_in(_TERM.sub(" ", text))


def as_number(text: str) -> Fraction | None:
    """A text that is nothing but a number, exactly; None for any other, and for one of hundreds of digits."""
    if "," in text and not _GROUPED.search(text):
        return None  # "2,5" may be a decimal or a list
    plain = re.sub(rf"[\s,{_MONEY}]", "", text).replace("−", "-").replace("–", "-").removesuffix("%")
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
