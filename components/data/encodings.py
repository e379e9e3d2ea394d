"""Which encoding a text is in: told by its mark, else UTF-8 where all of it is, else detected. A text is read whole or
not at all.

Detection is uchardet's, in resiliparse. Of 75 texts in older encodings it named the right one for 71, and
charset-normalizer for 60 (docs/log.md); web names map the subsets that it answers with, ISO 8859-1 and 9, to the
Windows code pages that hold them.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

_SAMPLE = 1 << 18
_MARKS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class TextFacts:
    """encoding: a codec that reads all of the text; empty where there is none, and then `reason` says why.

    digest: of the bytes. line, excerpt: where the text is not what it should be.
    """

    encoding: str
    digest: bytes
    reason: str = ""
    line: int = 0
    excerpt: str = ""


def marked(head: bytes) -> str:
    """The codec that a byte order mark names, or an empty string."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "")


def inspected(blocks: Iterable[bytes], named: str = "") -> TextFacts:
    """Look through a text once: its digest, and whether `named`, or else its mark or UTF-8, reads all of it."""
    digest = hashlib.blake2b(digest_size=16)
    decoder: codecs.IncrementalDecoder | None = None
    encoding, line, reason, shown = named, 1, "", ""
    sample: list[bytes] = []
    sampled = 0
    for block in blocks:
        digest.update(block)
        if decoder is None:
            encoding = named or marked(block) or "utf-8"
            decoder = codecs.getincrementaldecoder(encoding)("strict")
        if sampled < _SAMPLE and not block.isascii():
            # Lines that say nothing of the encoding would only use up what the detector looks at.
            sample += [one for one in block.split(b"\n") if not one.isascii()]
            sampled += len(block)
        if not reason:
            try:
                decoder.decode(block)
                line += block.count(b"\n")
            except UnicodeDecodeError as error:
                found = error.object
                line += found.count(b"\n", 0, error.start)
                start = found.rfind(b"\n", 0, error.start) + 1
                reason = f"not {encoding} (byte 0x{found[error.start]:02x} in line {line})"
                shown = found[start : start + 480].decode("ascii", "replace").replace("\ufffd", "?").strip()[:120]
    if decoder is not None and not reason:
        try:
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            reason = f"not {encoding} (it ends within a character)"
    if not reason:
        return TextFacts(encoding or "utf-8", digest.digest())
    return TextFacts("" if named else detected(b"\n".join(sample)), digest.digest(), reason, line, shown)


def detected(sample: bytes) -> str:
    """The likely codec of bytes that are not UTF-8; empty where it cannot be told, or Python has no such codec."""
    if _mostly_utf8(sample):
        return ""  # damaged UTF-8, which any code page would read as something else
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    name = detect_encoding(sample, html5_compatible=False)
    try:
        return codecs.lookup((name and map_encoding_to_html5(name)) or "").name
    except LookupError:
        return ""


def _mostly_utf8(sample: bytes) -> bool:
    """Whether most characters beyond ASCII are whole ones of UTF-8."""
    text = sample.decode("utf-8", "replace")
    beyond = sum(char > "\x7f" for char in text)
    return beyond > 2 * text.count("\ufffd")


def decoded(raw: bytes, declared: str = "") -> tuple[str, str]:
    """(text, "") or ("", why not): by its mark, as declared, as UTF-8, as detected; the first that reads all of it."""
    tried = [marked(raw[:4]), declared, "utf-8"]
    for name in dict.fromkeys(filter(None, tried)):
        try:
            return raw.decode(name), ""
        except (UnicodeDecodeError, LookupError):
            continue
    facts = inspected([raw])
    try:
        if facts.encoding:
            return raw.decode(facts.encoding), ""
    except UnicodeDecodeError:
        pass
    return "", facts.reason
