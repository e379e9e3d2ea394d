"""Cleaning of found text: normalise, mask what identifies people, and say why a document is rejected.

The quality rules are those of Gopher (Rae et al. 2021, arXiv 2112.11446, section A1.1 and table A1) with the
placeholder rule of C4 (Raffel et al. 2020, arXiv 1910.10683, section 2.2); thresholds are settings.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

# -- normalisation ----------------------------------------------------------------------------------------------------

_NEWLINES = re.compile(r"\r\n?|[\x85\u2028\u2029\x0b\x0c]")
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f"  # control characters but tab and newline
    "\u00ad\u180e\u200b\u2060\ufeff"  # zero width
    "\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # direction marks, which can make text read other than it is
)
# Joiners mean something between letters of Persian, Indic scripts and in emoji, and nothing next to ASCII.
_STRAY_JOINER = re.compile("(?:(?<=[\x00-\x7f])|^)[\u200c\u200d]+|[\u200c\u200d]+(?=[\x00-\x7f]|$)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_BLANK_RUN = re.compile(r"(?<=\S)[ \t]+")
_LINE_END_BLANKS = re.compile(r"[ \t]+$", re.MULTILINE)
_NEWLINE_RUN = re.compile(r"\n{3,}")


def normalise(text: str) -> str:
    """NFC, ``\\n`` as the newline, no control or invisible characters, single blanks, at most one empty line in a row.

    Indentation stays. Idempotent. Lone surrogates, which UTF-8 cannot hold, become U+FFFD.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", _BLANKS.sub(" ", _SURROGATE.sub("\ufffd", text)))
    text = _REMOVED.sub("", _NEWLINES.sub("\n", text))
    if "\u200c" in text or "\u200d" in text:
        text = _STRAY_JOINER.sub("", text)
    # What stood between two marks that compose may have gone: compose once more.
    text = text if text.isascii() else unicodedata.normalize("NFC", text)
    text = _LINE_END_BLANKS.sub("", _BLANK_RUN.sub(" ", text))
    return _NEWLINE_RUN.sub("\n\n", text).strip("\n").rstrip()


# -- quality ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds; names and defaults after Gopher where it has them."""

    min_words: int = (
        20  # Gopher: 50, for web pages; a corpus of a few megabytes has short documents that are worth having
    )
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


def quality_reason(text: str, config: QualityConfig, english: bool = True) -> str:
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
    if english and len(_STOP_WORDS.intersection(map(str.lower, words))) < config.min_stop_words:
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


# -- language ---------------------------------------------------------------------------------------------------------

LANGUAGE_SAMPLE_CHARS = 600  # a fifth of a millisecond a document


@cache
def _identifier() -> Any:
    # A second and some 4 MB; loaded only where a language is asked for.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def check_languages(languages: Sequence[str]) -> None:
    """Raise ValueError for a code that the identifier doesn't know."""
    unknown = sorted(set(languages) - set(_identifier().labels)) if languages else []
    if unknown:
        raise ValueError(
            f"unknown language {', '.join(map(repr, unknown))}; they are ISO 639-1 codes such as en, de, fr"
        )


def language_reason(text: str, languages: Sequence[str]) -> str:
    """Why the language isn't one of those asked for, or an empty string; judged by the first characters.

    langid.py (Lui and Baldwin 2012) in its maintained fork. All of its languages compete: restricted to those asked
    for, it could only ever answer with one of them.
    """
    if not languages or len(text) < 20:
        return ""  # too short to tell, and for the quality rules to judge
    language, _ = _identifier().classify(text[:LANGUAGE_SAMPLE_CHARS])
    return "" if language in languages else f"language {language}"


# -- personal data ----------------------------------------------------------------------------------------------------

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.)+[A-Za-z]{2,24}(?![\w-])")
_CARD = re.compile(
    r"(?<![\d.,-])[2-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d-])|(?<![\d.,-])3\d{3}[ -]?\d{6}[ -]?\d{5}(?![\d-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:+){2,7}[0-9A-Fa-f]{1,4}(?![\w:])")
_PHONE = re.compile(
    r"(?<![\w.,$-])(?:"
    r"\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}"  # international: a plus sign and groups
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[.-]\d{4}"  # North American
    r")(?![\w-]|[.,]\d)"
)


def luhn(digits: str) -> bool:
    """Check digit of payment cards (ISO/IEC 7812-1, annex B): every second digit from the right doubled."""
    total = 0
    for place, char in enumerate(reversed(digits)):
        value = int(char) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_card(found: str) -> bool:
    digits = re.sub(r"\D", "", found)
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and luhn(digits)


def _is_address(found: str) -> bool:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return True


def _is_phone(found: str) -> bool:
    return 8 <= sum(map(str.isdigit, found)) <= 15  # at most 15: ITU-T E.164


# Kind, a cheap search that says whether the text is worth the careful one, that pattern, and its check.
_PERSONAL: tuple[tuple[str, re.Pattern[str], re.Pattern[str], Callable[[str], bool]], ...] = (
    ("email", re.compile("@"), _EMAIL, lambda found: True),
    ("card", re.compile(r"\d{4}[ -]?\d{4}[ -]?\d|\d{4}[ -]?\d{6}"), _CARD, _is_card),
    ("ip", re.compile(r"\.\d{1,3}\.\d"), _IPV4, _is_address),
    ("ip", re.compile(r":[0-9A-Fa-f]{0,4}:"), _IPV6, _is_address),
    ("phone", re.compile(r"\+\d|\d{3}[.-]\d{4}"), _PHONE, _is_phone),
)


def mask_personal(text: str) -> tuple[str, dict[str, int]]:
    """Replace e-mail addresses, card numbers (Luhn holds), IP addresses and phone numbers by ``[EMAIL]`` and the like.

    Returns the text and how many of each kind were masked. Numbers that don't pass their own check stay.
    """
    counts: dict[str, int] = {}

    for kind, hint, pattern, holds in _PERSONAL:
        if not hint.search(text):
            continue

        def replace(match: re.Match[str], kind: str = kind, holds: Callable[[str], bool] = holds) -> str:
            if not holds(match.group()):
                return match.group()
            counts[kind] = counts.get(kind, 0) + 1
            return f"[{kind.upper()}]"

        text = pattern.sub(replace, text)
    return text, counts
