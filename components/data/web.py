"""Pages and web archives. Text is taken out of HTML by resiliparse, records out of WARC and WET files by FastWARC.

Resiliparse, because DCLM (Li et al. 2024, arXiv 2406.11794, section 4.2) found what it keeps as good to train on as
what trafilatura does, in a fraction of the time; because it needs no package but FastWARC; and it detects encodings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from components.data.encodings import decoded
from components.data.records import Record, Rejected, excerpt

HTML_ENDINGS = (".html", ".htm", ".xhtml")
WARC_ENDINGS = (".warc", ".wet")
MAX_PAGE_BYTES = 64 << 20
_IS_HTML = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}>\s*)?(?:<!--.{0,2000}?-->\s*)?<(?:!doctype html|html)[\s>]", re.I | re.S
)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.I)
_PAGE_TYPES = ("text/html", "application/xhtml+xml")


def is_html(head: bytes) -> bool:
    return _IS_HTML.match(head) is not None


def is_warc(head: bytes) -> bool:
    return head.startswith(b"WARC/")


def text_of_page(raw: bytes, declared: str = "") -> tuple[str, str]:
    """(main text of an HTML page, "") or ("", why there is none). `declared`: the charset of its HTTP header."""
    from resiliparse.extract.html2text import extract_plain_text

    meta = _CHARSET.search(raw[:4096])
    html, reason = decoded(raw, declared or (meta[1].decode("ascii") if meta else ""))
    if reason:
        return "", reason
    text = extract_plain_text(html, main_content=True, alt_texts=False).strip()
    return (text, "") if text else ("", "no text in the page")


class _Patient:
    """A stream for a reader that reads ahead: where it fails it seems to end, so that what came before is read
    first."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._position = stream, 0
        self.failure: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        try:
            block = b"" if self.failure else bytes(self._stream.read1(size))
        except Exception as error:
            self.failure, block = error, b""
        self._position += len(block)
        return block

    def tell(self) -> int:
        return self._position


def warc_records(stream: Any, name: str) -> Iterator[Record | Rejected]:
    """Pages of an archive, by the number of their record: `{"text", "url"}`; and how many records hold none, by type.

    Taken are `conversion` records (WET), and of `response` and `resource` records those with HTML or plain text that
    the server sent with status 200.
    """
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    source: Any = _Patient(stream)
    types = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    left_out: Counter[str] = Counter()
    number = 0
    for number, record in enumerate(ArchiveIterator(source, parse_http=True, record_types=types), start=1):
        url = record.headers.get("WARC-Target-URI") or name
        if record.record_type == WarcRecordType.conversion:
            kind, charset, status = "text/plain", "utf-8", 200
        elif record.http_headers is not None:
            kind = (record.http_content_type or "").lower()
            charset, status = record.http_charset or "", record.http_headers.status_code or 0
        else:
            kind, charset, status = (record.headers.get("Content-Type") or "").split(";")[0].lower(), "", 200
        if status != 200:
            left_out[f"answers with status {status}"] += 1
            continue
        if kind not in (*_PAGE_TYPES, "text/plain"):
            left_out[f"records of type {kind or 'unknown'}"] += 1
            continue
        raw = record.reader.read(min(record.content_length, MAX_PAGE_BYTES))
        if source.failure and len(raw) < min(record.content_length, MAX_PAGE_BYTES):
            break  # in the midst of this record
        text, reason = text_of_page(raw, charset) if kind in _PAGE_TYPES else decoded(raw, charset)
        if reason or not text.strip():
            yield Rejected(number, f"{url}: {reason or 'no text'}", excerpt(raw))
        else:
            yield Record(number, {"text": text, "url": url})
    for what, count in left_out.most_common():
        yield Rejected(0, f"not read: {count} {what}", "")
    if source.failure:
        raise source.failure
    if not number:
        yield Rejected(0, "no record of an answer or a conversion in this archive", "")
