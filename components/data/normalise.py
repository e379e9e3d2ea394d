"""Text in one form: NFC, one kind of newline and blank, nothing invisible."""

from __future__ import annotations

import re
import unicodedata

_NEWLINES = re.compile(r"\r\n?|[\x85\u2028\u2029\x0b\x0c]")
_ASCII_REMOVED = bytes([*range(0x09), *range(0x0E, 0x20), 0x7F])  # what `_REMOVED` has of ASCII
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters but tab and newline
    "\u00ad\u180e\u200b\u2060\ufeff"  # zero width
    "\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # direction marks, which can make text read other than it is
)
# Joiners mean something between letters of Persian, Indic scripts and in emoji, and nothing next to ASCII.
_JOINERS = re.compile("[\u200c\u200d]+")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANK_RUN = re.compile("[ \t]+")
_NEWLINE_RUN = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """NFC, ``\\n`` as the newline, no control or invisible characters, single blanks, at most one empty line in a row.

    Indentation stays. Idempotent, and linear in the length of any text. Lone surrogates, which UTF-8 cannot hold,
    become U+FFFD.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _BLANKS.sub(" ", _SURROGATE.sub("\ufffd", text)))
    if not text.isascii() or any(newline in text for newline in "\r\x0b\x0c"):
        text = _NEWLINES.sub("\n", text)
    if text.isascii():
        text = text.encode("ascii").translate(None, _ASCII_REMOVED).decode("ascii")
    else:
        text = _REMOVED.sub("", text)
    if "\u200c" in text or "\u200d" in text:
        text = _JOINERS.sub(_joiners, text)
    # What stood between two marks that compose may have gone: compose once more.
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    if "  " in text or " \n" in text or "\t" in text:
        text = "\n".join(map(_single_blanks, text.split("\n")))
    if "\n\n\n" in text:
        text = _NEWLINE_RUN.sub("\n\n", text)
    return text.strip("\n").rstrip()


def _joiners(run: re.Match[str]) -> str:
    text, start, end = run.string, run.start(), run.end()
    apart = start == 0 or end == len(text) or text[start - 1].isascii() or text[end].isascii()
    return "" if apart else run[0]


def _single_blanks(line: str) -> str:
    line = line.rstrip(" \t")
    if "  " not in line and "\t" not in line:
        return line
    body = line.lstrip(" \t")
    return line[: len(line) - len(body)] + _BLANK_RUN.sub(" ", body)
