"""Which fields of saved generations hold what: the layouts of known tools, else the names that people use.

A path is names with dots between ("response.body.choices"), "*" for every element of a list, "|" between
alternatives, of which the first that is there is taken, and "&" between paths whose values are taken together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Fields:
    """Paths of what is read from each record; "" where there is none.

    text: one generation, a list of them, or messages. reference: the right answer, or a list of right ones. id: of the
    item; several paths with commas between are one id together. finish: why each generation ended. error: why a request
    failed. verdict: what the file itself says is right. layout: whose the fields are, others: further fields that may
    hold generations.
    """

    text: str = ""
    reference: str = ""
    id: str = ""
    finish: str = ""
    error: str = ""
    verdict: str = ""
    question: str = ""
    layout: str = "by the names of the fields"
    others: tuple[str, ...] = ()


# Names that all records of a layout have, and its fields.
_LAYOUTS: tuple[tuple[tuple[str, ...], Fields], ...] = (
    (
        ("custom_id", "response"),
        Fields(
            text="response.body.choices|response.body.output",
            id="custom_id",
            error="error|response.body.error",
            finish="response.body.incomplete_details.reason",
            layout="OpenAI batch output",
        ),
    ),
    (
        ("custom_id", "result"),
        Fields(text="result.message", id="custom_id", error="result.error", layout="Anthropic batch output"),
    ),
    (
        ("doc_id", "resps"),
        Fields(
            text="resps",
            reference="target|doc.answer|doc.target",
            id="doc_id",
            verdict="exact_match",
            question="doc.question|arguments",
            layout="samples of lm-evaluation-harness",
        ),
    ),
    (
        ("instance", "result"),
        Fields(
            text="result.completions",
            reference="instance.references",
            id="instance.id,instance.perturbation.name",
            error="result.error",
            question="instance.input.text",
            layout="scenario state of HELM",
        ),
    ),
    (
        ("epoch", "output", "target"),
        Fields(
            text="output.choices",
            reference="target",
            id="id",
            error="error",
            question="input",
            layout="log of Inspect",
        ),
    ),
    (
        ("convo",),
        Fields(
            text="convo", reference="correct_answer|target|answer", verdict="score", layout="results of simple-evals"
        ),
    ),
    (("choices", "object"), Fields(text="choices", id="id", error="error", layout="chat completions")),
    (
        ("doc", "model_response"),
        Fields(
            text="model_response.text",
            reference="doc.choices",
            id="doc.id",
            question="doc.query",
            layout="details of Lighteval",
        ),
    ),
)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TEXTS = _names(
    "completion completions generation generations generated_text generated_texts response responses output "
    "outputs model_output model_outputs model_response model_responses raw_output raw_prediction prediction "
    "predictions model_prediction model_answer generated_answer predicted_text generated candidates samples ys code "
    "pred preds text"
)
_TEXTS_IF_NOTHING_ELSE = ("solution", "solutions", "answer", "answers", "messages")
_REFERENCES = _names(
    "target targets gold golds gold_answer gold_answers gold_label gt gts gt_answer ground_truth ground_truths "
    "reference references reference_answer reference_answers expected expected_answer expected_output "
    "correct_answer correct_answers answer answers correct label labels final_answer"
)
_HOLDERS = ("doc", "example", "metadata", "item", "problem", "instance", "row", "data")
_IDS = _names(
    "id custom_id doc_id question_id item_id problem_id task_id instance_id example_id prompt_id unique_id uid qid idx"
)
_FINISHES = ("finish_reason", "finish_reasons", "stop_reason", "stop_reasons", "finished", "truncated")
_ERRORS = ("error", "exception")
_VERDICTS = _names("is_correct is_corrects correct correctness exact_match em passed accs acc right")
_NUMBERED = re.compile(r"(.*?)[_\s-]?(\d+)")
_WORKED = ("solution", "solutions")  # references where another field holds the generations
_LIKELY = re.compile(r"(^|_)(output|response|completion|generation|prediction)s?$")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BETWEEN = re.compile(r"[\s-]+")
QUESTIONS = ("question", "prompt", "problem", "query", "instruction", "input")


def value_at(record: object, path: str) -> Any:
    """What stands at a path of a record; None where nothing does. "*" gives a list."""
    if "&" in path and not (isinstance(record, Mapping) and path in record):
        found = [value for part in path.split("&") if (value := value_at(record, part)) is not None]
        return found or None
    for alternative in path.split("|"):
        found = _walk(record, alternative)
        if found is not None:
            return found
    return None


def _walk(value: object, path: str) -> Any:
    if not path or value is None:
        return value
    if isinstance(value, Mapping):
        if path in value:
            return value[path]  # a name may have dots of its own
        names = path.split(".")
        for length in range(len(names) - 1, 0, -1):
            name = ".".join(names[:length])
            if name in value:
                return _walk(value[name], ".".join(names[length:]))
        return None
    head, _, rest = path.partition(".")
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if head == "*":
            return [_walk(one, rest) for one in value]
        if head.isdigit() and int(head) < len(value):
            return _walk(value[int(head)], rest)
    return None


def is_record(value: Mapping[str, Any]) -> bool:
    """Whether an object is an item by itself, with an id, a question or a reference."""
    return bool(_spelled(value).keys() & {*_IDS, *QUESTIONS, *_HOLDERS}) or has_reference(value)


def has_reference(value: Mapping[str, Any]) -> bool:
    """Whether an object has a field that is called like a right answer."""
    return bool(_spelled(value).keys() & {*_REFERENCES})


def _spelled(names: Iterable[Any]) -> dict[str, str]:
    """Names as they stand, by how the lists above spell them: "ground truth" and "groundTruth" by "ground_truth"."""
    return {_BETWEEN.sub("_", _CAMEL.sub("_", str(name))).lower(): str(name) for name in names}


def detect(records: Sequence[Mapping[str, Any]], chosen: Fields) -> Fields:
    """The fields of these records, those of `chosen` as they are.

    Raises ValueError, which names what there is, where a chosen field is in no record, or no field can hold
    generations.
    """
    for what in ("text", "reference", "finish", "verdict"):
        path = getattr(chosen, what)
        if path and not _anywhere(records, path):
            raise ValueError(f"--{what} {path}: no record has it; there is {listed(records)}")
    for needed, known in _LAYOUTS:
        if all(set(needed) <= record.keys() for record in records):
            reference, verdict = (p if _anywhere(records, p) else "" for p in (known.reference, known.verdict))
            used = (*known.text.split("|"), *known.id.split(","))
            reference = reference or next((path for path in _references(records) if path not in used), "")
            return _merged(replace(known, reference=reference, verdict=verdict), chosen)
    spelled = _spelled(name for record in records for name in record)
    taken = {chosen.text, chosen.reference, chosen.verdict, chosen.id, chosen.finish, chosen.error}

    def free(known: Iterable[str]) -> list[str]:
        return [spelled[name] for name in known if name in spelled and spelled[name] not in taken]

    verdict = next((name for name in free(_VERDICTS) if _are_verdicts(records, name)), "")
    taken.add(verdict)
    likely = [*_TEXTS, *(name for name in spelled if _LIKELY.search(name) and name not in (*_TEXTS, *_REFERENCES))]
    texts = [name for name in free(likely) if _are_texts(records, name)]
    numbered = "" if texts or chosen.text else _numbered(records)
    text = chosen.text or next(iter(texts), numbered)
    taken.add(text)
    taken.update(text.split("&"))
    worked = [name for name in free(_WORKED) if text]
    reference = chosen.reference or next((path for path in (*_references(records), *worked) if path not in taken), "")
    taken.add(reference)
    if not text:
        rest = [name for name in free(_TEXTS_IF_NOTHING_ELSE) if _are_texts(records, name)]
        if not rest and reference in _TEXTS_IF_NOTHING_ELSE and not chosen.reference:
            rest, reference = [reference], ""  # `answer` alone is the model's
        if not rest:
            raise ValueError(f"no field holds generations: give --text with one of {listed(records)}")
        text = rest[0]
    found = Fields(
        text,
        reference,
        next(iter(free(_IDS)), ""),
        next(iter(free(_FINISHES)), ""),
        next(iter(free(_ERRORS)), ""),
        verdict,
        next(iter(free(QUESTIONS)), ""),
        others=tuple(name for name in texts if name not in taken),
    )
    return _merged(found, chosen)


def _numbered(records: Sequence[Mapping[str, Any]]) -> str:
    """Columns such as "generation_1" and "generation_2" as one path, "" where there are not two of a name."""
    groups: dict[str, list[tuple[int, str]]] = {}
    for name in dict.fromkeys(name for record in records for name in record):
        if (found := _NUMBERED.fullmatch(str(name))) and _are_texts(records, name):
            groups.setdefault(next(iter(_spelled([found[1]]))), []).append((int(found[2]), str(name)))
    known = (*_TEXTS, *(f"{name.removesuffix('s')}" for name in _TEXTS), *_TEXTS_IF_NOTHING_ELSE)
    several = {name: sorted(group) for name, group in groups.items() if len(group) > 1}
    best = next((several[name] for name in known if name in several), [])
    return "&".join(name for _, name in best)


def _anywhere(records: Sequence[Mapping[str, Any]], path: str) -> bool:
    return bool(path) and any(value_at(record, path) is not None for record in records)


def detect_answers(records: Sequence[Mapping[str, Any]], id: str, reference: str) -> Fields:
    """The fields of a file of reference answers: its id, answer and question. Raises ValueError as `detect` does."""
    if reference and not _anywhere(records, reference):
        raise ValueError(f"--answers-field {reference}: no record has it; there is {listed(records)}")
    found = reference or next(iter(_references(records)), "")
    if not found:
        raise ValueError(f"no field holds reference answers: give --answers-field with one of {listed(records)}")
    spelled = _spelled(name for record in records for name in record)
    own = id or next((spelled[name] for name in _IDS if name in spelled), "")
    questions = [spelled[name] for name in QUESTIONS if name in spelled and spelled[name] != found]
    return Fields(reference=found, id=own, question=next(iter(questions), ""))


def _merged(found: Fields, chosen: Fields) -> Fields:
    given = {name: value for name, value in vars(chosen).items() if value and name not in ("layout", "others")}
    return replace(found, **given)


def _references(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Paths that may hold reference answers, the likeliest first: at the top, then one level down."""
    spelled = _spelled(name for record in records for name in record)
    top = [spelled[name] for name in _REFERENCES if name in spelled]
    for path in (*top, *(f"{holder}.{name}" for holder in _HOLDERS for name in _REFERENCES)):
        values = [value for record in records if (value := value_at(record, path)) is not None]
        # What is only true and false is a verdict, but for names that no verdict has.
        if values and (path not in _VERDICTS or not all(isinstance(value, bool) for value in values)):
            yield path


def _are_texts(records: Iterable[Mapping[str, Any]], name: str) -> bool:
    """Whether a field holds text, in whatever form; numbers and verdicts are none."""
    values = [value for record in records if (value := record.get(name)) is not None]
    return any(isinstance(value, (str, list, dict)) and value for value in values)


def _are_verdicts(records: Iterable[Mapping[str, Any]], name: str) -> bool:
    """Whether a field says right or wrong: of each record, or of each of its samples."""
    values = [value for record in records if (value := record.get(name)) is not None]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return bool(flat) and all(isinstance(one, (bool, int, float)) and one in (0, 1) for one in flat)


def listed(records: Sequence[Mapping[str, Any]]) -> str:
    """The fields of the first records, with what they hold one level down."""
    names: dict[str, None] = {}
    for record in records[:5]:
        for name, value in record.items():
            names[str(name)] = None
            if isinstance(value, Mapping):
                names.update({f"{name}.{inner}": None for inner in list(value)[:8]})
    shown = list(names)[:40]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "") if shown else "no field"
