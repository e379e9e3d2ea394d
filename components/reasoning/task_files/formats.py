"""The formats of task files: how one is told from its first record, and what its records say.

A format reads a record into `Read` parts, or says why it cannot. The scorer "" is chosen by the answers
(`components.reasoning.scoring.scorers.scorer_for`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.prompt_files import as_text
from components.reasoning.scoring.numbers import as_number
from components.reasoning.scoring.text import boxed, marked

Row = Mapping[str, Any]
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_LABELLED = re.compile(r"\(?([A-Z])\s*[).:]\s*")
_OPTION_COLUMNS = ("choices", "options", "endings")
_GOLD_COLUMNS = ("answerKey", "correct", "answer", "label", "gold", "target", "answer_index", "answer_idx")
_QUESTIONS = ("question", "problem", "prompt", "input", "query", "instruction", "Question", "Problem")
_ANSWERS = ("answer", "target", "solution", "gold", "expected", "output", "label", "final_answer", "Answer")
_LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Part:
    """One question of a record. worked: a solution with its steps, as an example shows it; "" where there is none.
    group: what else depends on the same text (the cluster), "" where nothing does."""

    question: str
    answer: str
    worked: str = ""
    group: str = ""
    id: str = ""


class Unusable(ValueError):
    """What a record lacks."""


@dataclass(frozen=True)
class Columns:
    """Columns that the user named; "" where the format knows."""

    question: str = ""
    answer: str = ""
    cluster: str = ""
    id: str = ""


@dataclass(frozen=True)
class Format:
    """takes: whether a record is of this format. read: its questions. scorer: how answers are found and compared.
    cluster: in words, which items depend on each other."""

    name: str
    takes: Callable[[Row], bool]
    read: Callable[[Row, Columns], Iterator[Part]]
    scorer: str = ""
    cluster: str = ""


def _gsm8k(row: Row, columns: Columns) -> Iterator[Part]:
    solution = _CALCULATOR.sub("", _text(row, "answer"))
    answer = marked(solution, ("####",), finished=True)
    if not answer:
        raise Unusable("the answer has no line that begins with ####")
    worked = solution.rpartition("####")[0].strip() + f"\nThe answer is {answer}."
    yield Part(_text(row, "question"), answer, worked)


def _svamp(row: Row, columns: Columns) -> Iterator[Part]:
    body = _text(row, "Body").strip()
    stop = "" if body.endswith((".", "?", "!")) else "."
    yield Part(f"{body}{stop} {_text(row, 'Question').strip()}", as_text(row.get("Answer")), "", body, _text(row, "ID"))


def _choice(row: Row, columns: Columns) -> Iterator[Part]:
    """Options as a list, as {text, label}, or in columns A to D; the gold as a letter, a place from 0, or a text."""
    question = _text(row, columns.question or _first(row, _QUESTIONS, "question"))
    labels, options = _options(row)
    if not 2 <= len(options) <= 26:
        raise Unusable(f"{len(options)} options; it takes 2 to 26")
    gold = columns.answer or _first(row, _GOLD_COLUMNS, "right answer")
    letter = _letter(row[gold], labels, options)
    if not letter:
        raise Unusable(f"the answer {as_text(row[gold])[:40]!r} is none of the {len(options)} options")
    shown = "\n".join(f"({chr(65 + place)}) {text}" for place, text in enumerate(options))
    rationale = as_text(row.get("rationale") or row.get("explanation") or row.get("solution") or "").strip()
    worked = f"{rationale}\nThe answer is ({letter})." if rationale else ""
    yield Part(f"{question}\n{shown}", letter, worked, "", as_text(row.get("id", "")))


def _options(row: Row) -> tuple[list[str], list[str]]:
    """Labels and texts of the options."""
    for name in _OPTION_COLUMNS:
        held = row.get(name)
        if isinstance(held, Mapping) and isinstance(held.get("text"), Sequence):
            texts = [as_text(one).strip() for one in held["text"]]
            labels = [as_text(one) for one in held.get("label", ())] or [chr(65 + n) for n in range(len(texts))]
            return labels, texts
        if isinstance(held, Mapping) and all(isinstance(key, str) and len(key) == 1 for key in held):
            return list(held), [as_text(one).strip() for one in held.values()]
        if isinstance(held, Sequence) and not isinstance(held, str):
            texts = [as_text(one).strip() for one in held]
            if all(_LABELLED.match(text) for text in texts):
                return [_LABELLED.match(text)[1] for text in texts], [  # type: ignore[index]  # it was looked at
                    _LABELLED.sub("", text, count=1) for text in texts
                ]
            return [chr(65 + place) for place in range(len(texts))], texts
    if all(name in row for name in _LETTERS):
        there = [name for name in (*_LETTERS, "E") if as_text(row.get(name))]
        return there, [as_text(row[name]) for name in there]
    raise Unusable(f"no options: neither {', '.join(_OPTION_COLUMNS)} nor the columns A, B, C, D")


def _letter(gold: object, labels: Sequence[str], options: Sequence[str]) -> str:
    """The letter by which the right option is shown."""
    if isinstance(gold, float) and gold == int(gold):
        gold = int(gold)
    text = as_text(gold).strip()
    alone = re.fullmatch(r"\(?\s*(\w+)\s*[).:]?", text)
    if isinstance(gold, int) and not isinstance(gold, bool):
        if text in labels:
            return chr(65 + labels.index(text))
        return chr(65 + gold) if 0 <= gold < len(options) else ""
    if alone and alone[1] in labels:
        return chr(65 + labels.index(alone[1]))
    if text.isdigit() and int(text) < len(options):
        return chr(65 + int(text))
    places = [place for place, option in enumerate(options) if option == text]
    return chr(65 + places[0]) if len(places) == 1 else ""


def _bbh(row: Row, columns: Columns) -> Iterator[Part]:
    for example in row.get("examples", [row]):
        if not isinstance(example, Mapping):
            raise Unusable(f"an example is {type(example).__name__}, not an object")
        yield Part(_text(example, "input").strip(), _text(example, "target").strip())


def _game24(row: Row, columns: Columns) -> Iterator[Part]:
    numbers = _text(row, "Puzzles").strip()
    yield Part(
        f"Use each of the numbers {numbers} exactly once, with + - * / and brackets, to make 24. "
        "Give one expression, such as (1 + 2) * 8 = 24.",
        numbers,
        id=as_text(row.get("Rank", "")),
    )


def _plain(row: Row, columns: Columns) -> Iterator[Part]:
    question = columns.question or _first(row, _QUESTIONS, "question")
    answer = columns.answer or _first(row, [name for name in _ANSWERS if name != question], "right answer")
    wanted = as_text(row.get(answer)).strip()
    announced = marked(_CALCULATOR.sub("", wanted), ("####",), finished=True) if "####" in wanted else ""
    inside = boxed(wanted) if "\\boxed" in wanted else ""
    short = announced or inside or wanted
    if not short:
        raise Unusable(f"the column {answer!r} is empty")
    solution = as_text(row.get("solution") or row.get("rationale") or (wanted if short != wanted else "")).strip()
    worked = f"{solution}\nThe answer is {short}." if solution and solution != short else ""
    yield Part(_text(row, question), short, worked, "", as_text(row.get(columns.id or "id", "")))


def _text(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None or not as_text(value).strip():
        raise Unusable(f"no column {name!r}; the record has {', '.join(sorted(map(str, row))[:8]) or 'none'}")
    return as_text(value)


def _first(row: Row, names: Sequence[str], what: str) -> str:
    """The first of these columns that the record has."""
    found = next((name for name in names if row.get(name) is not None), "")
    if not found:
        raise Unusable(
            f"no column with the {what}: tried {', '.join(names)}; the record has {', '.join(map(str, row))}"
        )
    return found


def _has_options(row: Row) -> bool:
    try:
        _options(row)
    except Unusable:
        return False
    return any(name in row for name in _GOLD_COLUMNS)


FORMATS: Mapping[str, Format] = {
    one.name: one
    for one in (
        Format("gsm8k", lambda r: "question" in r and "####" in str(r.get("answer", "")), _gsm8k, "number"),
        Format("svamp", lambda r: {"Body", "Question", "Answer"} <= set(r), _svamp, "number", "items with one body"),
        Format("aqua", lambda r: {"question", "options", "correct"} <= set(r), _choice, "choice"),
        Format("choice", _has_options, _choice, "choice"),
        Format("game24", lambda r: "Puzzles" in r, _game24, "game24"),
        Format(
            "mawps",
            lambda r: set(r) == {"input", "target"} and as_number(str(r["target"])) is not None,
            _plain,
            "number",
        ),
        Format(
            "bbh",
            lambda r: isinstance(r.get("examples"), list) or set(r) == {"input", "target"},
            _bbh,
            "",
            "items of one file",
        ),
        Format("plain", lambda r: True, _plain),
    )
}
