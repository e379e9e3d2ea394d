from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from components.data.encodings import decoded
from components.data.sources import Document, Quarantined, SourceConfig, SourceError, read_source
from components.data.web import text_of_page

PAGE = """<!doctype html><html><head><title>T</title><style>p {}</style></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav>
<main><h1>Rivers</h1><p>The river runs through the valley, past the old mill, to the sea.</p>
<p>Für Größe sorgt der Fluß.</p></main><footer>Copyright 2020 Privacy policy</footer></body></html>"""


def warc(*records: tuple[str, str, bytes]) -> bytes:
    """An archive of (type, content type, content); each record is a gzip member of its own, as crawlers write them."""
    out = b""
    for number, (kind, content_type, content) in enumerate(records):
        head = (
            f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.example/{number}\r\n"
            f"WARC-Record-ID: <urn:uuid:{number}>\r\nContent-Type: {content_type}\r\n"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        out += gzip.compress(head.encode() + content + b"\r\n\r\n")
    return out


def http(body: bytes, content_type: str = "text/html", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n\r\n".encode() + body


def read(config: SourceConfig) -> tuple[list[Document], list[Quarantined]]:
    found = list(read_source(config))
    return [i for i in found if isinstance(i, Document)], [i for i in found if isinstance(i, Quarantined)]


def test_of_a_page_the_main_text_is_kept() -> None:
    text, reason = text_of_page(PAGE.encode())
    assert not reason and "The river runs through the valley" in text and "Für Größe" in text
    assert not any(word in text for word in ("About us", "Privacy", "<p>", "p {}"))


def test_the_encoding_of_a_page_is_that_of_its_header_or_its_meta_element_or_found() -> None:
    meta = PAGE.replace("<head>", "<head><meta http-equiv=Content-Type content='text/html; charset=windows-1252'>")
    for raw, declared in ((meta.encode("cp1252"), ""), (PAGE.encode("cp1252"), "cp1252"), (PAGE.encode("utf-16"), "")):
        assert "Für Größe sorgt der Fluß." in text_of_page(raw, declared)[0]
    assert text_of_page(b"<html><body></body></html>") == ("", "no text in the page")
    # A wrong declaration is passed over where the bytes contradict it.
    assert decoded("Größe".encode(), "ascii") == ("Größe", "")
    assert decoded("Schöne Grüße aus Köln, für alle".encode() * 9 + b"\xe9\xff", "")[1].startswith("not utf-8")


def test_pages_and_archives_of_a_folder_are_read_by_what_they_hold(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(PAGE)
    (tmp_path / "empty.html").write_text("<html><body><script>1</script></body></html>")
    records = [
        ("warcinfo", "application/warc-fields", b"software: x"),
        ("response", "application/http", http(PAGE.replace("Rivers", "Lakes").encode())),
        ("response", "application/http", http(b"\x89PNG", "image/png")),
        ("response", "application/http", http(b"gone", status="404 Not Found")),
        ("conversion", "text/plain", b"Extrait d'une page."),
    ]
    (tmp_path / "b.warc.gz").write_bytes(warc(*records))
    documents, quarantined = read(SourceConfig("web", "files", str(tmp_path)))
    assert [d.text.split("\n")[0] for d in documents] == ["Rivers", "Lakes", "Extrait d'une page."]
    assert [(Path(q.file).name, q.reason) for q in quarantined] == [
        ("empty.html", "no text in the page"),
        ("b.warc.gz", "not read: 1 records of type image/png"),
        ("b.warc.gz", "not read: 1 answers with status 404"),
    ]


def test_an_archive_that_breaks_off_gives_what_came_before(tmp_path: Path) -> None:
    raw = warc(*[("conversion", "text/plain", b"A page of text, number %d." % i * 50) for i in range(4)])
    (tmp_path / "a.wet.gz").write_bytes(raw[:-30])
    documents, quarantined = read(SourceConfig("web", "warc", str(tmp_path)))
    assert len(documents) == 3
    assert "damaged" in quarantined[-1].reason


def test_what_is_no_archive_or_page_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_text("just text")
    with pytest.raises(SourceError, match="not a web archive"):
        read(SourceConfig("web", "warc", str(tmp_path)))
    (tmp_path / "page.txt").write_text(PAGE)
    with pytest.raises(SourceError, match="an HTML page, not prose"):
        read(SourceConfig("web", "text", str(tmp_path / "page.txt")))


def test_what_a_folder_holds_and_is_not_read_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x"}))
    for name in ("b.json", "c.csv", "d.txt.gz", "e.html"):
        (tmp_path / name).write_bytes(b"1")
    _, quarantined = read(SourceConfig("s", "jsonl", str(tmp_path)))
    assert [Path(q.file).name for q in quarantined] == ["b.json", "c.csv", "d.txt.gz", "e.html"]
    assert {q.reason for q in quarantined} == {"not read: kind 'jsonl' reads .jsonl .ndjson"}
