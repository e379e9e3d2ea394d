"""Rules for web pages: of C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2) and of FineWeb (Penedo et al. 2024,
arXiv 2406.17557, section 3.6). Both are off unless a profile asks for them: they are made for pages, and verse and
lists fail them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from components.data.filters.words import words_of

_ENDS_LINE = (".", "!", "?", '"', "”", "。", "！", "？", "」", "؟", "।")
_ENDS_FINEWEB_LINE = (*_ENDS_LINE, "'", "’", "…", ";", ":")
_SENTENCE_END = re.compile(r"[.!?](?=[\s\"”')]|$)|[。！？।؟]")
_POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


@dataclass(frozen=True)
class C4Config:
    """Lines go that do not end a sentence, have fewer words, a word longer than `max_word_chars`, or speak of
    javascript or policies; then pages with fewer sentences, a curly bracket or placeholder text."""

    min_words_per_line: int = 3
    min_sentences: int = 5
    max_word_chars: int = 1000
    curly_brackets: bool = False  # whether pages may hold them


def c4_lines(texts: Sequence[str], config: C4Config) -> list[str]:
    """Each text without the lines that C4 leaves out."""
    return ["\n".join(line for line in text.split("\n") if _keeps(line, config)) for text in texts]


def _keeps(line: str, config: C4Config) -> bool:
    line = line.strip()
    if not line.endswith(_ENDS_LINE) or line.endswith("..."):
        return False
    words = words_of(line)
    if len(words) < config.min_words_per_line or max(map(len, words)) > config.max_word_chars:
        return False
    lowered = line.lower()
    return "javascript" not in lowered and not any(phrase in lowered for phrase in _POLICY)


def c4_reasons(texts: Sequence[str], config: C4Config, languages: Sequence[str]) -> list[str]:
    def reason(text: str) -> str:
        if "{" in text and not config.curly_brackets:
            return "curly bracket"
        if "lorem ipsum" in text.lower():
            return "placeholder text"
        return "few sentences" if len(_SENTENCE_END.findall(text)) < config.min_sentences else ""

    return [reason(text) for text in texts]


@dataclass(frozen=True)
class FineWebConfig:
    min_punctuated_lines: float = 0.12
    short_line_chars: int = 30
    max_short_lines: float = 0.67
    max_duplicate_line_chars: float = 0.01
    max_newlines_per_word: float = 0.3


def fineweb_reasons(texts: Sequence[str], config: FineWebConfig, languages: Sequence[str]) -> list[str]:
    def reason(text: str) -> str:
        lines = [line for line in text.split("\n") if line.strip()]
        if not lines:
            return "empty"
        if sum(line.rstrip().endswith(_ENDS_FINEWEB_LINE) for line in lines) <= config.min_punctuated_lines * len(
            lines
        ):
            return "few punctuated lines"
        if sum(len(line) <= config.short_line_chars for line in lines) > config.max_short_lines * len(lines):
            return "short lines"
        seen: set[str] = set()
        repeated = [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]
        if sum(map(len, repeated)) > config.max_duplicate_line_chars * len(text):
            return "duplicate lines"
        if text.count("\n") > config.max_newlines_per_word * len(words_of(text)):
            return "lists"
        return ""

    return [reason(text) for text in texts]
