"""Documents that read like prose.

The rules are those of Gopher (Rae et al. 2021, arXiv 2112.11446, section A1.1 and table A1) with the placeholder rule
of C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2); thresholds are settings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds; names and defaults after Gopher where it has them."""

    # Gopher: 50, for web pages; a corpus of a few megabytes has short documents that are worth having.
    min_words: int = 20
    max_words: int = 100_000
    min_mean_word_length: float = 3.0
    max_mean_word_length: float = 10.0
    max_symbol_ratio: float = 0.1  # of "#" or "…" to words
    min_alphabetic_words: float = 0.8  # share of words that hold a letter
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_stop_words: int = 2  # of the eight below; for English alone
    max_duplicate_lines: float = 0.3
    max_duplicate_line_chars: float = 0.2
    max_top_2gram_chars: float = 0.20
    max_top_3gram_chars: float = 0.18
    max_top_4gram_chars: float = 0.16
    max_duplicate_5gram_chars: float = 0.15
    max_duplicate_10gram_chars: float = 0.10


_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
_LETTER = re.compile(r"[^\W\d_]")


def quality_reason(text: str, config: QualityConfig, languages: Sequence[str] = ("en",)) -> str:
    """Why the document is rejected, as a fixed short phrase that can be counted, or an empty string."""
    words = text.split()
    if len(words) < config.min_words:
        return "too few words"
    if len(words) > config.max_words:
        return "too many words"
    mean_length = sum(map(len, words)) / len(words)
    if not config.min_mean_word_length <= mean_length <= config.max_mean_word_length:
        return "mean word length"
    if max(text.count("#"), text.count("…") + text.count("...")) > config.max_symbol_ratio * len(words):
        return "symbols"
    if sum(1 for word in words if word.isalpha() or _LETTER.search(word)) < config.min_alphabetic_words * len(words):
        return "few alphabetic words"
    if "lorem ipsum" in text.lower():
        return "placeholder text"
    if tuple(languages) == ("en",) and len(_STOP_WORDS.intersection(map(str.lower, words))) < config.min_stop_words:
        return "few stop words"
    return _line_reason(text, config) or _repetition_reason(words, config)


def _line_reason(text: str, config: QualityConfig) -> str:
    lines = [stripped for line in text.split("\n") if (stripped := line.strip())]
    if sum(line[0] in "•-*‣" for line in lines) > config.max_bullet_lines * len(lines):
        return "bullet lines"
    if sum(line.endswith(("…", "...")) for line in lines) > config.max_ellipsis_lines * len(lines):
        return "ellipsis lines"
    seen: set[str] = set()
    repeated = [line for line in lines if line in seen or seen.add(line)]  # type: ignore[func-returns-value]
    if len(repeated) > config.max_duplicate_lines * len(lines):
        return "duplicate lines"
    if sum(map(len, repeated)) > config.max_duplicate_line_chars * len(text):
        return "duplicate lines"
    return ""


def _repetition_reason(words: Sequence[str], config: QualityConfig) -> str:
    total, longest = sum(map(len, words)), max(map(len, words))
    for size, most in (
        (2, config.max_top_2gram_chars),
        (3, config.max_top_3gram_chars),
        (4, config.max_top_4gram_chars),
    ):
        grams = list(zip(*(words[i:] for i in range(size)), strict=False))
        repeats = len(grams) - len(set(grams))
        # No n-gram occurs more than repeats + 1 times, which spares most documents the counting.
        if not repeats or (repeats + 1) * size * longest <= most * total:
            continue
        # The share of characters that the most frequent n-gram covers; one that occurs once repeats nothing.
        gram, count = Counter(grams).most_common(1)[0]
        if count > 1 and count * sum(map(len, gram)) > most * total:
            return f"repeated {size}-gram"
    for size, most in ((5, config.max_duplicate_5gram_chars), (10, config.max_duplicate_10gram_chars)):
        if _duplicate_chars(words, size) > most * total:
            return f"repeated {size}-grams"
    return ""


def _duplicate_chars(words: Sequence[str], size: int) -> int:
    """Characters of words inside any n-gram that occurred before; overlapping ones count once (Gopher, A1.1)."""
    grams = list(zip(*(words[i:] for i in range(size)), strict=False))
    if len(set(grams)) == len(grams):
        return 0
    seen: set[tuple[str, ...]] = set()
    covered = chars = 0
    for start, gram in enumerate(grams):
        if gram in seen:
            first = max(start, covered)
            covered = start + size
            chars += sum(map(len, words[first:covered]))
        else:
            seen.add(gram)
    return chars
