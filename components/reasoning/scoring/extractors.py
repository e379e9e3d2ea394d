"""The ways to find an answer in a text, by name and version.

An extractor is handed what `spoken` leaves of a text, and gives the answer as text, "" where it finds none. One whose
result on any text changes gets the next version: a verdict says by which it was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from components.reasoning.scoring.numbers import number_in, shown
from components.reasoning.scoring.symbolic import as_latex, expressions
from components.reasoning.scoring.text import boxed, code_block, marked

_LETTER_IN_PARENTHESES = re.compile(r"\(\s*([A-Z])\s*\)")
_LETTER = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
_LETTER_FIRST = re.compile(r"\(?([A-Z])(?:[).:]|\b)")
_LETTER_ALONE = re.compile(r"\(?\s*([A-Za-z])\s*[).:]?")
_OPTION = re.compile(r"(?:option|choice|answer)\s+(?=[(\[]?[A-Z]\b)", re.IGNORECASE)
_UNDRESSED = re.compile(r"\\(?:text|textbf|mathbf|mathrm|boxed)(?=\{)|[*_${}]")
_YES_OR_NO = re.compile(r"[\W_]*(yes|no|true|false)\b", re.IGNORECASE)
# A sum and what it comes to: "3 + 4 = 7".
_WORKED_OUT = re.compile(
    r"[\s$\\(\[]*[-−–]?[$€£]?[\d.,]+(?:\s*(?:[-+*/×÷·−–^x]|\\times|\\div|\\cdot)\s*[$€£]?[\d.,()]+)+%?\s*=\s*(?=\S)"
)
_COMMA_DECIMAL = re.compile(r"\A(\D*\d+),(\d{1,2})(?![\d,]|\.\d)")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclass(frozen=True)
class Extractor:
    """announced: it looks only where a marker or a box announces the answer, so that it may read a text that was cut.
    read: of (text, markers, finished)."""

    name: str
    version: int
    read: Callable[[str, Sequence[str], bool], str]
    announced: bool = False

    @property
    def label(self) -> str:
        """As verdicts name it: "last-number/1"."""
        return f"{self.name}/{self.version}"


def letter_alone(text: str) -> str:
    """The letter of a text that is nothing but the letter of an option: "B", "(b)", "B."; "" of any other."""
    alone = _LETTER_ALONE.fullmatch(text.strip())
    return alone[1].upper() if alone else ""


def letter_in(text: str) -> str:
    """The last letter of an option: "(B)" before a B that stands alone; "" where there is none."""
    for pattern in (_LETTER_IN_PARENTHESES, _LETTER):
        letters = pattern.findall(text)
        # "A" and "I" alone are words more often than options: where another letter stands, it is meant.
        wanted = [x for x in letters if pattern is _LETTER_IN_PARENTHESES or x not in ("A", "I")] or letters
        if wanted:
            return str(wanted[-1])
    return ""


def _marked_number(text: str, markers: Sequence[str], finished: bool) -> str:
    """The first number of an announcement; of "3 + 4 = 7" what it comes to, of "2,5" the decimal: a number was asked
    for, and a comma between digits of which fewer than three follow groups none."""
    announced = marked(text, markers, finished)
    while worked_out := _WORKED_OUT.match(announced):
        announced = announced[worked_out.end() :]
    return _number(_COMMA_DECIMAL.sub(r"\1.\2", announced, count=1), last=False)


def _yes_or_no(text: str) -> str:
    """The yes, no, true or false with which a text begins, as it stands; "" where it begins otherwise."""
    found = _YES_OR_NO.match(text)
    return found[1] if found else ""


def _number(text: str, last: bool) -> str:
    value = number_in(text, last=last)
    return "" if value is None else shown(value)


def _marked_letter(text: str, markers: Sequence[str], finished: bool) -> str:
    """The letter that an announcement is or begins with ("B) 12 apples", "(B) since A is too small"), else its last."""
    announced = _OPTION.sub("", _UNDRESSED.sub("", marked(text, markers, finished)))
    first = _LETTER_FIRST.match(announced)
    return letter_alone(announced) or (first[1] if first else letter_in(announced))


def _marked_expression(text: str, markers: Sequence[str], finished: bool) -> str:
    announced = marked(text, markers, finished)
    latex = as_latex(announced) if announced else ""
    return latex if latex and expressions(latex) else ""


def _expression(text: str) -> str:
    """The last expression as it is written, where it can be read on its own, else the text that holds it."""
    found = expressions(text)
    written = as_latex(str(found[-1])) if found else ""
    return (written if expressions(written) else text) if found else ""


def _word(text: str, last: bool) -> str:
    words = _WORD.findall(text)
    return words[-1 if last else 0] if words else ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


EXTRACTORS: Mapping[str, Extractor] = {
    extractor.name: extractor
    for extractor in (
        # what a marker announces or a box holds, whichever stands later
        Extractor("marked", 2, marked, announced=True),
        Extractor("marked-number", 2, _marked_number, announced=True),
        Extractor("marked-letter", 2, _marked_letter, announced=True),
        Extractor("marked-word", 2, lambda t, m, f: _word(marked(t, m, f), last=False), announced=True),
        Extractor("marked-yes-no", 1, lambda t, m, f: _yes_or_no(marked(t, m, f)), announced=True),
        Extractor("marked-expression", 2, _marked_expression, announced=True),
        Extractor("boxed", 1, lambda t, m, f: boxed(t), announced=True),
        # what the text says without announcing it
        Extractor("last-number", 2, lambda t, m, f: _number(t, last=True)),
        Extractor("first-number", 2, lambda t, m, f: _number(t, last=False)),
        Extractor("letter", 1, lambda t, m, f: letter_alone(t) or letter_in(t)),
        Extractor("last-word", 1, lambda t, m, f: _word(t, last=True)),
        Extractor("first-word", 1, lambda t, m, f: _word(t, last=False)),
        Extractor("yes-no", 1, lambda t, m, f: _yes_or_no(t)),  # with which a text begins
        Extractor("expression", 1, lambda t, m, f: _expression(t)),
        Extractor("last-line", 1, lambda t, m, f: _last_line(t)),
        Extractor("line", 1, lambda t, m, f: "" if "\n" in t.strip() else t.strip()),  # a text that is one line
        Extractor("whole", 1, lambda t, m, f: t.strip()),
        Extractor("code", 1, lambda t, m, f: (code_block(t) or "").strip()),
    )
}
