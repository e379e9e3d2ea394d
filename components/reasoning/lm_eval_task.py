"""Task files of lm-evaluation-harness (YAML) as evaluation sets, as far as they are data.

A task that generates (`output_type: generate_until`) or chooses (`multiple_choice`), whose prompt, target and choices
are columns or Jinja templates, is read with its description, worked examples, filters and exact match, and asked as
`lm_eval --apply_chat_template` asks it: everything in one turn of the user. What runs Python (`!function`), and every
other metric, filter and output type, is refused with the field.
"""

from __future__ import annotations

import hashlib
import json
import re
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import TemplateSyntaxError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from components.data.files import Quarantined, SourceError
from components.data.prompt_files import read_records_of
from components.data.records import excerpt
from components.reasoning.lm_eval_verifier import OPTIONS, RULES
from components.reasoning.question_files import Question

_HELD = ("test", "validation", "training")  # in the order in which the harness takes the first that a task names
_KNOWN = {
    *("task", "tag", "group", "task_alias", "include", "dataset_path", "dataset_name", "dataset_kwargs"),
    *("training_split", "validation_split", "test_split", "fewshot_split", "output_type", "doc_to_text"),
    *("doc_to_target", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter", "num_fewshot"),
    *(
        "fewshot_config",
        "generation_kwargs",
        "filter_list",
        "metric_list",
        "repeats",
        "metadata",
        "should_decontaminate",
    ),
    "doc_to_decontamination_query",
}
_FILTERS = {"regex": ("regex_pattern", "group_select", "fallback"), "remove_whitespace": (), "lowercase": ()}
_MATCH = ("regexes_to_ignore", "ignore_case", "ignore_punctuation", "ignore_numbers")
_FORMATS = ("json", "csv", "parquet")


class _Strict(Undefined):
    """A column that a template names and a record lacks is an error, never an empty text."""

    __str__ = __iter__ = __len__ = __bool__ = __eq__ = Undefined._fail_with_undefined_error
    __hash__ = None  # type: ignore[assignment]


_TEMPLATES = ImmutableSandboxedEnvironment(undefined=_Strict, keep_trailing_newline=True)
_TEMPLATES.filters["regex_replace"] = lambda text, pattern, new="", count=0: re.sub(pattern, new, text, count=count)


class _Yaml(yaml.SafeLoader):
    """YAML in which a tag such as `!function` stays visible, so that the field can be named."""


@dataclass(frozen=True)
class _Tagged:
    tag: str


_Yaml.add_multi_constructor("!", lambda loader, suffix, node: _Tagged(f"!{suffix}"))


@dataclass(frozen=True)
class LmEvalTask:
    """files: the task's own, with those that it includes. source: the file, pattern or URL of its questions; shots:
    that of its worked examples. max_tokens: of an answer; 0: it does not say. rules: what ends an answer, filters and
    comparison, as JSON, which travel with each question."""

    files: tuple[str, ...]
    name: str
    chooses: bool
    source: str
    shots: str
    num_shots: int
    text: str
    target: Any
    choices: Any
    description: str
    delimiter: str
    between: str
    max_tokens: int
    rules: str

    @property
    def file(self) -> str:
        """The one that was asked for."""
        return self.files[0]


def read_task(path: str) -> LmEvalTask:
    """Raises SourceError, which names the file and the field, for what is no task or cannot be asked as it says."""
    raw, files = _with_includes(Path(path), ())

    def refuse(field: str, reason: str) -> SourceError:
        return SourceError(f"{path}: {field}: {reason}")

    for field, value in raw.items():
        if tag := _tag_in(value):
            raise refuse(field, f"{tag} runs Python of the task's; write the set with its prompts as a file instead")
        if field not in _KNOWN:
            raise refuse(field, f"is not understood here; it takes {', '.join(sorted(_KNOWN))}")
    kind = raw.get("output_type", "generate_until")
    if kind not in ("generate_until", "multiple_choice"):
        raise refuse("output_type", f"{kind!r} cannot be asked; generate_until and multiple_choice can")
    for field in ("task", "dataset_path", "doc_to_text", "doc_to_target"):
        if raw.get(field) is None:
            raise refuse(field, "is missing")
    if kind == "multiple_choice" and raw.get("doc_to_choice") is None:
        raise refuse("doc_to_choice", "is missing, and a multiple choice needs it")
    for field in ("doc_to_text", "doc_to_target", "doc_to_choice"):
        try:
            _TEMPLATES.from_string(raw[field] if isinstance(raw.get(field), str) else "")
        except TemplateSyntaxError as error:
            raise refuse(field, f"{raw[field]!r} is no Jinja template: {error.message}") from None
    if raw.get("repeats", 1) != 1:
        raise refuse("repeats", f"{raw['repeats']} samples of a question: votes are reasoning.num_samples here")
    split = next((raw[f"{one}_split"] for one in _HELD if raw.get(f"{one}_split")), None)
    if split is None:
        raise refuse("test_split", "is missing, and so are validation_split and training_split")
    count = int(raw.get("num_fewshot") or 0)
    shots = raw.get("fewshot_split") or raw.get("training_split") or raw.get("validation_split") or split
    config = raw.get("fewshot_config") or {}
    if count and config.get("sampler", "default") != "first_n":
        raise refuse("fewshot_config.sampler", "takes first_n here: examples drawn at random are no part of the file")
    if count and (others := set(config) - {"sampler"}):
        raise refuse(f"fewshot_config.{min(others)}", "is not understood here")
    generation = raw.get("generation_kwargs") or {}
    if generation.get("do_sample") or generation.get("temperature", 0):
        raise refuse("generation_kwargs", "asks for sampling; a set is answered greedily, and by votes, which sample")
    until = generation.get("until", raw.get("fewshot_delimiter", "\n\n"))
    stop = [str(one) for one in ([until] if isinstance(until, str) else until) if one]
    return LmEvalTask(
        files,
        str(raw["task"]),
        kind == "multiple_choice",
        _source(raw, str(split), Path(path), refuse),
        _source(raw, str(shots), Path(path), refuse) if count else "",
        count,
        str(raw["doc_to_text"]),
        raw["doc_to_target"],
        raw.get("doc_to_choice"),
        str(raw.get("description") or ""),
        str(raw.get("target_delimiter", " ")),
        str(raw.get("fewshot_delimiter", "\n\n")),
        int(generation.get("max_gen_toks", 0)),
        json.dumps({} if kind == "multiple_choice" else {"stop": stop, **_rules(raw, refuse)}),
    )


def _with_includes(file: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The fields of a task over those of the file that it includes, and the files."""
    if file in above:
        raise SourceError(f"{file}: include: the file includes itself")
    try:
        raw = yaml.load(file.read_text("utf-8"), _Yaml)
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{file}: is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict) or any(not isinstance(key, str) for key in raw):
        raise SourceError(f"{file}: expected the fields of a task, found {type(raw).__name__}")
    if not raw.get("include"):
        return raw, (str(file),)
    below, files = _with_includes(file.parent / str(raw["include"]), (*above, file))
    return {**below, **raw}, (str(file), *files)


def _tag_in(value: Any) -> str:
    if isinstance(value, _Tagged):
        return value.tag
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((tag for one in inner if (tag := _tag_in(one))), "")


def _source(raw: Mapping[str, Any], split: str, file: Path, refuse: Any) -> str:
    """Where the records of a split lie: files beside the task, or a data set of the hub."""
    kwargs = raw.get("dataset_kwargs") or {}
    if unknown := set(kwargs) - {"data_files", "trust_remote_code"}:
        raise refuse(f"dataset_kwargs.{min(unknown)}", "is not understood here")
    where = raw["dataset_path"]
    if where in _FORMATS:
        files = kwargs.get("data_files")
        files = files.get(split) if isinstance(files, dict) else files
        if not isinstance(files, str):
            expected = f"expected one file or pattern for the split {split!r}"
            raise refuse("dataset_kwargs.data_files", f"{expected}, found {files!r}")
        return files if "://" in files or Path(files).is_absolute() else str(file.parent / files)
    folder = f"{raw['dataset_name']}/" if raw.get("dataset_name") else "**/"
    return f"hf://datasets/{where}/{folder}*{split}*"


def _rules(raw: Mapping[str, Any], refuse: Any) -> dict[str, Any]:
    """What happens to an answer before it is compared, and how it is compared."""
    filters = raw.get("filter_list") or [{"filter": []}]
    steps = []
    for number, step in enumerate(filters[0].get("filter", [])):
        field, name = f"filter_list[0].filter[{number}]", step.get("function")
        if name == "take_first":
            continue
        if name not in _FILTERS:
            raise refuse(field, f"function {name!r} is not understood here; it takes {', '.join(_FILTERS)}, take_first")
        if unknown := set(step) - {"function", *_FILTERS[name]}:
            raise refuse(f"{field}.{min(unknown)}", "is not understood here")
        if name == "regex":
            _compiled(str(step.get("regex_pattern", "")), f"{field}.regex_pattern", refuse)
        steps.append(step)
    metrics = [one for one in raw.get("metric_list") or [{"metric": "exact_match"}] if isinstance(one, dict)]
    exact = next((one for one in metrics if one.get("metric") == "exact_match"), None)
    if exact is None:
        found = ", ".join(str(one.get("metric")) for one in metrics)
        raise refuse("metric_list", f"{found} is not measured here; exact_match is")
    for number, pattern in enumerate(exact.get("regexes_to_ignore") or []):
        _compiled(str(pattern), f"metric_list.regexes_to_ignore[{number}]", refuse)
    return {"filters": steps, **{name: exact[name] for name in _MATCH if exact.get(name)}}


def _compiled(pattern: str, field: str, refuse: Any) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise refuse(field, f"{pattern!r} is not a regular expression: {error}") from None


def read_questions_of(task: LmEvalTask, name: str, max_items: int = 0) -> Iterator[Question | Quarantined]:
    """The items of a task in their order. Raises SourceError where no record is one."""
    where = f"evaluation {name!r}: {task.file}"
    shots = _shots(task, where)
    count, first = 0, ""
    for item in read_records_of(where, task.source, name):
        if isinstance(item, Quarantined):
            yield item
            continue
        file, record = item
        try:
            asked, answer, options = _rendered(task, record.value)
        except ValueError as error:
            first = first or f"{file}:{record.number}: {error}"
            yield Quarantined(name, file, record.number, str(error), excerpt(record.value))
            continue
        prompt = task.description + shots + asked
        identity = hashlib.sha256(prompt.encode()).hexdigest()[:12]
        metadata = {**record.value, RULES: task.rules, **({OPTIONS: list(options)} if options else {})}
        yield Question(name, f"{identity}:{record.number}", asked, prompt, answer, metadata, file, record.number)
        count += 1
        if count == max_items:
            return
    if not count:
        raise SourceError(f"{where}: {task.source}: no usable question: {first or 'it is empty'}")


def _shots(task: LmEvalTask, where: str) -> str:
    """The worked examples: the first records of their split."""
    if not task.num_shots:
        return ""
    texts: list[str] = []
    for item in read_records_of(where, task.shots, "examples"):
        if not isinstance(item, Quarantined):
            try:
                asked, answer, options = _rendered(task, item[1].value)
            except ValueError as error:
                raise SourceError(f"{where}: fewshot_split: {item[0]}:{item[1].number}: {error}") from None
            texts.append(asked + task.delimiter + (options[int(answer)] if options else answer) + task.between)
        if len(texts) == task.num_shots:
            return "".join(texts)
    raise SourceError(f"{where}: num_fewshot is {task.num_shots}; {task.shots} has {len(texts)} records")


def _rendered(task: LmEvalTask, row: Any) -> tuple[str, str, tuple[str, ...]]:
    """What is asked, the reference (of a multiple choice the place of the right option) and the options."""
    if not isinstance(row, Mapping):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    asked = str(_value(task.text, row))
    target = _value(task.target, row)
    if not task.chooses:
        if isinstance(target, (list, tuple)):
            raise ValueError("doc_to_target gives several targets: exact_match here compares with one")
        return asked, str(target), ()
    choices = _value(task.choices, row) if isinstance(task.choices, str) else task.choices
    if isinstance(choices, str):
        try:
            choices = literal_eval(choices)
        except (ValueError, SyntaxError):
            raise ValueError(f"doc_to_choice gives {choices[:60]!r}, which is no list") from None
    choices = list(choices.values()) if isinstance(choices, Mapping) else choices
    if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
        raise ValueError("doc_to_choice gives no list of two or more options")
    options = tuple(map(str, choices))
    if isinstance(target, str) and target in options:
        place = options.index(target)
    elif str(target).strip().isdigit():
        place = int(str(target))
    else:
        raise ValueError(f"doc_to_target gives {str(target)[:60]!r}, which is none of the options and no place of one")
    if place >= len(options):
        raise ValueError(f"doc_to_target gives place {place} of {len(options)} options, counted from 0")
    return asked, str(place), options


def _value(template: Any, row: Mapping[str, Any]) -> Any:
    """A column by its name, or what a template gives. Raises ValueError."""
    if not isinstance(template, str):
        return template
    if template in row:
        return row[template]
    try:
        return _TEMPLATES.from_string(template).render(**row)
    except Exception as error:  # a template is a program: of any kind
        raise ValueError(f"the template {template[:60]!r}: {type(error).__name__}: {error}") from None
