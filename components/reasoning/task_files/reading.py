"""The items of a task, streamed: a file, a folder, a pattern, an fsspec URL, or `hub:owner/dataset/pattern`."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from fsspec.spec import AbstractFileSystem

from components.data.files import RECORD_ENDINGS, Quarantined, SourceError, hub_files, list_files, opened
from components.data.prompt_files import as_text
from components.data.records import Record, excerpt, lone_surrogate, read_records
from components.data.tolerant_read import TolerantRead
from components.reasoning.scoring.scorers import Scorer, chosen_scorer, scorer_for
from components.reasoning.task_files.formats import FORMATS, Columns, Format, Part, Unusable

HUB = "hub:"
_LOOKED_AT = 200  # answers by which a scorer is chosen, where the format leaves it open
_ANY_COLUMNS = Columns()


@dataclass(frozen=True)
class TaskItem:
    """One question. text: what is asked, options and all. answer: the right one. worked: a solution for an example, ""
    where there is none. cluster: items with the same one depend on each other. suite: its file, as rows name it."""

    id: str
    text: str
    answer: str
    worked: str
    cluster: str
    suite: str
    scorer: Scorer = field(repr=False)
    file: str = ""
    line: int = 0


@dataclass(frozen=True)
class Task:
    """Where items come from, and how they are read. formats, scorers: by file."""

    name: str
    path: str
    columns: Columns
    formats: Mapping[str, Format]
    scorers: Mapping[str, Scorer]
    filesystem: AbstractFileSystem = field(repr=False)

    @property
    def files(self) -> tuple[str, ...]:
        """The files with items."""
        return tuple(self.scorers)

    @property
    def described(self) -> str:
        """The format, how answers are found and compared, and what items share."""
        rules = dict.fromkeys(scorer.described for scorer in self.scorers.values())
        told = "; ".join(itertools.islice(rules, 2)) + ("; …" if len(rules) > 2 else "")
        named = [f"{name} {value}" for name, value in vars(self.columns).items() if value]
        formats = list({one.name: one for one in self.formats.values()}.values())
        cluster = self.columns.cluster or " or ".join(one.cluster for one in formats if one.cluster)
        files = f", {len(self.files)} files" if len(self.files) > 1 else ""
        return (
            f"task {self.name}: format {', '.join(one.name for one in formats)}"
            f"{' (' + ', '.join(named) + ')' if named else ''}{files}; "
            f"scorer {told}{'; clusters: ' + cluster if cluster else ''}"
        )

    def items(self) -> Iterator[TaskItem | Quarantined]:
        """Every item in order, and every record that is none, read anew at each call. An id that the file does not give
        is the hash of the question; one that stands twice gets a number."""
        seen: dict[bytes, int] = {}
        several = len(self.files) > 1
        for file in self.files:
            format, suite = self.formats[file], _stem(file) if several else self.name
            for line, part in _parts(self.filesystem, file, format, self.columns):
                if isinstance(part, Quarantined):
                    yield part
                    continue
                name = part.id or hashlib.sha256(part.question.encode()).hexdigest()[:12]
                name = f"{suite}/{name}" if several else name
                mark = hashlib.sha256(name.encode()).digest()[:8]  # of 10⁵ names eight bytes each are kept
                seen[mark] = times = seen.get(mark, 0) + 1
                name += f"#{times}" if times > 1 else ""
                cluster = part.group or (suite if format.name == "bbh" and several else name)
                yield TaskItem(
                    name,
                    part.question,
                    part.answer,
                    part.worked,
                    cluster,
                    suite,
                    self.scorers[file],
                    file,
                    line,
                )


def open_task(
    path: str,
    format: str = "",
    columns: Columns = _ANY_COLUMNS,
    scorer: str = "",
    revision: str = "main",
    filesystem: AbstractFileSystem | None = None,
) -> Task:
    """A task, with its format told from the first record of each file unless it is named.

    Raises SourceError where there is nothing to read, or a name is unknown.
    """
    where = f"task {path}"
    if format and format not in FORMATS:
        raise SourceError(f"{where}: there is no format {format!r}: take one of {', '.join(FORMATS)}")
    if path.startswith(HUB):
        fs, files = hub_files(where, path.removeprefix(HUB), revision, filesystem)
    else:
        fs, files = list_files(where, path, RECORD_ENDINGS, filesystem)
    formats, scorers, problems = {}, {}, []
    for file in files:
        try:
            formats[file] = FORMATS[format] if format else _format_of(fs, file, columns)
        except SourceError as error:
            problems.append(str(error))
    if any(
        one.name == "bbh" for one in formats.values()
    ):  # one of its tasks, with numbers as answers, looks like MAWPS
        formats = {file: FORMATS["bbh"] if one.name == "mawps" else one for file, one in formats.items()}
    for file, one in formats.items():
        try:
            scorers[file] = _scorer_of(fs, file, one, columns, scorer)
        except SourceError as error:
            problems.append(str(error))
    if problems:
        raise SourceError(f"{where}: {'; '.join(problems[:3])}: name the files that are tasks, with a pattern")
    bare = PurePosixPath(path.removeprefix(HUB))
    name = _stem(str(bare.parent if any(mark in bare.name for mark in "*?[") else bare)) or path
    return Task(name, path, columns, formats, scorers, fs)


def _format_of(fs: AbstractFileSystem, file: str, columns: Columns) -> Format:
    reasons = []
    with opened(file, fs, file) as stream:
        reading = TolerantRead()
        for item in itertools.islice(reading.through(read_records(stream, file)), 20):
            if not isinstance(item, Record):
                reasons.append(f"line {item.number}: {item.reason}")
            elif not isinstance(item.value, Mapping):
                reasons.append(f"line {item.number}: expected an object, found {type(item.value).__name__}")
            elif columns.question or columns.answer:
                return FORMATS["choice" if FORMATS["choice"].takes(item.value) else "plain"]
            else:
                return next(one for one in FORMATS.values() if one.takes(item.value))
    raise SourceError(f"{file}: no record can be read: {(reasons or [reading.reason or 'it is empty'])[0]}")


def _scorer_of(fs: AbstractFileSystem, file: str, format: Format, columns: Columns, name: str) -> Scorer:
    """The scorer of a file. Raises SourceError where no record is an item, or there is no such scorer."""
    parts = (part for _, part in _parts(fs, file, format, columns))
    answers, reasons = [], []
    for part in itertools.islice(parts, _LOOKED_AT):
        if isinstance(part, Part):
            answers.append(part.answer)
        else:
            reasons.append(f"line {part.line}: {part.reason}")
    if not answers:
        raise SourceError(
            f"{file}: no record is an item of the format {format.name}: {(reasons or ['it is empty'])[0]}"
        )
    try:
        return chosen_scorer(name or format.scorer or scorer_for(answers))
    except ValueError as error:
        raise SourceError(str(error)) from None


def _parts(
    fs: AbstractFileSystem, file: str, format: Format, columns: Columns
) -> Iterator[tuple[int, Part | Quarantined]]:
    """The questions of a file with their lines, and why a record is none."""
    with opened(file, fs, file) as stream:
        reading = TolerantRead()
        for item in reading.through(read_records(stream, file)):
            if not isinstance(item, Record):
                yield item.number, Quarantined(file, file, item.number, item.reason, item.excerpt)
                continue
            row = item.value
            try:
                if not isinstance(row, Mapping):
                    raise Unusable(f"expected an object, found {type(row).__name__}")
                if place := lone_surrogate(row):
                    raise Unusable(f"{place} holds half a character (a lone surrogate), which UTF-8 cannot write")
                for part in list(format.read(row, columns)):
                    group = as_text(row.get(columns.cluster)) if columns.cluster else part.group
                    yield item.number, Part(part.question, part.answer, part.worked, group, part.id)
            except (Unusable, KeyError, TypeError) as error:
                reason = str(error) if isinstance(error, Unusable) else f"not of the format {format.name}: {error!r}"
                yield item.number, Quarantined(file, file, item.number, reason, excerpt(row))
        if reading.reason:
            yield 0, Quarantined(file, file, 0, reading.reason, "")


def _stem(path: str) -> str:
    return re.sub(r"(\.\w+){1,2}$", "", PurePosixPath(path).name)
