"""Prompts of a user's own, from files of records: what a policy is asked, and how its answer is told to be right.

A record has a prompt (text, or a list of `{"role", "content"}` that ends with the user), perhaps an answer, and any
other columns, which rewards may read. A record that is none is rejected with its file, line and reason, and the file
goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.files import RECORD_ENDINGS, Quarantined, SourceError, digests, list_files, opened
from components.data.records import Record, excerpt, lone_surrogate, read_records
from components.data.tolerant_read import TolerantRead

_ROLES = ("system", "user", "assistant")
_FIELD = re.compile(r"\{(\w+)\}")
MAX_QUARANTINED_PER_FILE = 100
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("id", "split", "source", "messages_json", "answer", "metadata_json", "file")]
    + [("line", pa.int64())]
)


@dataclass(frozen=True)
class PromptsConfig:
    """One `[[prompts]]`: a file, folder, pattern or fsspec URL of JSONL, JSON, CSV or Parquet, compressed or not.

    name: what tables call it; by default the file's. prompt, answer: columns; a record need not have the answer.
    template: what the user says, from the columns in braces ("{question} Think in steps."); "": the prompt as it is.
    system: a system turn before every prompt; "": none. split: `by prompt` holds out the share `held_out` of the
    prompts; `train` and `held_out` use all of them so. max_prompts: the first so many; 0: all.
    """

    path: str
    name: str = ""
    prompt: str = "prompt"
    answer: str = "answer"
    template: str = ""
    system: str = ""
    split: Literal["by prompt", "train", "held_out"] = "by prompt"
    held_out: float = 0.1
    max_prompts: int = 0

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("prompts.path is empty: give a file, folder or URL")
        if not 0 < self.held_out < 1:
            raise ValueError(f"prompts.held_out is {self.held_out}: give a share between 0 and 1")
        if self.max_prompts < 0:
            raise ValueError(f"prompts.max_prompts is {self.max_prompts}: give a number of at least 0")

    @property
    def called(self) -> str:
        """Its name, or that of its file."""
        return self.name or re.sub(r"(\.\w+){1,2}$", "", PurePosixPath(self.path).name) or self.path


@dataclass(frozen=True)
class Prompt:
    """One prompt. messages: the turns, the last of them the user's. answer: "" where it has none. metadata: its other
    columns. file, line: where it stands."""

    messages: tuple[Mapping[str, str], ...]
    answer: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    file: str = ""
    line: int = 0

    @property
    def text(self) -> str:
        """What the user says last."""
        return self.messages[-1]["content"]

    @property
    def id(self) -> str:
        """The same for the same turns."""
        return hashlib.sha256(json.dumps([dict(m) for m in self.messages]).encode()).hexdigest()[:16]

    def rejected(self, reason: str) -> Quarantined:
        """As a row of the table `quarantine`."""
        return Quarantined(self.source, self.file, self.line, reason, excerpt(self.text))


def user_says(text: str, answer: str = "", **metadata: Any) -> Prompt:
    """A prompt of one turn."""
    return Prompt(({"role": "user", "content": text},), answer, metadata)


def prompt_digests(config: PromptsConfig) -> dict[str, str]:
    """sha256 of each file, by its path below the source. Raises SourceError where there is none."""
    return digests(*list_files(f"prompts {config.called!r}", config.path, RECORD_ENDINGS))


def read_records_of(where: str, path: str, source: str) -> Iterator[tuple[str, Record] | Quarantined]:
    """Every record of a source with its file, and what could not be read. Raises SourceError where there is no file."""
    fs, files = list_files(where, path, RECORD_ENDINGS)
    for file in files:
        rejected = 0
        with opened(where, fs, file) as stream:
            reading = TolerantRead()
            for item in reading.through(read_records(stream, file)):
                if isinstance(item, Record):
                    yield file, item
                    continue
                rejected += 1
                if rejected <= MAX_QUARANTINED_PER_FILE:
                    yield Quarantined(source, file, item.number, item.reason, item.excerpt)
        if reading.reason:
            yield Quarantined(source, file, 0, reading.reason, "")
        if rejected > MAX_QUARANTINED_PER_FILE:
            yield Quarantined(source, file, 0, f"{rejected - MAX_QUARANTINED_PER_FILE} more, not listed one by one", "")


def read_prompt_files(config: PromptsConfig) -> Iterator[Prompt | Quarantined]:
    """The prompts of a source in their order. Raises SourceError where none of its records is one."""
    where, count = f"prompts {config.called!r}", 0
    rejected: list[Quarantined] = []
    for item in read_records_of(where, config.path, config.called):
        found: Prompt | Quarantined
        if isinstance(item, Quarantined):
            found = item
        else:
            file, record = item
            made = _prompt(config, record.value)
            found = (
                Quarantined(config.called, file, record.number, made, excerpt(record.value))
                if isinstance(made, str)
                else Prompt(made.messages, made.answer, made.metadata, config.called, file, record.number)
            )
        if isinstance(found, Quarantined):
            rejected.append(found)
        else:
            count += 1
        yield found
        if config.max_prompts and count == config.max_prompts:
            return
    if not count:
        first = "; ".join(f"{q.file}{f':{q.line}' if q.line else ''}: {q.reason}" for q in rejected[:3])
        raise SourceError(f"{where}: {config.path}: no usable prompt: {first or 'it is empty'}")


def _prompt(config: PromptsConfig, row: object) -> Prompt | str:
    """The prompt of a record, or why it is none."""
    if not isinstance(row, Mapping):
        return f"expected an object with a column {config.prompt!r}, found {type(row).__name__}"
    if place := lone_surrogate(row):
        return f"{place} holds half a character (a lone surrogate), which UTF-8 cannot write"
    said: object = row.get(config.prompt)
    if config.template:
        missing = [name for name in _FIELD.findall(config.template) if row.get(name) is None]
        if missing:
            return f"no column {missing[0]!r}, which the template names; the record has {columns_of(row)}"
        said = _FIELD.sub(lambda found: as_text(row[found[1]]), config.template)
    elif said is None:
        return f"no column {config.prompt!r}; the record has {columns_of(row)}"
    messages = [{"role": "user", "content": said}] if isinstance(said, str) else as_messages(said)
    if isinstance(messages, str):
        return f"{config.prompt}: {messages}"
    if not messages[-1]["content"].strip():
        return f"{config.prompt} is empty"
    if config.system:
        if messages[0]["role"] == "system":
            return f"{config.prompt} has a system turn of its own beside prompts.system"
        messages = [{"role": "system", "content": config.system}, *messages]
    used = {config.answer} if config.template else {config.prompt, config.answer}
    metadata = {str(name): value for name, value in row.items() if name not in used}
    return Prompt(tuple(messages), as_text(row.get(config.answer)), metadata)


def as_messages(value: object) -> list[dict[str, str]] | str:
    """Turns as `{"role", "content"}` of text, or why they are no prompt."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)) or not value:
        return f"neither text nor a list of messages, but {type(value).__name__}"
    messages = []
    for index, turn in enumerate(value):
        if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
            role = turn.get("role") if isinstance(turn, Mapping) else type(turn).__name__
            return f"messages[{index}]: role {role!r}, which is none of {', '.join(_ROLES)}"
        content = turn.get("content")
        if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
            content = "".join(str(part.get("text", "")) for part in content)
        if not isinstance(content, str):
            return f"messages[{index}]: its content is {type(content).__name__}, not text"
        messages.append({"role": str(turn["role"]), "content": content})
    if messages[-1]["role"] != "user":
        return f"the last turn is the {messages[-1]['role']}'s: a prompt ends with the user"
    return messages


def columns_of(row: Mapping[Any, Any]) -> str:
    """The names of a record's columns, as a reason gives them."""
    return ", ".join(sorted(map(str, row))[:8]) or "none"


def as_text(value: object) -> str:
    """A cell as text: text as it is, nothing as "", a whole float without its point, the rest as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value) and value == int(value) and abs(value) < 2**53:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def held_out_of(prompts: Sequence[Prompt], config: PromptsConfig, seed: int) -> set[str]:
    """Ids of the prompts that are held out of training: each by a draw of its own, so that a file that grows moves
    few of them; at least one, and of several not all."""
    if config.split != "by prompt":
        return {prompt.id for prompt in prompts} if config.split == "held_out" else set()
    draws = {
        prompt.id: int.from_bytes(hashlib.sha256(f"{seed}:{prompt.id}".encode()).digest()[:8]) / 2**64
        for prompt in prompts
    }
    ordered = sorted(draws, key=lambda name: draws[name])
    count = sum(draw < config.held_out for draw in draws.values())
    return set(ordered[: min(max(count, 1), max(len(ordered) - 1, 0))])


def write_prompts(file: Path, train: Sequence[Prompt], held_out: Sequence[Prompt]) -> None:
    """As Parquet, a row a prompt."""
    rows = [
        {
            "id": prompt.id,
            "split": split,
            "source": prompt.source,
            "messages_json": json.dumps([dict(m) for m in prompt.messages], ensure_ascii=False),
            "answer": prompt.answer,
            "metadata_json": json.dumps(dict(prompt.metadata), ensure_ascii=False, default=str),
            "file": prompt.file,
            "line": prompt.line,
        }
        for split, prompts in (("train", train), ("held_out", held_out))
        for prompt in prompts
    ]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")


def read_prompts(file: Path) -> tuple[list[Prompt], list[Prompt]]:
    """The inverse of `write_prompts`: those to train on, and those held out."""
    parts: dict[str, list[Prompt]] = {"train": [], "held_out": []}
    for row in pq.read_table(file).to_pylist():
        parts[row["split"]].append(
            Prompt(
                tuple(json.loads(row["messages_json"])),
                row["answer"],
                json.loads(row["metadata_json"]),
                row["source"],
                row["file"],
                row["line"],
            )
        )
    return parts["train"], parts["held_out"]
