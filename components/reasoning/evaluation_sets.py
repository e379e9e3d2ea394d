"""Evaluation sets of a user's own: questions with an answer and a scorer, from files of records.

A record that cannot be asked or judged is rejected with its file, line and reason; nothing of it is guessed.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from components.data.files import RECORD_ENDINGS, Quarantined, SourceError, digests, list_files
from components.data.prompt_files import as_text, columns_of, read_records_of
from components.data.records import excerpt, lone_surrogate
from components.reasoning.items import Item
from components.reasoning.lm_eval_verifier import OPTIONS, LmEvalVerifier
from components.reasoning.question_files import Question
from components.reasoning.scoring.text import marked
from components.rlhf.rewards.answers import Sample, Score
from components.rlhf.rewards.choice import ChoiceReward
from components.rlhf.rewards.kinds import Verifier
from components.rlhf.rewards.number import NumberReward

_FIELD = re.compile(r"\{(\w+)\}")
_LABELLED = re.compile(r"\(?[A-Z]\s*[).:]")


@dataclass(frozen=True)
class EvaluationConfig:
    """One `[[evaluations]]`: a file, folder, pattern or fsspec URL of JSONL, JSON, CSV or Parquet, compressed or not.

    name: what reports call it; by default the file's. kind: questions with an answer; or pairs, a local file of any
    format of preferences, of which a model should find the chosen answer the more probable one; or lm_eval, a task file
    of lm-evaluation-harness. To the latter two of the rest only max_items applies, and to a task max_tokens. question,
    answer: columns. options: the column with the options of a multiple choice (a list); they are shown with letters,
    and an answer may be a letter, a place from 0, or the text of an option. template: what the user says, from columns
    in braces and {options}; "": the question and, where there are any, the options. scorer: a verifier, as for rewards;
    by default `number`, of a multiple choice `choice`.
    max_items: the first so many; 0: all. max_tokens: limit of an answer.
    """

    path: str
    name: str = ""
    kind: Literal["questions", "pairs", "lm_eval"] = "questions"
    question: str = "question"
    answer: str = "answer"
    options: str = ""
    template: str = ""
    scorer: Annotated[Verifier, Field(discriminator="kind")] | None = None
    max_items: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("evaluations.path is empty: give a file, folder or URL")
        if self.max_items < 0 or self.max_tokens < 1:
            raise ValueError("evaluations.max_items takes 0 or more, max_tokens 1 or more")
        if self.path.endswith((".yaml", ".yml")) and self.kind != "lm_eval":
            raise ValueError(
                f'evaluations.path {self.path}: a task file of lm-evaluation-harness: say kind = "lm_eval"'
            )
        unread = ("question", "answer", "options", "template", "scorer")
        if self.kind == "lm_eval" and (given := [f for f in unread if getattr(self, f) != _DEFAULTS[f]]):
            raise ValueError(f"evaluations.{given[0]}: a task file of lm-evaluation-harness says this itself")

    @property
    def called(self) -> str:
        """Its name, or that of its file."""
        return self.name or re.sub(r"(\.\w+){1,2}$", "", PurePosixPath(self.path).name) or self.path

    @property
    def verifier(self) -> Verifier | LmEvalVerifier:
        """What judges an answer."""
        if self.kind == "lm_eval":
            return LmEvalVerifier()
        return self.scorer or (ChoiceReward() if self.options else NumberReward())


_DEFAULTS = {field.name: field.default for field in fields(EvaluationConfig)}


def evaluation_digests(config: EvaluationConfig) -> dict[str, str]:
    """sha256 of each file, by its path below the source. Raises SourceError where there is none."""
    if config.kind == "lm_eval":
        from components.reasoning.lm_eval_task import read_task

        task = read_task(config.path)
        own = {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in task.files}
        sources = [source for source in (task.source, task.shots) if source]
        where = f"evaluation {config.called!r}"
        read = [digests(*list_files(where, source, RECORD_ENDINGS)) for source in sources]
        return own | {name: digest for found in read for name, digest in found.items()}
    return digests(*list_files(f"evaluation {config.called!r}", config.path, RECORD_ENDINGS))


def read_evaluation(config: EvaluationConfig) -> Iterator[Question | Quarantined]:
    """The items of a set in their order. Raises SourceError where no record is one."""
    if config.kind == "lm_eval":
        from components.reasoning.lm_eval_task import read_questions_of, read_task

        task = read_task(config.path)
        if task.max_tokens not in (0, config.max_tokens) and not task.chooses:
            says = (
                f"max_gen_toks is {task.max_tokens} and evaluations.max_tokens {config.max_tokens}: give both one value"
            )
            raise SourceError(f"{config.path}: generation_kwargs.{says}")
        yield from read_questions_of(task, config.called, config.max_items)
        return
    where, count = f"evaluation {config.called!r}", 0
    seen: Counter[str] = Counter()
    rejected: list[Quarantined] = []
    for item in read_records_of(where, config.path, config.called):
        found: Question | Quarantined
        if isinstance(item, Quarantined):
            found = item
        else:
            file, record = item
            made = _question(config, record.value)
            if isinstance(made, Question):
                name = hashlib.sha256(made.prompt.encode()).hexdigest()[:12]
                seen[name] += 1  # a question that stands twice is two items
                name += f"#{seen[name]}" if seen[name] > 1 else ""
                found = Question(
                    made.set, name, made.question, made.prompt, made.answer, made.metadata, file, record.number
                )
                count += 1
            else:
                found = Quarantined(config.called, file, record.number, made, excerpt(record.value))
        if isinstance(found, Quarantined):
            rejected.append(found)
        yield found
        if config.max_items and count == config.max_items:
            return
    if not count:
        first = "; ".join(f"{q.file}{f':{q.line}' if q.line else ''}: {q.reason}" for q in rejected[:3])
        raise SourceError(f"{where}: {config.path}: no usable question: {first or 'it is empty'}")


def _question(config: EvaluationConfig, row: object) -> Question | str:
    """The item of a record, without its place, or why it is none."""
    if not isinstance(row, Mapping):
        return f"expected an object with a column {config.question!r}, found {type(row).__name__}"
    if place := lone_surrogate(row):
        return f"{place} holds half a character (a lone surrogate), which UTF-8 cannot write"
    for name in (config.question, config.answer, *([config.options] if config.options else [])):
        if row.get(name) is None or (isinstance(row[name], str) and not row[name].strip()):
            return f"no column {name!r}; the record has {columns_of(row)}"
    question, answer = as_text(row[config.question]), as_text(row[config.answer])
    shown = ""
    if config.options:
        options = row[config.options]
        if not isinstance(options, Sequence) or isinstance(options, str) or len(options) < 2 or len(options) > 26:
            return f"{config.options} is no list of 2 to 26 options"
        texts = [as_text(option).strip() for option in options]
        letter = _letter(row[config.answer], texts)
        if not letter:
            return f"the answer {answer[:60]!r} is none of the {len(texts)} options"
        answer = letter
        shown = "\n".join(
            text if _LABELLED.match(text) else f"{chr(65 + place)}) {text}" for place, text in enumerate(texts)
        )
    if reason := config.verifier.refusal(answer, row):
        return reason
    prompt = f"{question}\n{shown}" if shown else question
    if config.template:
        values = {**row, "options": shown}
        missing = [name for name in _FIELD.findall(config.template) if values.get(name) is None]
        if missing:
            return f"no column {missing[0]!r}, which the template names"
        prompt = _FIELD.sub(lambda found: as_text(values[found[1]]), config.template)
    used = {config.question, config.answer, config.options}
    metadata = {str(name): value for name, value in row.items() if name not in used}
    return Question(config.called, "", question, prompt, answer, metadata)


def _letter(answer: object, options: Sequence[str]) -> str:
    """The letter of the right option, from a letter, a place from 0, or the option's text."""
    if isinstance(answer, bool):
        return ""
    if isinstance(answer, (int, float)) and answer == int(answer):
        return chr(65 + int(answer)) if 0 <= answer < len(options) else ""
    text = str(answer).strip()
    alone = re.fullmatch(r"\(?\s*([A-Za-z])\s*[).:]?", text)
    if alone and ord(alone[1].upper()) - 65 < len(options):
        return alone[1].upper()
    plain = [_LABELLED.sub("", option, count=1).strip() if _LABELLED.match(option) else option for option in options]
    places = [place for place, option in enumerate(plain) if option == text]
    return chr(65 + places[0]) if len(places) == 1 else ""


def are_ranked(questions: Sequence[Question]) -> bool:
    """Whether a model chooses among given answers, so that nothing is generated."""
    return any("rejected" in one.metadata or OPTIONS in one.metadata for one in questions[:1])


def as_item(question: Question, verifier: Verifier | LmEvalVerifier) -> Item:
    """As strategies see it: one way to ask, an answer found in a text, and whether it is right."""

    def judged(text: str, finished: bool) -> Score:
        message = ({"role": "user", "content": question.prompt},)
        return verifier.score(Sample(message, text, question.answer, question.metadata, finished))

    return Item(
        item_id=question.id,
        question=question.question,
        target=marked(question.answer, ("####",), finished=True) or question.answer,
        difficulty=0,
        direct=question.prompt,
        worked=question.prompt,
        extract=lambda text: judged(text, True).found,
        verify=lambda text: judged(text, True).value == 1.0,
        extract_cut=lambda text: judged(text, False).found,
        verify_cut=lambda text: judged(text, False).value == 1.0,
    )
