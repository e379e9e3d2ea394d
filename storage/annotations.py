"""What people judge and how they judged it: files that are only ever appended to.

    annotators/NAME.json                who may judge; of the token only its hash
    instructions/VERSION-DIGEST.md      every text that annotators were shown
    batches/ID/batch.json               prompts and answers, with their origin
    batches/ID/journals/NAME.jsonl      one line per judgement, one file per annotator: nobody waits for anybody else

A judgement counts when `record` returns: by then the line is flushed to the disk. A line that a kill left half written
was never acknowledged and is cut off before the next one. Lines are never changed; a later judgement of the same item
by the same annotator replaces the earlier one, which stays readable.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage import durable

_NAME = re.compile(r"\w(?:[\w .-]{0,62}[\w.-])?")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ID = re.compile(r"[0-9a-f]{16,64}")
_LOCK_SECONDS = 30.0


class AnnotationError(ValueError):
    """Something does not exist, already exists, or cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Annotator:
    name: str
    added_at: str
    removed_at: str = ""


@dataclass(frozen=True)
class Instructions:
    """What annotators are asked to do. `version` numbers all texts that were used; `sha256` identifies the text."""

    version: int
    sha256: str
    text: str


class Annotations:
    """The annotations in a local folder, which the first write creates. Safe with any number of processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[int, tuple[dict[str, Any], ...]]] = {}

    # -- annotators ------------------------------------------------------------------------------------------------

    def annotators(self) -> list[Annotator]:
        """Everybody who was ever added, by name."""
        found = [json.loads(path.read_bytes()) for path in (self.folder / "annotators").glob("[!.]*.json")]
        return sorted((Annotator(f["name"], f["added_at"], f["removed_at"]) for f in found), key=lambda a: a.name)

    def add(self, name: str) -> str:
        """Let `name` judge, and return a new token; it is not stored and cannot be shown again.

        Raises:
            AnnotationError: an invalid name, or one that is in use.
        """
        if not _NAME.fullmatch(name):
            raise AnnotationError(f"annotator {name!r}: takes 1 to 64 letters, digits, spaces and . _ -")
        with durable.lock(self.folder / ".annotators.lock", timeout=_LOCK_SECONDS):
            known = {a.name: a for a in self.annotators()}
            if name in known and not known[name].removed_at:
                raise AnnotationError(f"annotator {name!r} already exists: remove and add them again for a new token")
            token = secrets.token_urlsafe(32)
            self._write_annotator({"name": name, "token_sha256": _sha256(token), "added_at": _now(), "removed_at": ""})
        return token

    def remove(self, name: str) -> None:
        """Revoke the token of `name`. Their judgements stay.

        Raises:
            AnnotationError: nobody of that name may judge.
        """
        with durable.lock(self.folder / ".annotators.lock", timeout=_LOCK_SECONDS):
            path = self.folder / "annotators" / f"{_file_name(name)}.json"
            found = json.loads(path.read_bytes()) if path.is_file() else {"removed_at": "never added"}
            if found["removed_at"]:
                names = ", ".join(a.name for a in self.annotators() if not a.removed_at) or "none"
                raise AnnotationError(f"unknown annotator {name!r}; there are: {names}")
            self._write_annotator({**found, "token_sha256": "", "removed_at": _now()})

    def who(self, token: str) -> str | None:
        """The annotator with this token, or None."""
        digest = _sha256(token)
        for path in (self.folder / "annotators").glob("[!.]*.json"):
            found = json.loads(path.read_bytes())
            if not found["removed_at"] and hmac.compare_digest(found["token_sha256"], digest):
                return str(found["name"])
        return None

    def _write_annotator(self, fields: Mapping[str, str]) -> None:
        path = self.folder / "annotators" / f"{_file_name(fields['name'])}.json"
        durable.write_bytes(path, json.dumps(fields).encode())

    # -- instructions ----------------------------------------------------------------------------------------------

    def instruct(self, text: str) -> Instructions:
        """The text with its version: a new number if it was never used before.

        Raises:
            AnnotationError: the text is empty.
        """
        text = text.strip() + "\n"
        if not text.strip():
            raise AnnotationError("the instructions are empty: annotators need to know what to look for")
        digest = _sha256(text)
        folder = self.folder / "instructions"
        with durable.lock(self.folder / ".instructions.lock", timeout=_LOCK_SECONDS):
            known = {one.sha256: one for one in self.instructions()}
            if digest not in known:
                known[digest] = Instructions(len(known) + 1, digest, text)
                durable.write_bytes(folder / f"{len(known):04d}-{digest}.md", text.encode())
        return known[digest]

    def instructions(self) -> list[Instructions]:
        """Every text that was ever used, oldest first."""
        found = []
        for path in sorted((self.folder / "instructions").glob("[!.]*.md")):
            version, digest = path.stem.split("-", 1)
            found.append(Instructions(int(version), digest, path.read_text(encoding="utf-8")))
        return found

    # -- batches ---------------------------------------------------------------------------------------------------

    def publish(self, batch: str, title: str, overlap: int, items: Sequence[Mapping[str, Any]]) -> None:
        """Give prompts and answers to the annotators; publishing again only changes title and overlap.

        Args:
            batch: its name, hex digits computed from the items: the same items are the same batch.
            title: for people.
            overlap: number of annotators for each item.
            items: JSON objects with an `item_id`.
        """
        _check_id(batch)
        path = self.folder / "batches" / batch / "batch.json"
        published = json.loads(path.read_bytes())["published_at"] if path.is_file() else _now()
        content = {"batch": batch, "title": title, "overlap": overlap, "published_at": published, "items": list(items)}
        durable.write_bytes(path, json.dumps(content, ensure_ascii=False).encode())

    def batches(self) -> list[dict[str, Any]]:
        """Every batch as it was published, oldest first."""
        found = [self.batch(path.parent.name) for path in (self.folder / "batches").glob("*/batch.json")]
        return sorted(found, key=lambda batch: (batch["published_at"], batch["batch"]))

    def batch(self, batch: str) -> dict[str, Any]:
        """One batch.

        Raises:
            AnnotationError: it was never published.
        """
        _check_id(batch)
        path = self.folder / "batches" / batch / "batch.json"
        try:
            return dict(self._parsed(path)[0])
        except FileNotFoundError:
            raise AnnotationError(f"no batch {batch} in {self.folder}") from None

    # -- judgements ------------------------------------------------------------------------------------------------

    def record(self, batch: str, annotator: str, judgement: Mapping[str, Any]) -> bool:
        """Add a judgement to the annotator's journal and flush it to the disk.

        `judgement["form"]` identifies the submitted form: sent a second time, it is stored only once. Returns
        whether it is new.

        Raises:
            AnnotationError: the same form was already stored with different content.
            OSError: the disk is full; nothing was stored.
        """
        self.batch(batch)
        path = self._journal(batch, annotator)
        line = json.loads(json.dumps({**judgement, "batch": batch, "annotator": annotator}))
        with durable.lock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS), durable.explain_full_disk(path):
            for earlier in self._lines(path):
                if earlier["form"] == line["form"]:
                    if {**earlier, "submitted_at": ""} != {**line, "submitted_at": ""}:
                        raise AnnotationError("this form was already stored with different content: reload the page")
                    return False
            new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                end = _whole(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
                os.ftruncate(descriptor, end)
                content = json.dumps(line, ensure_ascii=False).encode() + b"\n"
                try:
                    written = 0
                    while written < len(content):
                        written += os.pwrite(descriptor, content[written:], end + written)
                    os.fsync(descriptor)
                except OSError:
                    os.ftruncate(descriptor, end)
                    raise
            finally:
                os.close(descriptor)
            if new:
                durable.fsync_folder(path.parent)
        return True

    def judgements(self, batch: str) -> list[dict[str, Any]]:
        """Every line of every journal of a batch; those of one annotator in the order in which they arrived."""
        return [line for path in self._journals(batch) for line in self._lines(path)]

    def marks(self, batch: str) -> dict[str, str]:
        """For each journal, the number of bytes of its whole lines and their SHA-256. It identifies these judgements
        for ever, because journals only grow."""
        marks = {}
        for path in self._journals(batch):
            content = path.read_bytes()
            if end := _whole(content):
                marks[path.stem] = f"{end}:{hashlib.sha256(content[:end]).hexdigest()}"
        return marks

    def marked(self, batch: str, marks: Mapping[str, str]) -> list[dict[str, Any]]:
        """The judgements that `marks` identifies, whatever was added since.

        Raises:
            AnnotationError: a journal is gone or was changed by hand.
        """
        lines: list[dict[str, Any]] = []
        for name, mark in sorted(marks.items()):
            path = self.folder / "batches" / batch / "journals" / f"{name}.jsonl"
            end, digest = mark.split(":")
            content = path.read_bytes()[: int(end)] if path.is_file() else b""
            if hashlib.sha256(content).hexdigest() != digest:
                raise AnnotationError(f"{path} was changed by hand or is gone: run again to use it as it is now")
            lines += _parse(path, content)
        return lines

    def _journal(self, batch: str, annotator: str) -> Path:
        path = self.folder / "batches" / batch / "journals" / f"{_file_name(annotator)}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _journals(self, batch: str) -> list[Path]:
        _check_id(batch)
        return sorted((self.folder / "batches" / batch / "journals").glob("*.jsonl"))

    def _lines(self, path: Path) -> tuple[dict[str, Any], ...]:
        return self._parsed(path) if path.exists() else ()

    def _parsed(self, path: Path) -> tuple[dict[str, Any], ...]:
        """The objects in a file, read again only when its size or time has changed."""
        stat = path.stat()
        stamp = hash((stat.st_size, stat.st_mtime_ns, stat.st_ino))
        known = self._read.get(path)
        if known is None or known[0] != stamp:
            content = path.read_bytes()
            known = (stamp, tuple(_parse(path, content if path.suffix == ".json" else content[: _whole(content)])))
            self._read[path] = known
        return known[1]


def _parse(path: Path, content: bytes) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.split(b"\n") if path.suffix == ".jsonl" else [content], 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise AnnotationError(f"{path}:{number}: damaged: {error}; repair or remove the line") from None


def _whole(content: bytes) -> int:
    """Position after the last whole line."""
    return content.rfind(b"\n") + 1


def _file_name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else _sha256(name)[:32]


def _check_id(batch: str) -> None:
    if not _ID.fullmatch(batch):
        raise AnnotationError(f"batch {batch!r}: takes 16 to 64 hex digits")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
