"""Where a text says its answer: behind a marker, in a box, as its last number or letter, or as a whole.

Thoughts (`<think>…</think>`) are no answer, and a text that goes on to recite the next question ends there. A text that
was cut off has an answer only where a marker announced it before the cut, and text follows it: "#### 1" may have been
on its way to "#### 18".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from fractions import Fraction

MARKERS = ("####", "the final answer is", "the answer is", "final answer:", "answer:")
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)
_RECITED = re.compile(r"\n\s*(?:Q|Question|Problem)\s*:")
_MAX_DIGITS = 300  # a longer number is no answer, and Python refuses to read one of more than 4,300 digits

# A sign counts only where no number or word stands before it: "pages 10-12" ends in 12. A fraction has no blank in it.
_NUMBER = re.compile(
    r"(?<![\w.])[-−–+]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/[1-9]\d*(?![\d.]))?"
    r"|(?<![\w.])[-−–+]?[$€£]?\.\d+"
    r"|(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/[1-9]\d*(?![\d.]))?"
)
_LATEX_FRACTION = re.compile(r"([-−–]?)\s*\\[dt]?frac\s*\{\s*([-−–]?\d+)\s*\}\s*\{\s*([1-9]\d*)\s*\}")
_LETTER_IN_PARENTHESES = re.compile(r"\(\s*([A-Z])\s*\)")
_LETTER = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")


def spoken(text: str) -> str:
    """The part of an answer that speaks to the user: without thoughts, up to a recited next question."""
    without = _THOUGHT.sub("", text)
    if "</think>" in without:  # a template may have opened the thought in the prompt
        without = without.rpartition("</think>")[2]
    without = without.partition("<think>")[0]
    return _RECITED.split(without, maxsplit=1)[0]


def boxed(text: str) -> str:
    """What the last `\\boxed{…}` holds, braces nested; "" where there is none that is closed."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if not depth:
                return text[start + len("\\boxed{") : place].strip()
        start = text.rfind("\\boxed{", 0, start)
    return ""


def after_marker(text: str, markers: Sequence[str] = MARKERS, finished: bool = True) -> str:
    """The rest of the line behind the last marker, case ignored; "" where no marker stands. Of a text that was cut off
    only a line that another follows."""
    lowered = text.lower()
    found = max(((lowered.rfind(marker.lower()), len(marker)) for marker in markers), default=(-1, 0))
    if found[0] < 0:
        return ""
    line, newline, _ = text[found[0] + found[1] :].lstrip(" \t:*").partition("\n")
    return line.strip(" \t*") if newline or finished else ""


def marked(text: str, markers: Sequence[str], finished: bool) -> str:
    """What is announced as the answer: behind a marker or in a box, whichever stands later."""
    box, line = boxed(text), after_marker(text, markers, finished)
    if box and line:
        return boxed(line) or (box if text.rfind("\\boxed{") > _last(text, markers) else line)
    return box or line


def _last(text: str, markers: Sequence[str]) -> int:
    lowered = text.lower()
    return max((lowered.rfind(marker.lower()) for marker in markers), default=-1)


def number_in(text: str, last: bool = True) -> Fraction | None:
    """The last (or first) number of a text, exactly: "1,600", "$18.00", "-3", "7.5", "3/4", "\\frac{1}{2}", "50%"."""
    plain = _LATEX_FRACTION.sub(lambda m: f" {m[1]}{m[2]}/{m[3]} ", text.replace("\\$", "$").replace("{,}", ","))
    found = [parsed for match in _NUMBER.finditer(plain) if (parsed := as_number(match[0])) is not None]
    return found[-1 if last else 0] if found else None


def as_number(text: str) -> Fraction | None:
    """A text that is nothing but a number, exactly; None for any other, and for one of hundreds of digits."""
    plain = re.sub(r"[\s,$€£]", "", text).replace("−", "-").replace("–", "-").removesuffix("%")
    top, slash, bottom = plain.partition("/")
    try:
        if len(plain) > _MAX_DIGITS:
            return None
        value, divisor = Decimal(top), Decimal(bottom) if slash else Decimal(1)
        if not value.is_finite() or not divisor or abs(value.adjusted()) > _MAX_DIGITS:
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


def letter_in(text: str) -> str:
    """The last letter of an option: "(B)" before a B that stands alone; "" where there is none."""
    for pattern in (_LETTER_IN_PARENTHESES, _LETTER):
        letters = pattern.findall(text)
        # "A" and "I" alone are words more often than options: where another letter stands, it is meant.
        wanted = [x for x in letters if pattern is _LETTER_IN_PARENTHESES or x not in ("A", "I")] or letters
        if wanted:
            return str(wanted[-1])
    return ""
