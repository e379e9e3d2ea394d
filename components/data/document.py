"""A document as it travels from a source to the corpus, and what it is called."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A text, or a passage of one.

    id: of the whole text, made of its source's name and its content, so that it is the same wherever the text lies and
    whatever lies beside it; a passage's number follows behind a dash. origin: where it was read, for people.
    """

    text: str
    source: str
    id: str
    origin: str = ""
    language: str = ""  # as detected; empty where nobody looked
    language_score: float = 0.0  # probability of that language, from 0 to 1


def document_id(source: str, content: str | bytes) -> str:
    """16 hex digits of the source's name and the content."""
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(source.encode("utf-8", "replace") + b"\0" + raw, digest_size=8).hexdigest()


def whole_of(passage_id: str) -> str:
    """The id of the document that a passage was cut from."""
    return passage_id.partition("-")[0]
