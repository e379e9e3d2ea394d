"""Saved generations of whatever tool, as items with references and samples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from components.data.files import Quarantined, SourceError
from components.data.prompt_files import read_records_of
from components.data.records import excerpt
from components.reasoning.scoring.fields import Fields, detect, detect_answers, has_reference, is_record, value_at
from components.reasoning.scoring.numbers import as_number

_LOOKED_AT = 200  # records from which fields are told
# Under which one JSON object may hold the records of a run.
_HOLDERS = ("request_states", "samples", "convos", "results", "predictions", "generations", "outputs", "responses")
_INNER = ("message", "text", "content", "parts", "generated_text", "continuation", "output", "completion", "response")
_SEVERAL = ("choices", "candidates", "outputs")  # of what one object holds
_CUT = ("length", "max_tokens", "max_output_tokens", "model_length", "token_limit", "max_length", "truncated")
_DECLINED = ("content_filter", "refusal", "safety", "prohibited_content", "blocklist")
_CSV = (".csv", ".tsv")
_DETECTED = Fields()


@dataclass(frozen=True)
class Generation:
    """One sample. finished: it ended by itself, not at the length limit. problem: why there is no text to judge. right:
    what the file itself says, None where it says nothing."""

    text: str
    finished: bool = True
    problem: Literal["", "failed", "refused"] = ""
    note: str = ""
    right: bool | None = None


@dataclass(frozen=True)
class SavedItem:
    """One question with its samples. row: the record, of several the first; file, line: where that stands."""

    id: str
    references: tuple[str, ...]
    generations: tuple[Generation, ...]
    question: str = ""
    row: Mapping[str, Any] = field(default_factory=dict, repr=False)
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class SavedFile:
    """What a file holds. notes: what was decided in reading it that a reader should know."""

    fields: Fields
    items: tuple[SavedItem, ...]
    rejected: tuple[Quarantined, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    value: Mapping[str, Any]
    file: str
    line: int


def read_saved(path: str, chosen: Fields = _DETECTED, only: Sequence[tuple[str, str]] = ()) -> SavedFile:
    """The items of a file, folder, pattern or fsspec URL of JSONL, JSON, CSV or Parquet.

    Records of one file that share an id and a reference are samples of one item; of several files, where `chosen` names
    the id. only: fields and the values that records must have there. A record that cannot be read is rejected with its
    line and reason; one without text counts as failed. Raises SourceError where nothing can be read.
    """
    rows, rejected = _rows(f"generations {path}", path)
    for name, value in only:
        rows = _having(rows, name, value)
    notes: list[str] = []
    try:
        fields = detect([row.value for row in rows[:_LOOKED_AT]], chosen)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    if any(_is_log_likelihood(value_at(row.value, fields.text)) for row in rows[:_LOOKED_AT]):
        raise SourceError(f"{path}: {fields.text} holds log-likelihoods of options, not texts: nothing was generated")
    filters = list(dict.fromkeys(str(row.value["filter"]) for row in rows if "filter" in row.value))
    if "lm-evaluation-harness" in fields.layout and len(filters) > 1:
        rows = [row for row in rows if str(row.value.get("filter")) == filters[0]]
        notes.append(f"rows of the filter {filters[0]!r}; those of {', '.join(filters[1:])} repeat the same texts")
    names = {row.file: row.file.rpartition("/")[2] for row in rows}
    apart = len(names) > 1 and not chosen.id
    items: dict[tuple[str, ...], SavedItem] = {}
    references: dict[str, set[tuple[str, ...]]] = {}
    for place, row in enumerate(rows):
        try:
            made = _item(row, fields, place)
        except RecursionError:
            rejected.append(Quarantined(path, row.file, row.line, "nested too deeply", ""))
            continue
        if apart:
            made = replace(made, id=f"{names[row.file]}:{made.id}")
        key = (made.id, *made.references)
        known = references.setdefault(made.id, set())
        if key in items:
            same = items[key]
            items[key] = replace(same, generations=(*same.generations, *made.generations))
            continue
        known.add(made.references)
        items[key] = made if len(known) == 1 else replace(made, id=f"{made.id}#{len(known)}")
    if not items:
        raise SourceError(f"{path}: no record can be used: {rejected[0].reason}")
    collisions = sum(len(known) > 1 for known in references.values())
    if collisions:
        notes.append(f"{collisions} ids stand for several items with other answers: name more with --id a,b")
    if fields.others:
        notes.append(f"{', '.join(fields.others)} may hold generations, too: --text takes another")
    if not fields.id and (times := _repeats(list(items.values()))):
        notes.append(f"every question stands {times} times: --id {fields.question} makes them samples of one item")
    return SavedFile(fields, tuple(items.values()), tuple(rejected), tuple(notes))


def _rows(where: str, path: str) -> tuple[list[_Row], list[Quarantined]]:
    """Every record as an object with its place. Raises SourceError where there is none."""
    rows: list[_Row] = []
    rejected: list[Quarantined] = []
    for item in read_records_of(where, path, path):
        if isinstance(item, Quarantined):
            rejected.append(item)
            continue
        file, record = item
        for value in _unwrapped(record.value):
            if isinstance(value, Mapping):
                rows.append(_Row(_cells(value) if file.lower().endswith(_CSV) else value, file, record.number))
            else:
                reason = f"expected an object, a text or a list of texts, found {type(value).__name__}"
                rejected.append(Quarantined(path, file, record.number, reason, excerpt(record.value)))
    if not rows:
        first = "; ".join(f"{q.file}{f':{q.line}' if q.line else ''}: {q.reason}" for q in rejected[:3])
        raise SourceError(f"{where}: no record can be read: {first or 'the file is empty'}")
    return rows, rejected


def _having(rows: Sequence[_Row], name: str, value: str) -> list[_Row]:
    """The rows with this value. Raises SourceError where there is none."""
    found = [row for row in rows if str(value_at(row.value, name)) == value]
    if not found:
        seen = sorted({str(value_at(row.value, name)) for row in rows})
        raise SourceError(f"--only {name}={value}: no record has that; there is {', '.join(seen[:10])}")
    return found


def _unwrapped(value: object) -> Iterator[object]:
    """The records that one holds, or itself."""
    if isinstance(value, Mapping) and isinstance(value.get("samples"), Mapping):  # by task, as lm-eval saved them once
        for task, held in value["samples"].items():
            yield from ({"task": task, **one} if isinstance(one, Mapping) else one for one in held)
        return
    if isinstance(value, Mapping):
        for name in _HOLDERS:
            held = value.get(name)
            if not isinstance(held, list) or not held:
                continue
            if name == "convos":
                told = value_at(value, "metadata.example_level_metadata")
                told = told if isinstance(told, list) and len(told) == len(held) else [{}] * len(held)
                yield from ({**(one or {}), "convo": convo} for one, convo in zip(told, held, strict=True))
                return
            if _are_records(held) and not has_reference(value):
                yield from held
                return
        if (inner := _table_in(value)) is not None:
            yield from inner
            return
    if isinstance(value, str):
        yield {"generation": value}
    elif isinstance(value, list) and all(isinstance(one, str) for one in value):
        yield {"generations": value}
    else:
        yield value


def _table_in(value: Mapping[str, Any]) -> Sequence[Any] | None:
    """The records that an object holds under a name of its own, or of which it is the index: {"0": {…}, "1": {…}}."""
    if is_record({name: held for name, held in value.items() if not isinstance(held, list)}):
        return None
    lists = [held for held in value.values() if isinstance(held, list) and _are_records(held)]
    if len(lists) == 1:
        return lists[0]
    if len(value) > 1 and all(isinstance(one, Mapping) and is_record(one) for one in value.values()):
        return [{"id": name, **one} for name, one in value.items()]
    return None


def _are_records(held: Sequence[Any]) -> bool:
    return bool(held) and all(isinstance(one, Mapping) and is_record(one) for one in held)


def _cells(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of CSV, in which a list or object is written as JSON."""
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _is_log_likelihood(value: object) -> bool:
    """Whether a field holds pairs such as [-17.5, false], as lm-eval saves them for options."""
    while isinstance(value, list) and len(value) > 0 and isinstance(value[0], list):
        value = value[0]
    if not isinstance(value, list) or len(value) != 2 or str(value[1]) not in ("True", "False"):
        return False
    return isinstance(value[0], float) or (isinstance(value[0], str) and as_number(value[0]) is not None)


def _item(row: _Row, fields: Fields, place: int) -> SavedItem:
    value = row.value
    named = [value_at(value, path.strip()) for path in fields.id.split(",")] if fields.id else []
    name = "/".join(str(one) for one in named if one is not None)
    question = value_at(value, fields.question) if fields.question else None
    told = value_at(value, fields.reference) if fields.reference else None
    places = value_at(value, "doc.gold_index")
    if fields.reference == "doc.choices" and isinstance(told, list) and places is not None:
        told = [told[place] for place in (places if isinstance(places, list) else [places])]
    references = references_of(told)
    if isinstance(mapping := value.get("output_mapping"), Mapping):  # HELM's, of the letters that were asked for
        references = tuple(letter for letter, option in mapping.items() if option in references) or references
    return SavedItem(
        name or f"{place}",
        references,
        tuple(_generations(value, fields)),
        question if isinstance(question, str) else json.dumps(question, default=str) if question is not None else "",
        value,
        row.file,
        row.line,
    )


def references_of(value: object) -> tuple[str, ...]:
    """Right answers as texts: of a text, a number, a list of them, or HELM's references with the tag `correct`."""
    match value:
        case None:
            return ()
        case str():
            return (value,) if value.strip() else ()
        case bool() | int() | float():
            return (str(value),)
        case list() | tuple():
            return tuple(dict.fromkeys(text for one in value for text in references_of(one)))
        case {"output": inner, "tags": tags}:
            return references_of(inner) if "correct" in tags else ()
        case {"text": inner} | {"value": inner} | {"answer": inner}:
            return references_of(inner)
        case _:
            return (json.dumps(value, default=str),)


def _generations(row: Mapping[str, Any], fields: Fields) -> Iterator[Generation]:
    error = value_at(row, fields.error) if fields.error else None
    value = value_at(row, fields.text)
    if error and not value:
        yield Generation("", problem="failed", note=excerpt(error))
        return
    found = list(_texts(value)) or [Generation("", problem="failed", note=f"no text in {fields.text}")]
    ends = _spread(value_at(row, fields.finish) if fields.finish else None, len(found))
    verdicts = _spread(value_at(row, fields.verdict) if fields.verdict else None, len(found))
    inverse = fields.finish.endswith("truncated")
    for one, end, right in zip(found, ends, verdicts, strict=True):
        ended = one if end is None else _ended(one, (not end if inverse else end) if isinstance(end, bool) else end)
        yield replace(ended, right=bool(right)) if isinstance(right, (bool, int, float)) else ended


def _spread(value: object, count: int) -> list[Any]:
    """One value a sample, from a list of them or one for all."""
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]
    if isinstance(value, list):
        return value if len(value) == count else [None] * count
    return [value] * count


def _texts(value: object) -> Iterator[Generation]:
    """The samples that a field holds, in whatever form."""
    match value:
        case None:
            yield Generation("", problem="failed", note="no text")
        case str():
            yield Generation(value)
        case list() | tuple() if value and all(isinstance(one, Mapping) and "role" in one for one in value):
            said = [one for one in value if one["role"] == "assistant"]
            yield from _texts(said[-1] if said else None)
        case list() | tuple() if value and all(isinstance(one, Mapping) and "type" in one for one in value):
            yield from _parts(value)
        case list() | tuple() if any(isinstance(one, Mapping) and one.get("thought") is True for one in value):
            yield Generation("".join(str(one.get("text", "")) for one in value if not one.get("thought")))
        case list() | tuple():
            for one in value:
                yield from _texts(one)
        case Mapping() if held := next((value[name] for name in _SEVERAL if isinstance(value.get(name), list)), None):
            yield from _texts(held)
        case Mapping() if value and all(str(name).isdigit() for name in value):
            yield from _texts([value[name] for name in sorted(value, key=lambda name: int(str(name)))])
        case Mapping():
            yield _one(value)
        case _:
            yield Generation(str(value))


def _parts(value: Sequence[Any]) -> Iterator[Generation]:
    """Content in parts, or the items of a response: of those, the messages; of parts, the texts."""
    messages = [one for one in value if one["type"] == "message"]
    refused = next((str(one["refusal"]) for one in value if one["type"] == "refusal" and one.get("refusal")), "")
    if messages:
        yield _one(messages[-1])
    elif refused:
        yield Generation("", problem="refused", note=refused)
    else:
        yield Generation("".join(str(one.get("text", "")) for one in value if one["type"] in ("text", "output_text")))


def _one(value: Mapping[str, Any]) -> Generation:
    """A choice, a message, a completion."""
    inner = next((value[name] for name in _INNER if value.get(name) is not None), None)
    made = next(_texts(inner), Generation("", problem="failed", note="no text"))
    if isinstance(refusal := value.get("refusal"), str) and refusal:
        made = Generation("", problem="refused", note=refusal)
    end = next(
        (value[name] for name in ("finish_reason", "stop_reason", "finishReason") if value.get(name) is not None), None
    )
    return made if end is None else _ended(made, end)


def _ended(made: Generation, end: object) -> Generation:
    """With why it ended: a reason's name, HELM's `{"reason": …}`, or whether it is finished."""
    if isinstance(end, Mapping):
        end = end.get("reason")
    if isinstance(end, bool):
        return replace(made, finished=end and made.finished)  # a request ends as a whole, its samples each for a reason
    reason = str(end).lower()
    if reason in _DECLINED:
        return replace(made, problem="refused", note=made.note or reason)
    if reason == "error":
        return replace(made, problem="failed", note="it ended with an error")
    if reason in _CUT and made.problem == "failed":  # all tokens went into thoughts
        return replace(made, problem="", finished=False, note="")
    return replace(made, finished=False) if reason in _CUT else made


def _repeats(items: Sequence[SavedItem]) -> int:
    """How many times each question stands, where that is more than once for all; else 0."""
    counts: dict[tuple[str, ...], int] = {}
    for item in items:
        key = (item.question, *item.references)
        counts[key] = counts.get(key, 0) + 1
    times = set(counts.values())
    return times.pop() if len(times) == 1 and items and items[0].question and times != {1} else 0


# -- references from another file -------------------------------------------------------------------------------------


def with_answers(saved: SavedFile, path: str, id: str = "", reference: str = "") -> SavedFile:
    """With the references of another file, found by id, else by the question, else, where both have as many, by place.

    id: the field that `saved`'s ids name; "row": the place of a record, from 0. Raises SourceError where items have no
    counterpart.
    """
    rows, rejected = _rows(f"answers {path}", path)
    try:
        fields = detect_answers([row.value for row in rows[:_LOOKED_AT]], "" if id == "row" else id, reference)
    except ValueError as error:
        raise SourceError(f"{path}: {error}") from None
    answers = [references_of(value_at(row.value, fields.reference)) for row in rows]
    own = [item.id for item in saved.items]
    by_question = fields.question and saved.fields.question
    if id == "row":
        keys, how = [str(place) for place in range(len(rows))], "row number"
    elif saved.fields.id and fields.id:
        keys, how = [str(value_at(row.value, fields.id)) for row in rows], f"{saved.fields.id} = {fields.id}"
    elif by_question:
        own = [item.question.strip() for item in saved.items]
        keys = [str(value_at(row.value, fields.question)).strip() for row in rows]
        how = f"{saved.fields.question} = {fields.question}"
    elif len(rows) == len(saved.items):
        own, keys, how = [str(n) for n in range(len(rows))], [str(n) for n in range(len(rows))], "their order"
    else:
        raise SourceError(
            f"{path}: {len(rows)} answers for {len(saved.items)} items and no id in both: give --id and --answers-id"
        )
    known: dict[str, tuple[str, ...]] = {}
    for key, answer in zip(keys, answers, strict=True):
        if known.setdefault(key, answer) != answer:
            raise SourceError(f"{path}: {how}: {key[:60]!r} stands there with two answers: give --answers-id")
    missing = [key for key in own if key not in known]
    if missing:
        raise SourceError(
            f"{path}: {how}: {len(missing)} of {len(own)} items have no answer, such as {missing[0][:60]!r}"
        )
    items = tuple(replace(item, references=known[key]) for item, key in zip(saved.items, own, strict=True))
    taken = replace(saved.fields, reference=f"{fields.reference} of {path} by {how}")
    return replace(saved, fields=taken, items=items, rejected=(*saved.rejected, *rejected))
