"""Words of a text, also of scripts that put no blanks between them."""

from __future__ import annotations

import re

# Han, kana and their marks; Thai, Lao, Khmer and Burmese.
IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ffff"
UNSPACED_LETTERS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_UNSPACED = re.compile(f"[{IDEOGRAPHS}{UNSPACED_LETTERS}]")
_PIECES = re.compile(f"[{IDEOGRAPHS}]{{1,2}}|[{UNSPACED_LETTERS}]{{1,4}}|[^\\s{IDEOGRAPHS}{UNSPACED_LETTERS}]+")
_SHINGLE_PIECES = re.compile(f"[{IDEOGRAPHS}{UNSPACED_LETTERS}]|[^\\W{IDEOGRAPHS}{UNSPACED_LETTERS}]+")
_WORD = re.compile(r"\w+")


def is_unspaced(text: str) -> bool:
    """Whether a text holds characters of a script without blanks between words."""
    return not text.isascii() and _UNSPACED.search(text) is not None


def words_of(text: str) -> list[str]:
    """What stands between blanks; of scripts without them runs of two ideographs, as Lucene's CJKAnalyzer takes them,
    or of four letters, about the mean length of a Thai word."""
    return _PIECES.findall(text) if is_unspaced(text) else text.split()


def shingle_words(text: str) -> list[str]:
    """Lower-case words without punctuation. Of scripts without blanks each character is one: pieces of two would all
    move with one that is put in."""
    lowered = text.lower()
    return _SHINGLE_PIECES.findall(lowered) if is_unspaced(lowered) else _WORD.findall(lowered)
