"""Preference files: read in any layout of `components/rlhf/layouts.py` and any container of
`components/data/records.py`, written as TRL (plain and chat), HH-RLHF or UltraFeedback have them.

What is no preference is named by file and line, with the reason, and the rest goes on.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.conversation_formats import Invalid
from components.data.records import Record, Rejected, decompressed, excerpt, lone_surrogate, read_records
from components.data.tolerant_read import TolerantRead
from components.rlhf.judgements import Candidate, Item, make_items
from components.rlhf.layouts import Line, pairs_of
from components.rlhf.preferences import MAX_EXCERPT, LeftOut, Preference, Turn

Format = Literal["trl", "trl-chat", "hh", "ultrafeedback"]
FORMATS: tuple[Format, ...] = ("trl", "trl-chat", "hh", "ultrafeedback")
_HH_NAMES = {"user": "Human", "assistant": "Assistant"}


class PreferenceFileError(ValueError):
    """A file that cannot be read as a whole, or holds no usable preference."""


@dataclass(frozen=True)
class Imported:
    """What a file gave. `lines`: where each preference stands. `ties`: comparisons that say nothing. `formats`: lines
    by layout."""

    preferences: tuple[Preference, ...]
    lines: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    ties: int
    formats: Mapping[str, int]


def read_file(path: Path, max_prompt_chars: int = 100_000) -> Imported:
    """Read a file of preferences record by record: JSON lines, a JSON array, CSV or Parquet, plain or compressed.

    Raises:
        PreferenceFileError: no such file, or not a single good record; names the first mistakes.
    """
    good: list[Preference] = []
    lines: list[int] = []
    bad: list[LeftOut] = []
    ties, formats = 0, defaultdict[str, int](int)
    for item in _items(path):
        found = item.reason if isinstance(item, Rejected) else _line(item.value, max_prompt_chars)
        if isinstance(found, str):
            bad.append(_left_out("preferences", path, item, found))
        else:
            good += found.pairs
            lines += [item.number] * len(found.pairs)
            ties += found.ties
            formats[found.layout] += 1
    if not good:
        raise PreferenceFileError(
            f"{path}: no usable preference: {_first(bad, 'only ties' if ties else 'it is empty')}"
        )
    return Imported(tuple(good), tuple(lines), tuple(bad), ties, dict(formats))


def _items(path: Path) -> Iterator[Record | Rejected]:
    if not path.is_file():
        raise PreferenceFileError(f"{path}: no such file")
    reading = TolerantRead()
    with path.open("rb") as stream:
        yield from reading.through(read_records(decompressed(stream), path.name))
    if reading.reason:
        yield Rejected(0, reading.reason, "")


def _line(row: object, max_prompt_chars: int) -> Line | str:
    try:
        return _within(pairs_of(row), max_prompt_chars)
    except Invalid as error:
        return excerpt(str(error), 300)


def _left_out(kind: str, path: Path, item: Record | Rejected, reason: str) -> LeftOut:
    shown = item.excerpt if isinstance(item, Rejected) else excerpt(item.value, MAX_EXCERPT)
    return LeftOut(kind, str(path), item.number, reason, shown)


def _first(bad: Sequence[LeftOut], otherwise: str) -> str:
    first = "; ".join(f"line {b.line}: {b.reason}" if b.line else b.reason for b in bad[:3]) or otherwise
    return f"{first} (and {len(bad) - 3} more)" if len(bad) > 3 else first


def _within(line: Line, max_prompt_chars: int) -> Line:
    for pair in line.pairs:
        length = len(pair.prompt) + sum(len(turn.content) for turn in pair.context)
        if length > max_prompt_chars:
            raise Invalid(f"the prompt has {length} characters: at most {max_prompt_chars}")
    return line


def read_answers(path: Path) -> tuple[list[Item], list[LeftOut]]:
    """Prompts with answers to be judged, a line each: {"prompt", "answers": [text or {"text", "model"}]}.

    Raises:
        PreferenceFileError: no such file, or no line with two distinct answers.
    """
    items: dict[str, Item] = {}
    bad: list[LeftOut] = []
    for item in _items(path):
        found = item.reason if isinstance(item, Rejected) else _item(item.value)
        reason = found if isinstance(found, str) else ""
        if isinstance(found, Item):
            made, why = make_items([found.prompt], [found.answers])
            reason = why[0].reason if why else ""
            if made and made[0].item_id in items:
                reason = "the same prompt with the same answers stands further up"
            elif made:
                items[made[0].item_id] = made[0]
        if reason:
            bad.append(_left_out("answers", path, item, reason))
    if not items:
        raise PreferenceFileError(f"{path}: nothing to judge: {_first(bad, 'it is empty')}")
    return list(items.values()), bad


def _item(row: object) -> Item | str:
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__}, not an object with prompt and answers"
    if where := lone_surrogate(row):
        return f"{where} holds a lone surrogate (half a character), which UTF-8 cannot write"
    if not isinstance(row.get("prompt"), str):
        return (
            "prompt is missing" if row.get("prompt") is None else f"prompt is {type(row['prompt']).__name__}, not text"
        )
    answers = row.get("answers")
    if not isinstance(answers, list):
        return "answers is missing" if answers is None else f"answers is {type(answers).__name__}, not a list"
    found = []
    for index, answer in enumerate(answers):
        one = {"text": answer} if isinstance(answer, str) else answer
        if not isinstance(one, Mapping) or not isinstance(one.get("text"), str):
            return f"answers[{index}] is neither text nor an object with a text"
        found.append(Candidate(one["text"], str(one.get("model") or "")))
    return Item(row["prompt"], tuple(found))


# -- writing -------------------------------------------------------------------------------------------------------


def write_file(path: Path, preferences: Iterable[Preference], format: Format) -> int:
    """Write `.jsonl` or `.parquet`, by the name's ending, in one step; returns the number of lines."""
    if path.suffix not in (".jsonl", ".parquet"):
        raise PreferenceFileError(
            f"{path}: preferences are written as .jsonl or .parquet, not {path.suffix or 'no ending'}"
        )
    rows = list(to_rows(preferences, format))
    temporary = path.with_name(f".{path.name}.tmp")
    if path.suffix == ".jsonl":
        temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    temporary.replace(path)
    return len(rows)


def to_rows(preferences: Iterable[Preference], format: Format) -> Iterator[dict[str, Any]]:
    """Lines of a format. `hh` has no system turn: such a turn raises ValueError."""
    if format == "ultrafeedback":
        yield from _rated(preferences)
        return
    for p in preferences:
        turns = [*p.context, Turn("user", p.prompt)]
        if format == "hh":
            yield {"chosen": _dialogue(turns, p.chosen), "rejected": _dialogue(turns, p.rejected)}
        elif format == "trl-chat" or p.context:
            prompt = [{"role": turn.role, "content": turn.content} for turn in turns]
            answers = {
                name: [{"role": "assistant", "content": text}]
                for name, text in (("chosen", p.chosen), ("rejected", p.rejected))
            }
            if format == "trl":
                raise ValueError("a preference with earlier turns has no plain form: use trl-chat or hh")
            yield {"prompt": prompt, **answers}
        else:
            yield {"prompt": p.prompt, "chosen": p.chosen, "rejected": p.rejected}


def _dialogue(turns: Sequence[Turn], answer: str) -> str:
    for turn in turns:
        if turn.role not in _HH_NAMES:
            raise ValueError(f"HH-RLHF has no {turn.role!r} turn: use trl-chat")
    return "".join(f"\n\n{_HH_NAMES[turn.role]}: {turn.content}" for turn in [*turns, Turn("assistant", answer)])


def _rated(preferences: Iterable[Preference]) -> Iterator[dict[str, Any]]:
    """One line for all pairs of a prompt and annotator where they make one order, else one line per pair: a score must
    not claim a comparison that nobody made."""
    groups: dict[tuple[str, str], list[Preference]] = defaultdict(list)
    for p in preferences:
        if p.context:
            raise ValueError("UltraFeedback has no earlier turns: use trl-chat or hh")
        groups[p.prompt, p.annotator].append(p)
    for (prompt, _), members in groups.items():
        net: dict[str, int] = defaultdict(int)
        for p in members:
            net[p.chosen] += 1
            net[p.rejected] -= 1
        implied = {(a, b) for a in net for b in net if net[a] > net[b]}
        said = {(p.chosen, p.rejected) for p in members}
        if implied == said:
            places = {value: place for place, value in enumerate(sorted(set(net.values())), 1)}
            lines = [[(text, places[value]) for text, value in net.items()]]
        else:
            lines = [[(p.chosen, 2), (p.rejected, 1)] for p in members]
        for line in lines:
            completions = [{"response": text, "overall_score": float(score)} for text, score in line]
            yield {"instruction": prompt, "completions": completions}
