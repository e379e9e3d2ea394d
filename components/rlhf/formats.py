"""Preference files as others write them: TRL (plain and chat), HH-RLHF, UltraFeedback; JSONL and Parquet.

    trl            prompt, chosen, rejected as text; or chosen and rejected alone, which begin with the same prompt
    trl-chat       the same with lists of messages {"role", "content"}; the prompt may be text beside them
    hh             chosen and rejected as whole dialogues: "\\n\\nHuman: …\\n\\nAssistant: …"
    ultrafeedback  instruction (or prompt) and completions with a response and a score each; every two completions of
                   different score become a pair, equal scores are dropped and counted

Each line tells its format by itself. What is none is named by file and line, with the reason, and the rest goes on.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.rlhf.judgements import Candidate, Item, make_items
from components.rlhf.preferences import (
    MAX_EXCERPT,
    LeftOut,
    Preference,
    Turn,
    defect,
    pair_id,
    parse_line,
    preference_from_row,
    turns_from,
)

Format = Literal["trl", "trl-chat", "hh", "ultrafeedback"]
FORMATS: tuple[Format, ...] = ("trl", "trl-chat", "hh", "ultrafeedback")
_SCORES = ("overall_score", "score", "rating", "fine-grained_score")
_TURN = re.compile(r"\n\n(Human|Assistant):")
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class PreferenceFileError(ValueError):
    """A file that cannot be read as a whole, or holds no usable preference."""


@dataclass(frozen=True)
class Imported:
    """What a file gave. `lines`: where each preference stands. `ties`: pairs of completions with equal scores, which
    say nothing. `formats`: lines by format."""

    preferences: tuple[Preference, ...]
    lines: tuple[int, ...]
    left_out: tuple[LeftOut, ...]
    ties: int
    formats: Mapping[str, int]


@dataclass(frozen=True)
class _Line:
    format: str
    pairs: tuple[Preference, ...]
    ties: int = 0


def read_file(path: Path, max_prompt_chars: int = 100_000) -> Imported:
    """Read a `.jsonl` or `.parquet` file of any of the formats, line by line.

    Raises:
        PreferenceFileError: no such file, no JSONL or Parquet, or not a single good line; names the first mistakes.
    """
    good: list[Preference] = []
    lines: list[int] = []
    bad: list[LeftOut] = []
    ties, formats = 0, defaultdict[str, int](int)
    for number, text, row in _rows(path):
        found = _line(row)
        if isinstance(found, _Line):
            found = _within(found, max_prompt_chars)
        if isinstance(found, str):
            bad.append(LeftOut("preferences", str(path), number, found, text[:MAX_EXCERPT]))
        else:
            good += found.pairs
            lines += [number] * len(found.pairs)
            ties += found.ties
            formats[found.format] += 1
    if not good:
        first = "; ".join(f"line {b.line}: {b.reason}" for b in bad[:3]) or ("only ties" if ties else "it is empty")
        more = f" (and {len(bad) - 3} more)" if len(bad) > 3 else ""
        raise PreferenceFileError(f"{path}: no usable preference: {first}{more}")
    return Imported(tuple(good), tuple(lines), tuple(bad), ties, dict(formats))


def _rows(path: Path) -> Iterator[tuple[int, str, object]]:
    if not path.is_file():
        raise PreferenceFileError(f"{path}: no such file")
    if path.suffix == ".jsonl":
        with path.open("rb") as stream:
            for number, raw in enumerate(stream, 1):
                content = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
                if content.strip():
                    yield parse_line(number, content.rstrip(b"\r\n"))
    elif path.suffix == ".parquet":
        try:
            number = 0
            for batch in pq.ParquetFile(path).iter_batches(1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, str(row), row
        except pa.ArrowException as error:
            raise PreferenceFileError(f"{path} is not a Parquet file that can be read: {error}") from None
    else:
        raise PreferenceFileError(
            f"{path}: preferences are read from .jsonl or .parquet, not {path.suffix or 'no ending'}"
        )


def _line(row: object) -> _Line | str:
    """The pairs of one line, or why it has none."""
    if isinstance(row, ValueError):
        return str(row)
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__}, not an object with chosen and rejected, or with completions"
    if row.get("completions") is not None:
        return _ultrafeedback(row)
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            return f"{name} is missing"
    chosen, rejected = row["chosen"], row["rejected"]
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        return _chat(row)
    for name in ("chosen", "rejected"):
        if not isinstance(row[name], str):
            return f"{name} is {type(row[name]).__name__} where the other is text"
    if row.get("prompt") is not None:
        found = preference_from_row(row)
        return found if isinstance(found, str) else _Line("trl", (_sourced(found, "trl"),))
    if _TURN.match(chosen) or _TURN.match(rejected):
        return _hh(chosen, rejected)
    return _implicit_text(row, chosen, rejected)


def _implicit_text(row: Mapping[str, Any], chosen: str, rejected: str) -> _Line | str:
    """The prompt is what both begin with, up to the last white space, so that no word is cut."""
    if reason := defect("-", chosen, rejected):
        return reason
    same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    same = min(len(chosen), len(rejected)) if same is None else same
    cut = max((m.end() for m in re.finditer(r"\s+", chosen[:same])), default=0)
    prompt = chosen[:cut].strip()
    if not prompt:
        return "prompt is missing, and chosen and rejected do not begin with the same words"
    found = preference_from_row({**row, "prompt": prompt, "chosen": chosen[cut:], "rejected": rejected[cut:]})
    return found if isinstance(found, str) else _Line("trl", (_sourced(found, "trl"),))


def _sourced(preference: Preference, source: str) -> Preference:
    return preference if preference.source else replace(preference, source=source)


def _chat(row: Mapping[str, Any]) -> _Line | str:
    sides = []
    for name in ("chosen", "rejected"):
        turns = turns_from(row[name], name)
        if isinstance(turns, str):
            return turns
        sides.append(turns)
    chosen, rejected = sides
    prompt: tuple[Turn, ...] = ()
    if isinstance(given := row.get("prompt"), str):
        # UltraFeedback's binarised files: a text, and dialogues that begin with it as a turn.
        starts = [side[:1] == (Turn("user", given),) or side[:2][1:] == (Turn("user", given),) for side in sides]
        prompt = () if all(starts) else (Turn("user", given),)
    elif given is not None:
        turns = turns_from(given, "prompt")
        if isinstance(turns, str):
            return turns
        prompt = turns
    return _from_turns("trl-chat", prompt, chosen, rejected, row)


def _from_turns(
    format: str, prompt: tuple[Turn, ...], chosen: tuple[Turn, ...], rejected: tuple[Turn, ...], row: Mapping[str, Any]
) -> _Line | str:
    """A pair from two continuations; without a prompt, from two dialogues that begin alike and differ at their end."""
    if not prompt:
        same = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
        if same is None:
            if len(chosen) != len(rejected):
                return "one dialogue is the beginning of the other"
            return "chosen and rejected are equal" if chosen else "chosen is empty"
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if not side:
            return f"{name} is empty"
        if len(side) > 1:
            return f"{name} has {len(side)} turns after the shared prompt: it takes one answer"
        if side[0].role != "assistant":
            return f"{name} answers as {side[0].role!r}: an answer is the assistant's"
    if not prompt or prompt[-1].role != "user":
        return "the prompt does not end with a turn of the user" if prompt else "prompt is missing"
    fields = {
        **{name: row[name] for name in ("margin", "annotator", "confidence", "source") if name in row},
        "prompt": prompt[-1].content,
        "chosen": chosen[0].content,
        "rejected": rejected[0].content,
        "context": [{"role": turn.role, "content": turn.content} for turn in prompt[:-1]],
    }
    found = preference_from_row(fields)
    return found if isinstance(found, str) else _Line(format, (_sourced(found, format),))


def _hh(chosen: str, rejected: str) -> _Line | str:
    sides = []
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        parts = _TURN.split(text)
        if parts[0].strip():
            return f"{name} does not begin with '\\n\\nHuman:'"
        turns = [Turn(_HH_ROLES[who], said.strip()) for who, said in zip(parts[1::2], parts[2::2], strict=True)]
        if not turns or turns[-1].role != "assistant":
            return f"{name} does not end with a turn of the assistant"
        sides.append(tuple(turns))
    return _from_turns("hh", (), sides[0], sides[1], {})


def _ultrafeedback(row: Mapping[str, Any]) -> _Line | str:
    name = "instruction" if row.get("instruction") is not None else "prompt"
    prompt = row.get(name)
    if not isinstance(prompt, str):
        return "instruction is missing" if prompt is None else f"{name} is {type(prompt).__name__}, not text"
    completions = row["completions"]
    if not isinstance(completions, Sequence) or isinstance(completions, str):
        return f"completions is {type(completions).__name__}, not a list"
    scored: list[tuple[str, float]] = []
    for index, one in enumerate(completions):
        if not isinstance(one, Mapping) or not isinstance(one.get("response"), str):
            return f"completions[{index}] has no response as text"
        value = next((one[key] for key in _SCORES if one.get(key) is not None), None)
        try:
            score = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
        except (TypeError, ValueError):
            score = math.nan
        if not math.isfinite(score):
            return f"completions[{index}]: score is {value!r}, not a finite number ({', '.join(_SCORES)})"
        if not one["response"].strip():
            return f"completions[{index}]: response is empty"
        scored.append((one["response"], score))
    if len(scored) < 2:
        return f"{len(scored)} completion: a comparison needs two"
    pairs, ties = [], 0
    for (a, first), (b, second) in combinations(scored, 2):
        if first == second:
            ties += 1
            continue
        (better, worse) = (a, b) if first > second else (b, a)
        if reason := defect(prompt, better, worse):
            return reason
        margin = abs(first - second)
        pairs.append(Preference(prompt, better, worse, pair_id(prompt, a, b), margin=margin, source="ultrafeedback"))
    return _Line("ultrafeedback", tuple(pairs), ties)


def _within(line: _Line, max_prompt_chars: int) -> _Line | str:
    for pair in line.pairs:
        length = len(pair.prompt) + sum(len(turn.content) for turn in pair.context)
        if length > max_prompt_chars:
            return f"the prompt has {length} characters: at most {max_prompt_chars}"
    return line


def read_answers(path: Path) -> tuple[list[Item], list[LeftOut]]:
    """Prompts with answers to be judged, a line each: {"prompt", "answers": [text or {"text", "model"}]}.

    Raises:
        PreferenceFileError: no such file, or no line with two distinct answers.
    """
    items: dict[str, Item] = {}
    bad: list[LeftOut] = []
    for number, text, row in _rows(path):
        found = _item(row)
        reason = found if isinstance(found, str) else ""
        if isinstance(found, Item):
            made, why = make_items([found.prompt], [found.answers])
            reason = why[0].reason if why else ""
            if made and made[0].item_id in items:
                reason = "the same prompt with the same answers stands further up"
            elif made:
                items[made[0].item_id] = made[0]
        if reason:
            bad.append(LeftOut("answers", str(path), number, reason, text[:MAX_EXCERPT]))
    if not items:
        first = "; ".join(f"line {b.line}: {b.reason}" for b in bad[:3]) or "it is empty"
        raise PreferenceFileError(f"{path}: nothing to judge: {first}")
    return list(items.values()), bad


def _item(row: object) -> Item | str:
    if isinstance(row, ValueError):
        return str(row)
    if not isinstance(row, Mapping):
        return f"a {type(row).__name__}, not an object with prompt and answers"
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
    names = {role: name for name, role in _HH_ROLES.items()}
    for turn in turns:
        if turn.role not in names:
            raise ValueError(f"HH-RLHF has no {turn.role!r} turn: use trl-chat")
    return "".join(f"\n\n{names[turn.role]}: {turn.content}" for turn in [*turns, Turn("assistant", answer)])


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
