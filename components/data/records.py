"""Records of any file: JSON lines, a JSON array or object, CSV, Parquet; plain or compressed, told by the content.

One reader for corpora, conversations and preferences. A record that cannot be read is passed on as `Rejected` with its
number and the reason, and the reading goes on behind it; what ends a file is raised, for `TolerantRead` to note.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

Container = Literal["parquet", "lines", "array", "object", "csv", "text"]
EXCERPT_CHARS = 120
_BUFFER = 1 << 18
_UNREADABLE = (ValueError, RecursionError)  # of JSON: broken, a number of thousands of digits, nested too deeply
_ARRAY = re.compile(rb"\s*\[\s*(?:\]|\{\s*[\"}])")
_OBJECT = re.compile(rb"\s*\{\s*[\"}]")
_BETWEEN = re.compile(r"[\s,]*")
_NEXT_OBJECT = re.compile(r",\s*(?=\{)")
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')
_BLANK = re.compile(r"\s*")
_MAX_TRIED = 1000  # beginnings of records behind a broken one
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
# Under which a file of one JSON object holds its records.
_WRAPPERS = ("data", "rows", "records", "examples", "instances", "items", "train")


class Record(NamedTuple):
    number: int  # of its line in a file of lines, else of the record; from 1
    value: Any


class Rejected(NamedTuple):
    number: int  # as of a record; 0: the file as a whole
    reason: str
    excerpt: str


def excerpt(value: object, length: int = EXCERPT_CHARS) -> str:
    """The beginning of a record, as text that UTF-8 can hold."""
    if isinstance(value, bytes):
        text = value[: 4 * length].decode("utf-8", errors="replace")
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text[: 4 * length].encode("utf-8", "replace").decode().strip()[:length]


def field_of(row: Mapping[str, Any], field: str) -> Any:
    """The value of a field by its name, or of a nested one by its path, as ``meta.text``. Raises KeyError."""
    if field in row:
        return row[field]
    held: Any = row
    for name in field.split("."):
        if not isinstance(held, Mapping) or name not in held:
            raise KeyError(field)
        held = held[name]
    return held


def lone_surrogate(value: object, path: str = "") -> str:
    """Where a value holds half a character, which UTF-8 cannot write: ``messages[1].content``; empty where nowhere."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return path or "the text"
    elif isinstance(value, Mapping):
        for key, held in value.items():
            if found := lone_surrogate(held, f"{path}.{key}" if path else str(key)):
                return found
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for index, held in enumerate(value):
            if found := lone_surrogate(held, f"{path}[{index}]"):
                return found
    return ""


# -- bytes ------------------------------------------------------------------------------------------------------------


def decompressed(stream: Any) -> io.BufferedReader:
    """The bytes of a file: of gzip, bzip2, xz or zstd what is packed, told by its first bytes, whatever its name."""
    plain = io.BufferedReader(stream, _BUFFER)
    head = plain.peek(6)[:6]
    if head.startswith(b"\x1f\x8b"):
        unpacked: Any = gzip.GzipFile(fileobj=plain)
    elif head.startswith(b"BZh"):
        unpacked = bz2.BZ2File(plain)
    elif head.startswith(b"\xfd7zXZ\0"):
        unpacked = lzma.LZMAFile(plain)  # noqa: SIM115 - its reader closes it
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        unpacked = pa.CompressedInputStream(pa.PythonFile(plain, "r"), "zstd")
    else:
        return plain
    return io.BufferedReader(_Unpacked(unpacked), _BUFFER)


class _Unpacked(io.RawIOBase):
    """What a decompressor gives, block by block; where it fails half-way, what came before is given first."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._failure: Exception | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._failure:
            raise self._failure
        filled = 0
        while filled < len(buffer):
            try:
                piece = self._stream.read1(len(buffer) - filled)
            except Exception as error:
                if not filled:
                    raise
                self._failure = error
                break
            if not piece:
                break
            buffer[filled : filled + len(piece)] = piece
            filled += len(piece)
        return filled


def seekable(stream: io.BufferedReader) -> io.BufferedReader | io.BytesIO:
    """The same bytes, in memory where the stream cannot go back."""
    return stream if stream.seekable() else io.BytesIO(stream.read())


def not_text(head: bytes) -> str:
    """Why the start of a file cannot be text, or an empty string."""
    if not head.strip():
        return "empty file"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16 text; convert it to UTF-8 (iconv -f utf-16 -t utf-8)"
    if head.startswith(b"PK\x03\x04"):
        return "binary file, not text; unpack the ZIP archive"
    if b"\0" in head:
        return "binary file, not text"
    return ""


def container_of(head: bytes, name: str) -> Container:
    """What a file is, by its first bytes; `name` decides where they leave it open."""
    if head.startswith(b"PAR1"):
        return "parquet"
    head = head.removeprefix(codecs.BOM_UTF8)
    plain = re.sub(r"\.(gz|bz2|xz|zst)$", "", name.lower())
    lines = [line for line in head.split(b"\n") if line.strip()]
    if head.lstrip()[:1] == b"[":
        if len(lines) > 1 and _parsed(lines[0]) is not None:
            return "lines"
        if _ARRAY.match(head) or plain.endswith(".json"):
            return "array"
    elif _OBJECT.match(head):
        several = any(isinstance(_parsed(line), dict) for line in lines[:20])
        if several or plain.endswith((".jsonl", ".ndjson")):
            return "lines"
        return "object"
    if plain.endswith((".jsonl", ".ndjson", ".json")):
        return "lines"
    return "csv" if plain.endswith((".csv", ".tsv")) else "text"


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except _UNREADABLE:
        return None


# -- records ----------------------------------------------------------------------------------------------------------


def _everything(size: int) -> bool:
    return True


def read_records(
    stream: io.BufferedReader, name: str, take: Callable[[int], bool] = _everything
) -> Iterator[Record | Rejected]:
    """The records of a decompressed file.

    Args:
        stream: as `decompressed` gives it.
        name: of the file; its ending decides where the content leaves open what it is.
        take: told the size of each record in bytes, whether it is wanted; lines are then not even parsed.

    Raises:
        What `TolerantRead` notes, where the bytes break off or make no sense.
    """
    head = bytes(stream.peek(_BUFFER))
    match container_of(head, name):
        case "parquet":
            with pq.ParquetFile(seekable(stream)) as table:
                yield from parquet_rows(table)
            return
        case _ if reason := not_text(head):
            yield Rejected(0, reason, "")
        case "array":
            yield from _array(stream, take)
        case "object":
            yield from _object(stream)
        case "csv":
            yield from _csv(stream, head, name)
        case "text" if _looks_like_csv(head):
            yield from _csv(stream, head, name)
        case "text":
            yield Rejected(0, "neither JSON, JSON lines, CSV nor Parquet", excerpt(head))
        case "lines":
            for number, raw in enumerate(stream, start=1):
                if raw.strip() and take(len(raw)):
                    yield parse_line(number, raw)


def parse_line(number: int, raw: bytes) -> Record | Rejected:
    """One line of a file of JSON lines."""
    try:
        return Record(number, json.loads(raw.rstrip(b"\r\n").decode("utf-8-sig" if number == 1 else "utf-8")))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})"
    except _UNREADABLE as error:
        reason = _broken(error)
    return Rejected(number, reason, excerpt(raw))


def _broken(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON: {error.msg} at column {error.colno}"
    return "broken JSON: nested too deeply" if isinstance(error, RecursionError) else f"broken JSON: {error}"


def _array(stream: io.BufferedReader, take: Callable[[int], bool]) -> Iterator[Record | Rejected]:
    """The elements of a JSON array, read block by block; behind a broken one reading goes on with the next object that
    has a name in common with a good one."""
    decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
    decoder = json.JSONDecoder()
    text, at, ended, block, number = "", 0, False, _BUFFER, 0
    names: set[str] = set()
    opened = False
    while True:
        at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        failed: Exception | None = None
        if at < len(text) and not opened:
            opened, at = True, at + 1  # the bracket
            continue
        if at < len(text) and text[at] == "]":
            return
        if at < len(text):
            try:
                value, end = decoder.raw_decode(text, at)
                if end == len(text) and not ended:
                    failed = EOFError()  # a number or word may go on
            except _UNREADABLE as error:
                failed = error
        if (at == len(text) or failed) and not ended:
            raw = stream.read(block)
            ended, block = not raw, 2 * block
            text, at = text[at:] + decode(raw, final=ended), 0
            continue
        if at == len(text):
            yield Rejected(0, "broken JSON: the array is not closed: the file breaks off", "")
            return
        number, block = number + 1, _BUFFER
        if failed:
            yield Rejected(number, _broken(failed), excerpt(text[at : at + 4 * EXCERPT_CHARS]))
            resumed = _behind(decoder, text, at, names)
            if resumed is None:
                if at + 4 * EXCERPT_CHARS < len(text):
                    yield Rejected(0, f"broken JSON: nothing behind record {number} can be told apart", "")
                return
            at = resumed
            continue
        if found := _NOT_UTF8.search(text, at, end):
            yield Rejected(
                number, f"not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x} in the record)", excerpt(text[at:end])
            )
        elif take(end - at):
            if isinstance(value, dict):
                names |= value.keys()
            yield Record(number, value)
        at = end


def _behind(decoder: json.JSONDecoder, text: str, at: int, names: set[str]) -> int | None:
    """Where reading goes on behind a broken element: where its brackets close, or before the next good record where
    that comes first, since a quotation mark that is missing hides brackets."""
    closed = _closing(text, at)
    good = _next_good(decoder, text, at, names) if names or closed is None else None
    return min((place for place in (closed, good) if place is not None), default=None)


def _closing(text: str, at: int) -> int | None:
    depth = 0
    for token in _BRACKET.finditer(text, at):
        if token[0] in ("{", "["):
            depth += 1
        elif token[0] in ("}", "]"):
            depth -= 1
            if depth <= 0:
                follows = _BLANK.match(text, token.end()).end()  # type: ignore[union-attr]  # it matches nothing, too
                return token.end() if depth == 0 and text[follows : follows + 1] in (",", "]") else None
    return None


def _next_good(decoder: json.JSONDecoder, text: str, at: int, names: set[str]) -> int | None:
    for candidate in islice(_NEXT_OBJECT.finditer(text, at + 1), _MAX_TRIED):
        try:
            value, _ = decoder.raw_decode(text, candidate.end())
        except _UNREADABLE:
            continue
        if not names or names & value.keys():
            return candidate.end()
    return None


def _object(stream: io.BufferedReader) -> Iterator[Record | Rejected]:
    """One JSON object over many lines: a record, or the holder of a list of records."""
    raw = stream.read()
    try:
        whole = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield Rejected(0, f"not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start})", excerpt(raw))
        return
    except _UNREADABLE as error:
        if getattr(error, "msg", "") == "Extra data":  # lines after all, the first one longer than what was looked at
            for number, line in enumerate(raw.splitlines(), start=1):
                yield parse_line(number, line)
        else:
            yield Rejected(0, _broken(error), excerpt(raw))
        return
    held = [whole[name] for name in _WRAPPERS if isinstance(whole.get(name), list)]
    if len(held) == 1 and all(isinstance(value, dict) for value in held[0]):
        for number, value in enumerate(held[0], start=1):
            yield Record(number, value)
    elif len(whole) > 1 and all(isinstance(value, dict) for value in whole.values()):
        yield Rejected(0, "a JSON object of columns, not of records: save it as JSON lines, a record each", "")
    else:
        yield Record(1, whole)


# -- CSV --------------------------------------------------------------------------------------------------------------


def _looks_like_csv(head: bytes) -> bool:
    """Two lines that a comma, semicolon or tab cuts into equally many cells, at least two."""
    lines = head.decode("utf-8", "replace").splitlines()[:2]
    if len(lines) < 2:
        return False
    counts = [len(next(csv.reader([line], delimiter=_delimiter(lines[0])), [])) for line in lines]
    return counts[0] == counts[1] >= 2


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _csv(stream: io.BufferedReader, head: bytes, name: str) -> Iterator[Record | Rejected]:
    """Rows as objects by the names of the first; the number is of the line on which a row begins.

    A row that a quotation mark leaves open is given up, and reading goes on at its second line.
    """
    csv.field_size_limit(sys.maxsize)
    header = head.removeprefix(codecs.BOM_UTF8).split(b"\n")[0].decode("utf-8", "replace")
    delimiter = "\t" if ".tsv" in name.lower() else _delimiter(header)
    lines = (
        (number, raw.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape"))
        for number, raw in enumerate(stream, start=1)
    )
    again: deque[tuple[int, str]] = deque()
    used: list[tuple[int, str]] = []

    def given() -> Iterator[str]:
        while True:
            line = again.popleft() if again else next(lines, None)
            if line is None:
                return
            used.append(line)
            yield line[1]

    names: list[str] | None = None
    reader = csv.reader(given(), delimiter=delimiter, strict=True)
    while True:
        used.clear()
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield Rejected(used[0][0], f"broken CSV: {error}", excerpt(used[0][1]))
            again.extendleft(reversed(used[1:]))
            reader = csv.reader(given(), delimiter=delimiter, strict=True)
            continue
        if row is None:
            return
        number = used[0][0]
        if not row:
            continue
        if any(_NOT_UTF8.search(cell) for cell in row):
            yield Rejected(number, "not UTF-8", excerpt(used[0][1]))
        elif names is None:
            names = [cell.strip() for cell in row]
            if len(set(names)) < len(names):
                yield Rejected(0, f"two columns are called {next(n for n in names if names.count(n) > 1)!r}", "")
                return
        elif len(row) != len(names):
            yield Rejected(number, f"{len(row)} cells, the header has {len(names)}", excerpt(used[0][1]))
        else:
            yield Record(number, {name: cell if cell else None for name, cell in zip(names, row, strict=True)})


# -- Parquet ----------------------------------------------------------------------------------------------------------


def parquet_rows(table: pq.ParquetFile, columns: Sequence[str] | None = None) -> Iterator[Record | Rejected]:
    """Rows as objects. One that cannot be decoded is rejected by itself."""
    number = 0
    for batch in table.iter_batches(batch_size=1024, columns=columns):
        try:
            rows: list[Any] = batch.to_pylist()
        except (UnicodeDecodeError, pa.ArrowException):
            rows = [_one_row(batch.slice(i, 1)) for i in range(batch.num_rows)]
        for row in rows:
            number += 1
            yield Rejected(number, str(row), "") if isinstance(row, ValueError) else Record(number, row)


def _one_row(batch: pa.RecordBatch) -> Any:
    try:
        return batch.to_pylist()[0]
    except (UnicodeDecodeError, pa.ArrowException) as error:
        return ValueError(f"cannot be decoded: {str(error).splitlines()[0]}")
