"""Where text comes from. One function, `read_source`, turns a setting into a stream of documents and of rejected input.

What cannot be read is never passed over in silence: it is yielded as `Quarantined` (source, file, line, reason,
excerpt) while the rest of the source goes on, and a file or source without anything usable raises `SourceError`.

A budget (`max_bytes`) is spent evenly over the whole source and before anything is parsed, so that a tenth of a corpus
is a tenth of every part of it, at the price of a tenth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import pyarrow.parquet as pq
from fsspec.spec import AbstractFileSystem

from components.data.files import (
    RECORD_ENDINGS,
    SourceError,
    digests,
    hub_files,
    list_files,
    opened,
    packed,
    relative,
    size_of,
)
from components.data.packaged import bible_chapters, sotu_speeches
from components.data.passages import cut_passages
from components.data.records import (
    Record,
    Rejected,
    container_of,
    excerpt,
    not_text,
    parquet_rows,
    read_records,
    seekable,
)
from components.data.tolerant_read import TolerantRead

MAX_QUARANTINED_PER_FILE = 100
GENERATED = ("stories", "problems")
KINDS = ("sotu", "bible", "text", "jsonl", "parquet", "files", "hub", *GENERATED)
_ENDINGS = {"text": packed(".txt", ".md"), "jsonl": packed(".jsonl", ".ndjson"), "parquet": (".parquet",)}
_ENDINGS["files"] = (*_ENDINGS["text"], *RECORD_ENDINGS)


@dataclass(frozen=True)
class SourceConfig:
    """One source of text.

    kind: ``sotu`` and ``bible`` (packages that carry text), ``text``, ``jsonl``, ``parquet`` (path: file, folder, glob
    or fsspec URL), ``files`` (the same; each file is text or records, JSON and CSV too, by what it holds), ``hub``
    (path: ``owner/dataset`` of the Hugging Face hub, a file pattern may follow), ``stories`` and ``problems`` (endless
    seeded generators).
    """

    name: str
    kind: str
    path: str = ""
    field: str = "text"  # of a record, or the column of a Parquet file
    weight: float = 1.0  # share of training windows, relative to the other sources
    max_bytes: int = 0  # UTF-8 bytes to take, spread evenly over the source; 0: all
    passage_chars: int = 2000  # plain texts are cut at paragraphs into documents of about this length; 0: leave whole
    revision: str = "main"  # of a hub dataset
    seed: int = 0  # of a generator

    def __post_init__(self) -> None:
        where = f"data source {self.name!r}"
        if not self.name:
            raise SourceError("a data source has no name")
        if self.kind not in KINDS:
            raise SourceError(f"{where}: unknown kind {self.kind!r}; it takes one of {', '.join(KINDS)}")
        if self.kind in (*_ENDINGS, "hub") and not self.path:
            raise SourceError(f"{where}: kind {self.kind!r} needs a path")
        if self.generated and self.max_bytes <= 0:
            raise SourceError(f"{where}: a generator never ends; give max_bytes")
        for field in ("weight", "max_bytes", "passage_chars"):
            if getattr(self, field) < 0:
                raise SourceError(f"{where}: {field} is {getattr(self, field)}; it takes a number from 0 up")

    @property
    def generated(self) -> bool:
        """Whether our own code writes the text: filters made for found text don't apply to it."""
        return self.kind in GENERATED


@dataclass(frozen=True)
class Document:
    text: str
    source: str
    id: str  # stable across runs and machines: source name, path inside the source, number


@dataclass(frozen=True)
class Quarantined:
    source: str
    file: str
    line: int  # from 1; 0: the file as a whole
    reason: str
    excerpt: str


Generator = Callable[[int], Iterable[str]]


def read_source(
    config: SourceConfig,
    filesystem: AbstractFileSystem | None = None,
    generators: Mapping[str, Generator] | None = None,
) -> Iterator[Document | Quarantined]:
    """Stream one source. `filesystem` stands in for the hub or the local disk, `generators` for the seeded writers.

    Raises SourceError when nothing usable comes, or when a file of records has records and none is usable.
    """
    usable = False
    rejected: list[Quarantined] = []
    for item in _open(config, filesystem, generators or {}):
        if isinstance(item, Document):
            usable = True
        elif len(rejected) < 3:
            rejected.append(item)
        yield item
    if not usable:
        found = "; ".join(f"{q.file}{f':{q.line}' if q.line else ''}: {q.reason}" for q in rejected) or "it is empty"
        raise SourceError(f"data source {config.name!r} ({config.kind}): nothing usable: {found}")


def _open(
    config: SourceConfig, filesystem: AbstractFileSystem | None, generators: Mapping[str, Generator]
) -> Iterator[Document | Quarantined]:
    match config.kind:
        case "sotu":
            return _from_texts(config, *sotu_speeches())
        case "bible":
            return _from_texts(config, *bible_chapters())
        case kind if config.generated:
            return _from_generator(config, generators.get(kind) or _generator(kind))
        case "hub":
            fs, files = hub_files(_where(config), config.path, config.revision, filesystem)
        case kind:
            fs, files = list_files(_where(config), config.path, _ENDINGS[kind], filesystem)
            if kind != "files":
                return _READERS[kind](config, fs, files)
    kinds = {file: _kind_of(config, fs, file) for file in files}
    return chain.from_iterable(
        _READERS[kind](config, fs, of_kind)
        for kind in _READERS
        if (of_kind := [file for file in files if kinds[file] == kind])
    )


def _where(config: SourceConfig) -> str:
    return f"data source {config.name!r}"


def _kind_of(config: SourceConfig, fs: AbstractFileSystem, file: str) -> str:
    """How a file is read, by what it holds; what is damaged or of no known kind is refused by the reader of its
    ending."""
    reading = TolerantRead()
    with opened(_where(config), fs, file) as stream:
        head = b"".join(reading.through(bytes(stream.peek()) for _ in "1"))
    container = container_of(head, file)
    if container == "parquet" or file.endswith(".parquet"):
        return "parquet"
    return "text" if container == "text" else "jsonl"


class _Budget:
    """Decides record by record whether to take it, so that what is taken is spread evenly (error diffusion)."""

    def __init__(self, max_bytes: int, total_bytes: float) -> None:
        self.left = max_bytes if max_bytes else float("inf")
        self._share = 1.0 if not max_bytes else min(1.0, max_bytes / max(total_bytes, 1))
        self._credit = 0.0

    def take(self, size: int) -> bool:
        self._credit += size * self._share
        if self.left <= 0 or (self._share < 1 and self._credit < size / 2):
            return False
        self._credit -= size
        self.left -= size
        return True


# -- texts ------------------------------------------------------------------------------------------------------------


def _from_texts(config: SourceConfig, texts: Iterable[tuple[str, str]], total_bytes: int) -> Iterator[Document]:
    budget = _Budget(config.max_bytes, total_bytes)
    for name, text in texts:
        for number, passage in enumerate(cut_passages(text.splitlines(keepends=True), config.passage_chars)):
            if budget.take(len(passage.encode())):
                yield Document(passage, config.name, f"{config.name}/{name}#{number}")


def _from_text_files(
    config: SourceConfig, fs: AbstractFileSystem, files: list[str]
) -> Iterator[Document | Quarantined]:
    budget = _Budget(config.max_bytes, sum(size_of(fs, f) for f in files))
    for file, name in zip(files, relative(files), strict=True):
        with opened(_where(config), fs, file) as handle:
            reading = TolerantRead()
            head = b"".join(reading.through(bytes(handle.peek()) for _ in "1"))
            reason = reading.reason or not_text(head)
            if not reason and container_of(head, file) != "text":
                reason = "holds records, not prose: read it with kind = 'files' and the name of the field with text"
            if reason:
                yield Quarantined(config.name, file, 0, reason, "")
                continue
            bad = _BadLines()
            for number, passage in enumerate(cut_passages(bad.decode(reading.through(handle)), config.passage_chars)):
                if passage.strip() and budget.take(len(passage.encode())):
                    yield Document(passage, config.name, f"{config.name}/{name}#{number}")
            yield from _damaged(config, file, reading)
            if bad.count:
                reason = (
                    f"{bad.count} lines are not UTF-8 and were left out; convert the file (iconv -f latin1 -t utf-8)"
                )
                yield Quarantined(config.name, file, bad.first, reason, bad.excerpt)


class _BadLines:
    """Decodes lines and remembers those that are not UTF-8; they end the paragraph that they stand in."""

    count, first, excerpt = 0, 0, ""

    def decode(self, lines: Iterable[bytes]) -> Iterator[str]:
        for number, raw in enumerate(lines, start=1):
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                if not self.count:
                    self.first, self.excerpt = number, excerpt(raw)
                self.count += 1
                yield "\n"


# -- records ----------------------------------------------------------------------------------------------------------


def _from_records(config: SourceConfig, fs: AbstractFileSystem, files: list[str]) -> Iterator[Document | Quarantined]:
    """JSON lines, JSON arrays, CSV: what is left of the budget by the size of each record, before it is parsed."""
    budget = _Budget(config.max_bytes, sum(size_of(fs, f) for f in files))
    for file, name in zip(files, relative(files), strict=True):
        kept = _Kept(config, file, name)
        with opened(_where(config), fs, file) as handle:
            reading = TolerantRead()
            for item in reading.through(read_records(handle, file, budget.take)):
                yield from kept.take(item)
            yield from _damaged(config, file, reading)
        yield from kept.summary()


class _Kept:
    """What the records of one file give, and how many are unusable."""

    def __init__(self, config: SourceConfig, file: str, name: str) -> None:
        self._config, self._file, self._name = config, file, name
        self._usable = False
        self._first: Quarantined | None = None
        self._num_bad = 0

    def take(self, item: Record | Rejected) -> Iterator[Document | Quarantined]:
        config = self._config
        text, reason = _usable(item.value, config.field) if isinstance(item, Record) else ("", item.reason)
        if text:
            self._usable = True
            yield Document(text, config.name, f"{config.name}/{self._name}#{item.number}")
            return
        shown = excerpt(item.value) if isinstance(item, Record) else item.excerpt
        bad = Quarantined(config.name, self._file, item.number, reason, shown)
        if item.number:  # the file as a whole is no row
            self._first = self._first or bad
            self._num_bad += 1
        if self._num_bad <= MAX_QUARANTINED_PER_FILE:
            yield bad

    def summary(self) -> Iterator[Quarantined]:
        """How many more are unusable than were listed; raises SourceError when none is usable."""
        if self._first and not self._usable:
            raise SourceError(
                f"{_where(self._config)}: {self._file}: none of the {self._num_bad} rows read is usable; "
                f"row {self._first.line}: {self._first.reason}. A [[data.sources]] says in which field the text is; "
                "conversations are an [[instruction.sources]]"
            )
        if self._num_bad > MAX_QUARANTINED_PER_FILE:
            rest = self._num_bad - MAX_QUARANTINED_PER_FILE
            reason = f"{rest} more unusable rows, not listed one by one"
            yield Quarantined(self._config.name, self._file, 0, reason, "")


def _usable(row: Any, field: str) -> tuple[str, str]:
    """(text, "") or ("", why the row is unusable)."""
    if not isinstance(row, dict):
        return "", f"expected a JSON object, found {type(row).__name__}"
    if field not in row:
        return "", f"no field {field!r}; the row has {', '.join(sorted(map(str, row))[:8]) or 'none'}"
    text = row[field]
    if not isinstance(text, str):
        return "", f"field {field!r} is {'null' if text is None else type(text).__name__}, not text"
    return (text, "") if text.strip() else ("", f"field {field!r} is empty")


def _damaged(config: SourceConfig, file: str, reading: TolerantRead) -> Iterator[Quarantined]:
    if reading.reason:
        yield Quarantined(config.name, file, 0, reading.reason, "")


def _from_parquet(config: SourceConfig, fs: AbstractFileSystem, files: list[str]) -> Iterator[Document | Quarantined]:
    budget: _Budget | None = None
    for file, name in zip(files, relative(files), strict=True):
        kept = _Kept(config, file, name)
        with opened(_where(config), fs, file) as handle:
            reading = TolerantRead()
            for content in reading.through(seekable(handle) for _ in "1"):
                try:
                    table = pq.ParquetFile(content)
                except Exception as error:  # pyarrow raises several kinds for what is not Parquet
                    reason = "empty file" if not size_of(fs, file) else f"not a Parquet file ({error})"
                    yield Quarantined(config.name, file, 0, reason, "")
                    continue
                if config.field not in table.schema_arrow.names:
                    names = ", ".join(table.schema_arrow.names[:8])
                    raise SourceError(f"{_where(config)}: {file}: no column {config.field!r}; it has {names}")
                rows = reading.through(parquet_rows(table, [config.field]))
                first = list(islice(rows, 1024))
                if budget is None:
                    # The size on disk is compressed; the first rows tell better how long a row is.
                    mean = sum(map(_size, first, repeat(config.field))) / max(len(first), 1)
                    budget = _Budget(config.max_bytes, mean * table.metadata.num_rows * len(files))
                for item in chain(first, rows):
                    if budget.take(_size(item, config.field)):
                        yield from kept.take(item)
            yield from _damaged(config, file, reading)
        yield from kept.summary()


def _size(item: Record | Rejected, field: str) -> int:
    text = item.value[field] if isinstance(item, Record) else None
    return len(text.encode("utf-8", "replace")) if isinstance(text, str) else 0


_READERS = {"text": _from_text_files, "jsonl": _from_records, "parquet": _from_parquet}


# -- generators -------------------------------------------------------------------------------------------------------


def _generator(kind: str) -> Generator:
    match kind:
        case "stories":
            from components.data.stories import generate_stories

            return generate_stories
        case "problems":
            from components.reasoning.tasks import generate_problem_texts

            return generate_problem_texts
    raise SourceError(f"no generator is called {kind!r}")


def _from_generator(config: SourceConfig, generate: Generator) -> Iterator[Document]:
    left = config.max_bytes
    for number, text in enumerate(generate(config.seed)):
        left -= len(text.encode())
        yield Document(text, config.name, f"{config.name}/{config.seed}#{number}")
        if left <= 0:
            return


# -- the user's own bytes ----------------------------------------------------------------------------------------------


def raw_digests(config: SourceConfig, filesystem: AbstractFileSystem | None = None) -> dict[str, str]:
    """sha256 of each file of the user's own, by its path below the source: with other bytes it is another corpus.

    Empty for packages, generators and hub datasets, which their version, seed and revision tell apart. Raises
    SourceError as reading does when there is no such file.
    """
    if config.kind not in _ENDINGS:
        return {}
    return digests(*list_files(_where(config), config.path, _ENDINGS[config.kind], filesystem))
